//! The process that holds a running container, as lxc's monitor does; for a simulated one only, but
//! for the hooks.
//!
//! It has the command socket, one child that stands for the guest's init, and runs the hooks:
//! before the start it checks what the real pre-start hook would fail of, after the stop it runs
//! the post-stop hook, and only then lets go of the socket.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use pctd_core::conf::{Conf, IdLine};
use pctd_core::idmap::{IdKind, IdRange};
use pctd_core::ids::Ctid;
use rustix::process::{Pid, Signal, kill_process};

use crate::context::{Context, check_lock};
use crate::id_maps;
use crate::launch::{FAILED, READY};
use crate::mounting::{self, Site};
use crate::output::{Die, Streams};
use crate::paths::Root;
use crate::pct::post_stop;
use crate::running::{self, Mounted, Word};
use crate::settings::{Guest, Settings};

/// How often is looked whether the node still exists: a test may remove it with all containers
/// running.
const NODE_CHECK: Duration = Duration::from_millis(500);

/// How long `unshare` may take to make its namespace.
const UNSHARE_PATIENCE: Duration = Duration::from_secs(5);

/// Holds a container until it stops; `arguments` are the root, the id, and `skiplock` or nothing.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let [root, id, skiplock] = arguments else { return ExitCode::from(2) };
    let root = Root::new(root);
    let Some(ctid) = id.to_str().and_then(|id| id.parse::<Ctid>().ok()) else {
        return ExitCode::from(2);
    };
    match hold(&root, ctid, skiplock == "skiplock") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lxc-start: {ctid}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the `pct` that waits how the start went.
fn answer(word: &str) {
    // It may have been killed meanwhile; the container does not care.
    let _ = writeln!(io::stdout(), "{word}").and_then(|()| io::stdout().flush());
}

/// The guest's init.
struct Init {
    process: Child,
    /// What it does when told to halt, unless the settings say otherwise.
    guest: Guest,
}

fn hold(root: &Root, ctid: Ctid, skiplock: bool) -> Result<(), String> {
    // A session of its own: what stops the terminal of a `pct` does not stop its container.
    rustix::process::setsid().map_err(|error| error.to_string())?;
    let id = ctid.to_string();
    let listener = running::address(root, &id)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|error| error.to_string())?;
    let mut cx =
        Context::new(root.clone(), Streams::new(true)).map_err(|error| error.to_string())?;
    std::thread::sleep(Duration::from_millis(cx.settings.timings.start_ms));
    let started = pre_start(&mut cx, ctid, skiplock).and_then(|(map, mounts, guest)| {
        running::set_mounts(root, &id, &mounts).map_err(|error| error.to_string())?;
        let process = start_init(&map).map_err(|error| error.to_string())?;
        Ok(Init { process, guest })
    });
    let mut init = match started {
        Ok(init) => init,
        Err(error) => {
            eprintln!("{}", error.trim_end());
            let late = cx.settings.timings.failed_start_hook_ms;
            if late == 0 {
                end(&mut cx, ctid);
            }
            // Who hears the answer shall find the container stopped.
            drop(listener);
            answer(FAILED);
            if late > 0 {
                std::thread::sleep(Duration::from_millis(late));
                end(&mut cx, ctid);
            }
            return Err("the container did not start".into());
        }
    };
    let pid = Pid::from_child(&init.process);
    let settings = root.settings();
    std::thread::spawn(move || {
        while settings.exists() {
            std::thread::sleep(NODE_CHECK);
        }
        kill(pid);
    });
    let (node, name) = (root.clone(), id.clone());
    let guest = init.guest;
    std::thread::spawn(move || listen(&listener, &node, &name, pid, guest));
    answer(READY);
    init.process.wait().map_err(|error| error.to_string())?;
    if root.settings().exists() {
        let stop = Settings::load(root).map_or(0, |settings| settings.timings.stop_ms);
        std::thread::sleep(Duration::from_millis(stop));
        end(&mut cx, ctid);
    }
    // The socket goes with the process.
    Ok(())
}

/// Cleans up after a container: the post-stop hook.
pub(crate) fn end(cx: &mut Context, ctid: Ctid) {
    running::clear_mounts(&cx.root, &ctid.to_string());
    if let Err(die) = post_stop(cx, ctid) {
        eprint!("{}", die.render(""));
    }
}

fn kill(pid: Pid) {
    // It may be gone already; its pid cannot be another's before it is waited for.
    let _ = kill_process(pid, Signal::KILL);
}

/// Answers the command socket: each connection may say words, and stays open until the end.
fn listen(listener: &UnixListener, root: &Root, id: &str, pid: Pid, guest: Guest) {
    for stream in listener.incoming().flatten() {
        let (root, id) = (root.clone(), id.to_owned());
        std::thread::spawn(move || serve(stream, &root, &id, pid, guest));
    }
}

fn serve(stream: UnixStream, root: &Root, id: &str, pid: Pid, guest: Guest) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
        match line.trim() {
            word if word == Word::Kill.text() => kill(pid),
            word if word == Word::Halt.text() => {
                let guests =
                    Settings::load(root).map(|settings| settings.guests).unwrap_or_default();
                match guests.get(id).copied().unwrap_or(guest) {
                    Guest::Obedient => kill(pid),
                    Guest::Slow(millis) => {
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_millis(millis));
                            kill(pid);
                        });
                    }
                    Guest::Deaf => {}
                }
            }
            _ => {}
        }
        line.clear();
    }
    // The peer only went away; the connection of one that waits is open until the process ends.
}

/// Checks what the start would fail of, and returns the id map, the mounts and the kind of guest
/// (lxc-pve-prestart-hook, `newuidmap`, lxc).
pub(crate) fn pre_start(
    cx: &mut Context,
    ctid: Ctid,
    skiplock: bool,
) -> Result<(Vec<IdRange>, Vec<Mounted>, Guest), String> {
    let conf = cx.load(ctid).map_err(|die| die.render(""))?;
    if !skiplock && conf.lock().is_none_or(|lock| lock != "mounted") {
        check_lock(&conf).map_err(|die: Die| die.render(""))?;
    }
    let map = id_map(&conf)?;
    let site = Site { root: &cx.root, storages: cx.storages(), own: &map };
    let mut mounts = Vec::new();
    for (name, mount) in conf.current.volumes() {
        let mut warnings = String::new();
        let mounted = site.mount(&name, mount, &mut warnings);
        eprint!("{warnings}");
        mounts.extend(mounted?);
    }
    // Where LXC runs it, that judges.
    let judged_by = (!cx.settings.real_containers).then_some(map.as_slice());
    mounts.extend(mounting::raw_entries(&cx.root, judged_by, &conf.current)?);
    if !map.is_empty() {
        id_maps::install(&cx.root, &map).map_err(|refused| refused.output + &refused.error)?;
    }
    // A program that is no init knows nothing of the halt signal, and as the first process of
    // its namespace it is not ended by one it does not handle (pid_namespaces(7)).
    let is_init = conf.current.get("entrypoint").is_none_or(|command| command == "/sbin/init");
    Ok((map, mounts, if is_init { Guest::Obedient } else { Guest::Deaf }))
}

fn id_map(conf: &Conf) -> Result<Vec<IdRange>, String> {
    let lines = conf.current.idmap_lines().map_err(|error| error.to_string())?;
    Ok(lines.iter().map(IdLine::range).collect())
}

/// Starts the process that stands for the guest's init, in a user namespace with the map.
///
/// Where the machine does not permit one, it runs without and says so.
fn start_init(map: &[IdRange]) -> io::Result<Child> {
    let sleep = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
    };
    if map.is_empty() {
        return sleep("sleep", &["infinity"]);
    }
    let mut init = sleep("unshare", &["--user", "sleep", "infinity"])?;
    match enter_map(&mut init, map) {
        Ok(()) => Ok(init),
        Err(error) => {
            eprintln!("no user namespace ({error}): init runs with the ids of the host");
            // Both fail only where it ended by itself.
            let _ = init.kill();
            let _ = init.wait();
            sleep("sleep", &["infinity"])
        }
    }
}

fn enter_map(init: &mut Child, map: &[IdRange]) -> io::Result<()> {
    let own = fs::read_link("/proc/self/ns/user")?;
    let proc = Path::new("/proc").join(init.id().to_string());
    let deadline = Instant::now() + UNSHARE_PATIENCE;
    while fs::read_link(proc.join("ns/user"))? == own {
        if init.try_wait()?.is_some() {
            return Err(io::Error::other("unshare failed"));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // The kernel takes a map in one write only (user_namespaces(7)).
    for (kind, name) in [(IdKind::Group, "gid_map"), (IdKind::User, "uid_map")] {
        let lines: Vec<String> = map
            .iter()
            .filter(|range| range.kind == kind)
            .map(|range| format!("{} {} {}\n", range.container, range.host, range.count))
            .collect();
        fs::write(proc.join(name), lines.concat())?;
    }
    Ok(())
}
