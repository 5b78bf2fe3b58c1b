//! `vzdump` of one container (`PVE::CLI::vzdump`, `PVE::VZDump`, `PVE::VZDump::LXC`).
//!
//! All it does is a task, whose words come out on stdout; only its last ones go to stderr. The
//! container has `lock: backup` meanwhile.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pctd_core::conf::{Conf, MountClass, Pending};
use pctd_core::ids::Ctid;

use crate::archive;
use crate::context::Context;
use crate::faults::Point;
use crate::output::{Die, Output};
use crate::pct::{Manner, checked_start, vm_stop};
use crate::perl::from_file;

/// How long a guest may take to halt (`stopwait`, in minutes).
const STOP_WAIT: u64 = 10;

/// The options the model knows, each with a value.
const OPTIONS: [&str; 6] = ["compress", "mode", "protected", "remove", "stdexcludes", "storage"];

/// What is asked for.
struct Job {
    ctid: Ctid,
    storage: String,
    is_protected: bool,
}

/// Runs `vzdump` with these arguments.
pub(crate) fn run(mut cx: Context, arguments: &[String]) -> Output {
    let job = match parse(arguments) {
        Ok(job) => job,
        Err(complaint) => {
            cx.streams.error(&format!("{complaint}400 unable to parse option\n"));
            return cx.streams.finish(255);
        }
    };
    cx.streams.enter_task(true);
    cx.streams.print(&format!("INFO: starting new backup job: vzdump {}\n", arguments.join(" ")));
    cx.streams.print(&format!("INFO: Starting Backup of VM {} (lxc)\n", job.ctid));
    let result = back_up(&mut cx, &job);
    let exit = match result {
        Ok(()) => {
            cx.streams.print(&format!("INFO: Finished Backup of VM {} (00:00:00)\n", job.ctid));
            cx.streams.print("INFO: Backup job finished successfully\n");
            0
        }
        Err(die) => {
            let why = die.folded();
            cx.streams.print(&format!("ERROR: Backup of VM {} failed - {why}", job.ctid));
            cx.streams.print("INFO: Backup job finished with errors\n");
            cx.streams.enter_task(false);
            cx.streams.error("job errors\n");
            255
        }
    };
    cx.streams.finish(exit)
}

fn parse(arguments: &[String]) -> Result<Job, String> {
    let (mut ctid, mut storage, mut is_protected) = (None, "local".to_owned(), false);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            ctid = word.parse().ok();
            continue;
        };
        let value = words.next().ok_or_else(|| format!("Option {name} requires an argument\n"))?;
        match name {
            "storage" => storage.clone_from(value),
            "protected" => is_protected = value == "1",
            _ if OPTIONS.contains(&name) => {}
            _ => return Err(format!("Unknown option: {name}\n")),
        }
    }
    let ctid = ctid.ok_or("no VM specified\n")?;
    Ok(Job { ctid, storage, is_protected })
}

fn back_up(cx: &mut Context, job: &Job) -> Result<(), Die> {
    let ctid = job.ctid;
    let dir = cx.storages().dump_dir(&job.storage)?;
    if cx.pmxcfs.owner(&ctid.to_string()).is_none() {
        return Err(Die::new(format!("unable to find VM '{ctid}'\n")));
    }
    let runs = cx.is_running(ctid);
    let status = if runs { "running" } else { "stopped" };
    cx.streams.print(&format!("INFO: status = {status}\nINFO: backup mode: stop\n"));
    let conf = cx.set_lock(ctid, "backup")?;
    if runs {
        cx.streams.print("INFO: stopping virtual guest\n");
        vm_stop(cx, ctid, Manner::HaltThenKill(Some(STOP_WAIT * 60)))?;
    }
    let made = archive(cx, job, &conf, &dir);
    let unlocked = cx.remove_lock(ctid, Some("backup"));
    if runs {
        cx.streams.print("INFO: restarting vm\n");
        cx.locked(ctid, |cx| checked_start(cx, ctid, false))?;
    }
    made.and(unlocked)
}

fn archive(cx: &mut Context, job: &Job, conf: &Conf, dir: &str) -> Result<(), Die> {
    for (name, mount) in conf.current.volumes() {
        let target = if name == "rootfs" { "/".into() } else { from_file(&mount.target) };
        let is_in = name == "rootfs" || mount.is_on("backup");
        let volume = from_file(&mount.volume);
        if mount.class == MountClass::Volume && is_in && !cx.storages().exists(&volume) {
            return Err(Die::new(format!("volume '{volume}' does not exist\n")));
        }
        let said = match mount.class {
            MountClass::Volume if is_in && !cx.fails_at(Point::LeaveOut) => {
                format!("including mount point {name} ('{target}') in backup")
            }
            MountClass::Volume => {
                format!("excluding volume mount point {name} ('{target}') from backup (disabled)")
            }
            class => format!(
                "excluding {} mount point {name} ('{target}') from backup (not a volume)",
                class.as_str()
            ),
        };
        cx.streams.print(&format!("INFO: {said}\n"));
    }
    let mut kept = conf.clone();
    kept.snapshots.clear();
    kept.pending = Pending::default();
    for name in ["lock", "parent"] {
        kept.current.remove(name);
    }
    let text = kept.rewritten().map_err(|error| Die::new(format!("{error}\n")))?;
    let name = free_name(cx, job.ctid, dir);
    let (path, real) = (format!("{dir}/{name}"), cx.root.host(&format!("{dir}/{name}")));
    cx.streams.print(&format!("INFO: creating vzdump archive '{path}'\n"));
    let unfinished = real.with_extension("dat");
    let packed = cx
        .pass(cx.settings.timings.vzdump_ms)
        .and_then(|()| cx.reach(Point::Dump))
        .and_then(|()| {
            archive::pack(&cx.root, conf, &text, &unfinished)
                .map_err(|error| Die::new(format!("command 'tar cpf - ...' failed: {error}\n")))
        });
    if let Err(die) = packed {
        // Nothing of a failed backup stays.
        let _ = fs::remove_file(&unfinished);
        return Err(die);
    }
    let failed = |error: std::io::Error| Die::new(format!("unable to rename: {error}\n"));
    fs::rename(&unfinished, &real).map_err(failed)?;
    if job.is_protected {
        fs::write(real.with_file_name(format!("{name}.protected")), "").map_err(failed)?;
    }
    if cx.fails_at(Point::Truncate) {
        let bytes = fs::metadata(&real).map_err(failed)?.len();
        let file = fs::OpenOptions::new().write(true).open(&real).map_err(failed)?;
        file.set_len(bytes / 2).map_err(failed)?;
    }
    Ok(())
}

/// Returns the name of a new archive; a real one takes longer than the second that tells them apart.
fn free_name(cx: &Context, ctid: Ctid, dir: &str) -> String {
    loop {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
        let now = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
        let (hour, minute, second) = (now.hour(), now.minute(), now.second());
        let name = format!(
            "vzdump-lxc-{ctid}-{year:04}_{month:02}_{day:02}-{hour:02}_{minute:02}_{second:02}.tar.zst"
        );
        if !cx.root.host(&format!("{dir}/{name}")).exists() {
            return name;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
