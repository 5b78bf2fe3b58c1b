//! Following the status, by the socket and on a terminal.

use std::fs::File;
use std::io::Read as _;

use super::*;

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
