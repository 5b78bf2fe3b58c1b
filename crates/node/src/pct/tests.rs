use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::*;

/// Long enough for a shell to start on a busy machine.
const AMPLE: Duration = Duration::from_secs(30);

/// A `pct` that is this shell script.
fn pct(script: &str, timeout: Duration) -> (tempfile::TempDir, Pct) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("pct");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).mode(0o755).open(&program).unwrap();
    io::Write::write_all(&mut &file, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
    (dir, Pct { grace: Duration::from_millis(200), ..Pct::new(program, timeout) })
}

fn set(pct: &Pct) -> Result<(), PctError> {
    // A fork in another test may hold a copy of the script's fd for a moment (ETXTBSY).
    loop {
        let result = pct.set_mount(Ctid::new(100).unwrap(), MpKey::new(2), "/a b,mp=/c", "abc");
        match result {
            Err(e) if e.message.contains("Text file busy") => {}
            result => return result,
        }
    }
}

#[test]
fn a_mount_is_removed_with_its_digest() {
    for (what, option) in [(RemoveWhat::Mount, "--delete"), (RemoveWhat::Pending, "--revert")] {
        let (dir, pct) = pct(r#"printf '%s\n' "$@" >"${0%/*}/said""#, AMPLE);
        let ctid = Ctid::new(100).unwrap();
        assert_eq!(pct.remove_mount(ctid, MpKey::new(2), what, "abc"), Ok(()));
        let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(said, format!("set\n100\n{option}\nmp2\n--digest\nabc\n"));
    }
}

#[test]
fn a_mount_is_set_with_its_digest_in_a_clean_environment() {
    let (dir, pct) = pct(r#"printf '%s\n' "$@" "$LC_ALL" "$PATH" "$HOME" >"${0%/*}/said""#, AMPLE);
    assert_eq!(set(&pct), Ok(()));
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    assert_eq!(said, format!("set\n100\n--mp2\n/a b,mp=/c\n--digest\nabc\nC.UTF-8\n{PATH}\n\n"));
}

#[test]
fn failures_are_classified_by_what_they_say() {
    for (stderr, class, message) in [
        (
            "detected modified configuration - file changed by other user? Try again.",
            PctClass::Conflict,
            None,
        ),
        (
            "trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout",
            PctClass::Locked,
            Some("can't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout"),
        ),
        ("CT is locked (backup)", PctClass::Locked, None),
        ("cluster not ready - no quorum?", PctClass::NoQuorum, None),
        (
            "trying to acquire lock...\n OK\nunable to open file '/etc/pve/nodes/a/lxc/100.conf.tmp.1' - Permission denied",
            PctClass::NoQuorum,
            Some("unable to open file '/etc/pve/nodes/a/lxc/100.conf.tmp.1' - Permission denied"),
        ),
        (
            "400 Parameter verification failed.\nmp2: unable to hotplug mp2: directory '/a' does not exist\npct set <vmid>",
            PctClass::Failed,
            Some(
                "400 Parameter verification failed. mp2: unable to hotplug mp2: directory '/a' does not exist",
            ),
        ),
        ("", PctClass::Failed, Some("said nothing on stderr")),
    ] {
        assert_eq!(classify(stderr), class, "{stderr}");
        assert_eq!(summary(stderr), message.unwrap_or(stderr));
    }
}

#[test]
fn an_exit_code_and_the_first_line_are_reported() {
    let (_dir, pct) = pct("echo noise; echo 'no such thing' >&2; echo more >&2; exit 255", AMPLE);
    let error = set(&pct).unwrap_err();
    assert_eq!(error.exit, Exit::Code(255));
    assert_eq!(error.message, "no such thing");
    assert_eq!(error.class, PctClass::Failed);
    assert!(error.argv.ends_with("set 100 --mp2 /a b,mp=/c --digest abc"), "{}", error.argv);
}

#[test]
fn a_missing_program_is_a_spawn_error() {
    let error = set(&Pct::new("/nonexistent/pct", AMPLE)).unwrap_err();
    assert_eq!((error.exit, error.class), (Exit::NotStarted, PctClass::Spawn));
}

#[test]
fn much_output_neither_blocks_it_nor_is_kept() {
    let script = "yes 0123456789 | head -c 1000000; yes 0123456789 | head -c 1000000 >&2; exit 3";
    let (_dir, pct) = pct(script, AMPLE);
    let error = set(&pct).unwrap_err();
    assert_eq!((error.exit, error.message.as_str()), (Exit::Code(3), "0123456789"));
}

#[test]
fn a_call_that_takes_too_long_is_terminated() {
    let (_dir, pct) = pct("echo waiting >&2; sleep 60", Duration::from_millis(300));
    let error = set(&pct).unwrap_err();
    assert_eq!((error.exit, error.class), (Exit::Signal(15), PctClass::Timeout));
}

#[test]
fn a_call_that_ignores_that_is_left_to_end_by_itself_and_never_killed() {
    let script = "trap '' TERM; echo $$ >${0%/*}/pid; i=0; while [ $i -lt 30 ]; do sleep 0.1; i=$((i+1)); done";
    let (dir, pct) = pct(script, Duration::from_millis(200));
    let error = set(&pct).unwrap_err();
    assert_eq!((error.exit, error.class), (Exit::Stuck, PctClass::Timeout));
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
    assert!(!stat.contains(") Z "), "it was killed: {stat}");
}

#[test]
fn a_grandchild_that_keeps_the_streams_open_is_not_waited_for() {
    let started = Instant::now();
    let (dir, pct) = pct("sleep 5 & echo $! >${0%/*}/child; exit 0", AMPLE);
    assert_eq!(set(&pct), Ok(()));
    assert!(started.elapsed() < Duration::from_secs(4));
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    let pid = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_reboot_gets_at_least_a_second_and_is_never_signalled() {
    let script = "trap 'exit 9' TERM; sleep 0.5; echo \"$*\" >${0%/*}/said";
    let (dir, pct) = pct(script, Duration::from_millis(50));
    for (timeout, seconds) in [(Duration::ZERO, "1"), (Duration::from_millis(1500), "2")] {
        assert_eq!(pct.reboot(Ctid::new(100).unwrap(), timeout), Ok(()));
        let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(said, format!("reboot 100 --timeout {seconds}\n"));
    }
}

/// A clone and its limits.
fn clone(pct: &Pct, limits: Limits<'_>) -> Result<(), PctError> {
    let clone = CloneContainer {
        from: Ctid::new(900).unwrap(),
        snapshot: Some("base".to_owned()),
        hostname: Some("web".to_owned()),
        storage: Some("quick".to_owned()),
    };
    loop {
        match pct.clone_container(Ctid::new(901).unwrap(), &clone, limits) {
            Err(e) if e.message.contains("Text file busy") => {}
            result => return result,
        }
    }
}

#[test]
fn containers_are_made_and_configured_with_one_word_for_each_value() {
    let script = r#"printf '%s|' "$@" >>"${0%/*}/said""#;
    let (dir, pct) = pct(script, AMPLE);
    let stop = AtomicBool::new(false);
    let limits = Limits::new(AMPLE, &stop);
    assert_eq!(clone(&pct, limits), Ok(()));
    let set = [("hostname".to_owned(), "a b".to_owned())].into();
    let create = CreateContainer {
        template: "/t.tar".to_owned(),
        unprivileged: false,
        rootfs: Some("quick:8".to_owned()),
        storage: None,
        set,
    };
    assert_eq!(pct.create(Ctid::new(100).unwrap(), &create, limits), Ok(()));
    let configure = ConfigureContainer {
        set: [("cores".to_owned(), "2".to_owned())].into(),
        delete: vec!["net0".to_owned(), "onboot".to_owned()],
        finishes: None,
    };
    assert_eq!(pct.configure(Ctid::new(100).unwrap(), &configure, "abc"), Ok(()));
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    assert_eq!(
        said,
        "clone|900|901|--hostname|web|--snapname|base|--full|1|--storage|quick|\
         create|100|/t.tar|--rootfs|quick:8|--unprivileged|0|--hostname|a b|\
         set|100|--cores|2|--delete|net0,onboot|--digest|abc|"
    );
}

#[test]
fn what_makes_a_container_is_told_to_end_when_pctd_stops_and_may_clean_up() {
    let script = "trap 'sleep 0.5; echo cleaned >${0%/*}/said; exit 255' TERM; touch ${0%/*}/begun; sleep 60 & wait";
    let (dir, pct) = pct(script, AMPLE);
    let stop = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        let running = scope.spawn(|| clone(&pct, Limits::new(AMPLE, &stop)));
        while !dir.path().join("begun").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        running.join().unwrap().unwrap_err()
    });
    // Longer than the grace of other calls here.
    assert_eq!((error.exit, error.class), (Exit::Code(255), PctClass::Timeout));
    assert_eq!(std::fs::read_to_string(dir.path().join("said")).unwrap(), "cleaned\n");
}

#[test]
fn a_call_is_in_a_process_group_of_its_own() {
    let (dir, pct) =
        pct("read -r a b c d group rest </proc/$$/stat; echo $group $$ >${0%/*}/said", AMPLE);
    assert_eq!(set(&pct), Ok(()));
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    let (group, pid) = said.trim().split_once(' ').unwrap();
    assert_eq!(group, pid);
}
