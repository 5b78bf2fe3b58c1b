//! The daemon's socket, and clients that mean it no good: none of them changes anything unless it
//! is root, holds anything up, or leaves anything behind.

#![expect(clippy::unwrap_used, reason = "a test whose node cannot be made ends")]

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::{Daemon, PATIENCE, eventually, states};
use pctd_tests::world::{UNPRIVILEGED, World};
use rustix::fs::{Gid, Uid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde_json::Value;

const STATUS: &[u8] = b"{\"version\":1,\"op\":\"status\"}\n";
const RECONCILE: &[u8] = b"{\"version\":1,\"op\":\"reconcile\",\"confirm\":true}\n";
const FOLLOW: &[u8] = b"{\"version\":1,\"op\":\"status\",\"follow\":true}\n";

const DATA: &str =
    r#""data": {"host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}"#;

/// A group that nobody has.
const GROUP: u32 = 4711;
const GUEST: u32 = 4712;
const OTHER_GUEST: u32 = 4713;

/// Places for clients of root's, and for all others; each is a descriptor.
const CLIENTS: usize = 64 + 16;
/// Of the latter, for those of one user.
const GUESTS_OF_ONE: usize = 8;

fn world() -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    world.volumes("", DATA);
    Some(world)
}

fn socket(world: &World) -> PathBuf {
    world.host("/run/pctd/pctd.sock")
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs something as [`GUEST`], who is in one group.
fn as_guest<T: Send + 'static>(gid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    as_user(GUEST, gid, work)
}

/// Runs something as another user, who is in one group.
fn as_user<T: Send + 'static>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let guest = move || {
        // Of this thread alone, which ends with it.
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(gid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        work()
    };
    thread::spawn(guest).join().unwrap()
}

/// Sends these bytes and returns the line that comes back; empty where the connection ends.
fn ask(stream: UnixStream, bytes: &[u8]) -> String {
    // The daemon may have said what it thinks of them before they are all sent.
    let _cut = (&stream).write_all(bytes);
    line(&mut BufReader::new(stream))
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut answer = String::new();
    match reader.read_line(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("no answer: {error}"),
    }
}

fn error_of(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer:?}"));
    answer["error"].as_str().unwrap_or_default().to_owned()
}

/// What the daemon holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    fds: usize,
    kib: u64,
}

fn held(daemon: &Daemon) -> Held {
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = rss.trim().trim_end_matches(" kB").parse().unwrap();
    Held { fds: fs::read_dir(proc.join("fd")).unwrap().count(), kib }
}

/// Waits until the daemon has no more open than before.
fn assert_let_go(daemon: &Daemon, before: Held) {
    let mut now = held(daemon);
    let begun = Instant::now();
    while now.fds > before.fds {
        assert!(begun.elapsed() < PATIENCE, "still {now:?}, before {before:?}");
        thread::sleep(Duration::from_millis(20));
        now = held(daemon);
    }
}

#[test]
fn the_group_of_the_settings_may_look_and_only_root_may_change() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    let mode =
        |path: &Path| fs::metadata(path).map(|s| (s.uid(), s.gid(), s.mode() & 0o777)).unwrap();
    let refused = |gid| {
        let path = socket.clone();
        as_guest(gid, move || UnixStream::connect(path).unwrap_err().kind())
    };
    assert_eq!(mode(&socket), (0, 0, 0o600));
    assert_eq!(refused(GROUP), io::ErrorKind::PermissionDenied);

    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    eventually("the group is admitted", || mode(&socket) == (0, GROUP, 0o660));
    assert_eq!(refused(GUEST), io::ErrorKind::PermissionDenied);
    let asked = |request: &'static [u8]| {
        let path = socket.clone();
        as_guest(GROUP, move || ask(connect(&path), request))
    };
    let status: Value = serde_json::from_str(&asked(STATUS)).unwrap();
    assert_eq!(status["volumes"]["data"]["state"], "Converged", "{status:#}");
    let calls = world.calls();
    let refusal = "only root may change anything; uid 4712 may ask for the status";
    assert_eq!(error_of(&asked(RECONCILE)), refusal);
    assert_eq!(world.calls(), calls);
    // Whatever the mode of the socket: who connected decides.
    rustix::fs::chmod(&socket, 0o666.into()).unwrap();
    let path = socket.clone();
    assert_eq!(error_of(&as_guest(GUEST, move || ask(connect(&path), RECONCILE))), refusal);
    let root: Value = serde_json::from_str(&ask(connect(&socket), RECONCILE)).unwrap();
    assert_eq!(root["summary"]["holds"], 0, "{root:#}");

    world.volumes(r#""status_group": "no-such-group""#, DATA);
    eventually("nobody is admitted", || mode(&socket) == (0, 0, 0o600));
    eventually("and it is said", || daemon.log().contains("there is no group no-such-group"));
    assert_eq!(refused(GROUP), io::ErrorKind::PermissionDenied);
    daemon.stop();
}

#[test]
fn a_group_that_is_made_later_is_admitted_at_a_reload_and_at_the_resync() {
    let Some(world) = world() else { return };
    let setting = |group: &str, resync: &str| {
        let settings = format!(r#""status_group": "{group}", "resync_interval": "{resync}""#);
        world.volumes(&settings, DATA);
    };
    let socket = socket(&world);
    let group_and_mode = || fs::metadata(&socket).map(|s| (s.gid(), s.mode() & 0o777)).unwrap();
    let make = |group: &str, gid: u32| {
        let path = world.host("/etc/group");
        let groups = pctd_tests::daemon::text(&path);
        fs::write(path, format!("{groups}{group}:x:{gid}:\n")).unwrap();
    };
    setting("soon", "1h");
    let daemon = world.pctd.start();
    eventually("it is said", || daemon.log().contains("there is no group soon"));
    make("soon", GROUP);
    daemon.signal(rustix::process::Signal::HUP);
    eventually("it is admitted", || group_and_mode() == (GROUP, 0o660));

    setting("later", "10s");
    eventually("it is said", || daemon.log().contains("there is no group later"));
    assert_eq!(group_and_mode(), (0, 0o600));
    // Nobody says that it is there now.
    make("later", GROUP + 1);
    eventually("it is admitted", || group_and_mode() == (GROUP + 1, 0o660));
    // As it is back, so is the first.
    setting("none", "1h");
    eventually("it is said", || daemon.log().contains("there is no group none"));
    setting("later", "10s");
    eventually("it is admitted again", || group_and_mode() == (GROUP + 1, 0o660));
    daemon.stop();
}

#[test]
fn one_user_who_follows_with_all_he_has_keeps_no_other_out() {
    let Some(world) = world() else { return };
    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    eventually("guests are admitted", || fs::metadata(&socket).unwrap().gid() == GROUP);
    let before = held(&daemon);
    let path = socket.clone();
    let answers = as_guest(GROUP, move || {
        let streams: Vec<_> = (0..20).map(|_| connect(&path)).collect();
        let follow = |stream: UnixStream| {
            let _closed = (&stream).write_all(FOLLOW);
            let mut reader = BufReader::new(stream);
            (line(&mut reader), reader)
        };
        streams.into_iter().map(follow).collect::<Vec<_>>()
    });
    let followed = answers.iter().filter(|(answer, _)| answer.contains("\"Converged\"")).count();
    assert_eq!(followed, GUESTS_OF_ONE);
    for (answer, _) in answers.iter().filter(|(answer, _)| !answer.contains("\"Converged\"")) {
        assert_eq!(error_of(answer), "too many clients; try again");
    }
    let path = socket.clone();
    let answer = as_user(OTHER_GUEST, GROUP, move || ask(connect(&path), STATUS));
    assert!(answer.contains("\"Converged\""), "{answer}");
    // A place that is left is the user's again.
    drop(answers);
    assert_let_go(&daemon, before);
    let asks = || {
        let path = socket.clone();
        as_guest(GROUP, move || ask(connect(&path), STATUS))
    };
    eventually("he is answered", || asks().contains("\"Converged\""));
    daemon.stop();
}

#[test]
fn whatever_is_no_request_gets_its_answer_and_the_daemon_goes_on() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    let before = held(&daemon);
    let deep = [b"{\"version\":1,\"op\":".as_slice(), &b"[".repeat(100_000), b"\n"].concat();
    let many = format!(
        "{{\"version\":1,\"op\":\"status\",\"keys\":[\"a{}\"]}}\n",
        "\",\"a".repeat(50_000)
    );
    let garbage: [&[u8]; 9] = [
        b"\n",
        b"garbage\n",
        b"\xff\xfe\x00\x01\n",
        b"\0\0\0\0\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"version\":1}\n",
        b"{\"version\":18446744073709551616,\"op\":\"status\"}\n",
        &deep,
        "{\"version\":1,\"op\":\"\u{202e}status\"}\n".as_bytes(),
    ];
    for bytes in garbage {
        let error = error_of(&ask(connect(&socket), bytes));
        assert!(error.starts_with("this is no request: "), "{error}");
    }
    let unknown = ask(connect(&socket), many.as_bytes());
    assert_eq!(error_of(&unknown), "a is not in the configuration in force");

    // Half-closed: what was sent counts, and is answered.
    for bytes in [STATUS, STATUS.trim_ascii_end()] {
        let stream = connect(&socket);
        (&stream).write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(line(&mut BufReader::new(stream)).contains("\"Converged\""));
    }
    // Nothing at all, and one that does not stay for the answer.
    let stream = connect(&socket);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(line(&mut BufReader::new(stream)), "");
    for bytes in [STATUS, RECONCILE, FOLLOW, b"{"] {
        connect(&socket).write_all(bytes).unwrap();
    }
    // The first request of a connection is its only one.
    let stream = connect(&socket);
    (&stream).write_all(&[STATUS, RECONCILE].concat()).unwrap();
    let mut all = String::new();
    // What was not read when the daemon closed is a reset to the client.
    let _reset = BufReader::new(stream).read_to_string(&mut all);
    assert_eq!(all.lines().count(), 1, "{all}");

    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn a_line_of_100_mb_is_cut_off_early() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket(&world);
            thread::spawn(move || {
                let stream = connect(&socket);
                let chunk = vec![b'x'; 1 << 20];
                let sent = (0..100).take_while(|_| (&stream).write_all(&chunk).is_ok()).count();
                (sent, line(&mut BufReader::new(stream)))
            })
        })
        .collect();
    for writer in writers {
        let (megabytes, answer) = writer.join().unwrap();
        // What a socket holds, and the longest request.
        assert!(megabytes <= 1, "{megabytes} MB were taken");
        assert_eq!(error_of(&answer), "a request has at most 262144 bytes");
    }
    assert_let_go(&daemon, before);
    let grown = held(&daemon).kib.saturating_sub(before.kib);
    assert!(grown < 16 << 10, "{grown} KiB are kept");
    daemon.stop();
}

#[test]
fn clients_that_say_nothing_or_a_byte_a_second_are_let_go_and_hold_nothing_up() {
    let Some(world) = world() else { return };
    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    eventually("guests are admitted", || fs::metadata(&socket).unwrap().gid() == GROUP);
    let before = held(&daemon);

    // A guest takes every place there is for him, again and again.
    let begun = Instant::now();
    let path = socket.clone();
    let guests = thread::spawn(move || {
        as_guest(GROUP, move || (0..500).map(|_| connect(&path)).collect::<Vec<_>>())
    });
    let silent = guests.join().unwrap();
    let path = socket.clone();
    let dripping = thread::spawn(move || {
        let mut stream = connect(&path);
        let sent = STATUS.iter().take_while(|byte| {
            thread::sleep(Duration::from_secs(1));
            stream.write_all(&[**byte]).is_ok()
        });
        let sent = sent.count();
        (sent, line(&mut BufReader::new(stream)))
    });

    // Meanwhile root is answered, and what it is all for goes on.
    let asked = Instant::now();
    daemon.status();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    world.pct(&["set", "100", "--delete", "mp0"]);
    eventually("the mount is back", || world.conf(100).contains("mp0: /tank/data"));
    assert!(begun.elapsed() < Duration::from_secs(5), "a place was free again too soon");
    assert!(held(&daemon).fds <= before.fds + CLIENTS, "{:?}", held(&daemon));

    let mut turned_away = 0;
    for stream in silent {
        match error_of(&line(&mut BufReader::new(stream))).as_str() {
            "too many clients; try again" => turned_away += 1,
            "no request came within 5 s" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(turned_away, 500 - GUESTS_OF_ONE);
    let (sent, answer) = dripping.join().unwrap();
    assert!((4..=7).contains(&sent), "{sent} bytes were taken");
    assert_eq!(error_of(&answer), "no request came within 5 s");
    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn five_hundred_clients_at_once_are_answered_or_turned_away() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let socket = socket(&world);
    let mut streams: Vec<UnixStream> = (0..500).map(|_| connect(&socket)).collect();
    for stream in &mut streams {
        // Those that were turned away may be closed by now.
        let _closed = stream.write_all(STATUS);
    }
    assert!(held(&daemon).fds <= before.fds + CLIENTS + 1, "{:?}", held(&daemon));
    let (mut answered, mut turned_away) = (0, 0);
    for stream in streams {
        let answer = line(&mut BufReader::new(stream));
        if answer.contains("\"Converged\"") {
            answered += 1;
        } else {
            assert_eq!(error_of(&answer), "too many clients; try again");
            turned_away += 1;
        }
    }
    assert!(answered >= 64 && answered + turned_away == 500, "{answered} + {turned_away}");
    assert_let_go(&daemon, before);
    let grown = held(&daemon).kib.saturating_sub(before.kib);
    assert!(grown < 16 << 10, "{grown} KiB are kept");
    daemon.stop();
}

#[test]
fn descriptors_that_are_passed_along_are_never_received() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let marker = world.host("/tank/marker");
    let file = File::create(&marker).unwrap();
    let fds = [file.as_fd(); 50];
    let pass = |bytes: &[u8]| {
        let stream = connect(&socket(&world));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(50))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
        stream
    };
    let has_marker = || {
        let links = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).any(|to| to == marker)
    };
    for _ in 0..20 {
        let answer = line(&mut BufReader::new(pass(STATUS)));
        assert!(answer.contains("\"Converged\""), "{answer}");
    }
    let waiting: Vec<UnixStream> = (0..20).map(|_| pass(b"{\"version\"")).collect();
    assert!(!has_marker());
    drop(waiting);
    assert_let_go(&daemon, before);
    assert!(!has_marker());
    daemon.stop();
}

#[test]
fn who_asks_for_a_look_and_hangs_up_is_forgotten_before_it_ends() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let fault = FaultKind::Hang { millis: 15_000, holding_flock: false };
    world.node.inject(Fault::next(fault).on("set")).unwrap();
    world.pct(&["set", "100", "--delete", "mp0"]);
    let calls = world.calls().len();
    eventually("pct hangs", || world.calls().len() > calls);
    let begun = Instant::now();
    for _ in 0..40 {
        connect(&socket(&world)).write_all(RECONCILE).unwrap();
    }
    // One that only ended its side waits for the answer.
    let patient = connect(&socket(&world));
    (&patient).write_all(RECONCILE).unwrap();
    patient.shutdown(Shutdown::Write).unwrap();
    eventually("those that hung up are gone", || held(&daemon).fds <= before.fds + 8);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let answer: Value = serde_json::from_str(&line(&mut BufReader::new(patient))).unwrap();
    assert_eq!(answer["version"], 1, "{answer:#}");
    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn who_follows_the_status_is_told_of_changes_and_may_leave() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let stream = connect(&socket(&world));
    (&stream).write_all(FOLLOW).unwrap();
    let mut reader = BufReader::new(stream);
    let mut next = || serde_json::from_str::<Value>(&line(&mut reader)).unwrap();
    assert_eq!(next()["volumes"]["data"]["state"], "Converged");
    world.volumes("", &DATA.replace("/tank/data", "/tank/other"));
    let told = |status: &Value| status["config"]["generation"] == 2;
    let begun = Instant::now();
    while !told(&next()) {
        assert!(begun.elapsed() < PATIENCE, "the change is not told");
    }
    drop(reader);
    assert_let_go(&daemon, before);
    // Of keys that nobody declares there is nothing to follow.
    let unknown = b"{\"version\":1,\"op\":\"status\",\"follow\":true,\"keys\":[\"x\"]}\n";
    let answer = ask(connect(&socket(&world)), unknown);
    assert_eq!(error_of(&answer), "x is not in the configuration in force");
    daemon.stop();
}

#[test]
fn who_does_not_read_what_he_asked_for_is_let_go() {
    let Some(world) = world() else { return };
    // So many absent containers that a status is more than a socket holds.
    let mounts: Vec<String> = (1000..3000).map(|ctid| format!(r#""{ctid}": "/data""#)).collect();
    world.volumes("", &DATA.replace(r#""100": "/data""#, &mounts.join(",")));
    let daemon = world.pctd.start();
    daemon.until("all is looked at", |status| states(status).all(|(_, is)| is != "Unknown"));
    let before = held(&daemon);
    let mut streams: Vec<UnixStream> = (0..10).map(|_| connect(&socket(&world))).collect();
    for stream in &mut streams {
        stream.write_all(STATUS).unwrap();
    }
    let status = daemon.status();
    assert!(status.to_string().len() > 1 << 19, "the status is too small for this test");
    assert!(held(&daemon).fds >= before.fds + 10, "{:?}, before {before:?}", held(&daemon));
    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn a_status_that_is_watched_is_a_table_that_fits_the_terminal_and_ends_cleanly() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let terminal = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&terminal).unwrap();
    let size = rustix::termios::Winsize { ws_row: 10, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap();
    let screen = File::options().write(true).open(name.to_str().unwrap()).unwrap();
    let mut watch = std::process::Command::new(world.host("/usr/sbin/pctd"))
        .arg("--root")
        .arg(world.node.root())
        .args(["status", "--watch"])
        .env("NO_COLOR", "1")
        .stdout(screen)
        .spawn()
        .unwrap();
    let mut terminal = File::from(terminal);
    let mut seen = String::new();
    let mut read_until = |wanted: &str| {
        let mut buffer = [0; 4096];
        while !seen.contains(wanted) {
            let length = terminal.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        std::mem::take(&mut seen)
    };
    let page = read_until("\x1b[J");
    assert!(page.starts_with("\x1b[?1049h\x1b[?25l\x1b[H"), "{page:?}");
    let rows: Vec<&str> = page.rsplit("\x1b[H").next().unwrap().split("\x1b[K").collect();
    assert!(rows.iter().any(|row| row.contains("data  converged")), "{rows:?}");
    assert!(rows.iter().all(|row| row.trim().len() <= 30), "{rows:?}");
    world.volumes("", &DATA.replace("/tank/data", "/tank/other"));
    // The next page.
    read_until("\x1b[J");
    let pid = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    read_until("\x1b[?25h\x1b[?1049l");
    let code = watch.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    daemon.stop();
}
