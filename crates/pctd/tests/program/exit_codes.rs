//! Exit codes: 0 in sync or done, 1 failure, 2 wrong usage, 3 something differs or is held.
//!
//! Results are on standard output and errors on standard error, so that a script can read one and
//! log the other.

use std::fs::File;

use crate::support::{Ran, Root, pctd};

const DONE: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const DIFFERS: Option<i32> = Some(3);

/// Checks a run that fails: nothing is printed but the reason.
#[track_caller]
fn assert_fails(ran: &Ran, reason: &str) {
    assert_eq!((ran.code, ran.stdout.as_str()), (FAILED, ""), "{ran:?}");
    assert!(ran.stderr.starts_with("pctd: ") && ran.stderr.contains(reason), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage:"),
        (&["nonsense"], "unrecognized subcommand 'nonsense'"),
        (&["plan", "--nonsense"], "unexpected argument '--nonsense'"),
        (&["plan", "12"], "`12` is not a container id (100 to 999999999)"),
        (&["inspect"], "<CTID>"),
        (&["doctor"], "<CTID>"),
        (&["inspect", "abc"], "`abc` is not a container id"),
        (&["schema", "nonsense"], "possible values: config, plan, status, inspect, check, doctor"),
        (&["completions", "cmd"], "possible values: bash"),
        (&["-v", "-q", "status"], "cannot be used with"),
    ];
    for (arguments, said) in cases {
        let ran = pctd(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (USAGE, ""), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, said) in [
        (["--help"].as_slice(), "Usage: pctd"),
        (&["plan", "--help"], "Usage: pctd plan"),
        (&["--version"], concat!("pctd ", env!("CARGO_PKG_VERSION"))),
    ] {
        let ran = pctd(arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (DONE, ""), "{arguments:?}: {ran:?}");
        assert!(ran.stdout.contains(said), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn check_is_1_where_something_is_wrong_and_names_every_place() {
    let root = Root::new();
    let bad = r#"{"settings": {"mode": "enforced"},
 "shared_volumes": {"a": {"host_path": "/etc"}}}"#;
    root.write("bad.json", bad);
    let path = root.path("bad.json").display().to_string();
    let ran = pctd(&["check", &path]);
    assert_eq!((ran.code, ran.stderr.as_str()), (FAILED, ""), "{ran:?}");
    for said in ["bad.json:1:23: error: settings.mode: ", "bad.json:2:40: error: ", "Refused: 2 "] {
        assert!(ran.stdout.contains(said), "{said}: {ran:?}");
    }

    let ran = pctd(&["check", "--output-format", "json", &path]);
    assert_eq!(ran.code, FAILED, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["version"], &report["valid"]), (&1.into(), &false.into()));
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2), "{report}");
}

#[test]
fn a_slip_that_has_no_effect_is_1_only_for_the_strict() {
    let root = Root::new();
    root.write("slip.json", r#"{"lxc_configs": {"100": {"unpriviledged": true}}}"#);
    let path = root.path("slip.json").display().to_string();
    let ran = pctd(&["check", &path]);
    assert_eq!(ran.code, DONE, "{ran:?}");
    assert!(ran.stdout.contains("did you mean"), "{ran:?}");
    assert_eq!(pctd(&["check", "--strict", &path]).code, FAILED);
}

#[test]
fn what_cannot_be_read_is_1() {
    let root = Root::new();
    let missing = root.path("missing.json").display().to_string();
    assert_fails(&pctd(&["check", &missing]), &missing);
    assert_fails(&pctd(&["plan", "--config", &missing]), &missing);
    for command in ["plan", "apply", "check"] {
        assert_fails(&root.pctd(&[command]), "no configuration found");
    }
    assert_fails(&pctd(&["man", "nonsense"]), "there is no command `nonsense`");
    assert_fails(&pctd(&["--root", &missing, "plan"]), "No such file");
}

#[test]
fn a_configuration_that_others_can_change_is_1_unless_it_is_allowed() {
    let root = Root::node();
    root.declare("/data");
    let path = root.path("etc/pctd/config.json");
    rustix::fs::chmod(&path, 0o666.into()).unwrap();
    let said = format!(
        "everybody may write to {path} (mode 0666); run `chmod go-w {path}`",
        path = path.display()
    );
    for arguments in [["plan"].as_slice(), &["apply"], &["apply", "data"]] {
        let ran = root.pctd(arguments);
        assert_fails(&ran, &said);
        assert!(ran.stderr.contains("--allow-insecure-config"), "{ran:?}");
    }
    let ran = root.pctd(&["check"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (FAILED, ""), "{ran:?}");
    let place = format!("{}:1:1: error: the file: {said}", path.display());
    assert!(ran.stdout.contains(&place) && ran.stdout.contains("Refused: 1 problem"), "{ran:?}");
    let check = root.pctd(&["check", "--allow-insecure-config"]);
    assert_eq!((check.code, check.stderr.as_str()), (DONE, ""), "{check:?}");
    assert_eq!(root.pctd(&["plan", "--allow-insecure-config"]).code, DONE);
}

#[test]
fn without_a_daemon_status_is_1_and_says_what_to_do() {
    let root = Root::node();
    root.declare("/data");
    let ran = root.pctd(&["status"]);
    assert_fails(&ran, "no daemon is running");
    assert!(ran.stderr.contains("`systemctl start pctd`"), "{ran:?}");
    assert!(ran.stderr.contains("`pctd plan`"), "{ran:?}");
}

#[test]
fn without_a_cluster_file_system_nothing_is_planned() {
    let root = Root::new();
    root.declare("/data");
    assert_fails(&root.pctd(&["inspect", "100"]), "etc/pve/.version");
    let ran = root.pctd(&["plan", "--output-format", "json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (DIFFERS, ""), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    for entry in [&report["containers"]["100"], &report["volumes"]["data"]] {
        assert_eq!(entry["holds"][0]["reason"], "NodeUnknown", "{report}");
        assert!(entry["holds"][0]["message"].to_string().contains("etc/pve/.version"), "{report}");
        assert_eq!(entry["steps"], serde_json::json!([]), "{report}");
    }
    assert_eq!(report["summary"], serde_json::json!({"steps": 0, "holds": 2}), "{report}");
    // One key is asked for, and nothing is said of the other.
    let ran = root.pctd(&["plan", "100", "--output-format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &report["volumes"]), (DIFFERS, &serde_json::json!({})), "{report}");
}

#[test]
fn a_container_that_waits_for_a_volume_that_is_not_applied_is_3() {
    let root = Root::node();
    let conf = "rootfs: local:100/vm.raw\nunprivileged: 1\n";
    root.write("etc/pve/nodes/pve/lxc/100.conf", conf);
    // Its directory is missing, and making it is the volume's own step.
    root.write(
        "etc/pctd/config.json",
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"new": {"host_path": "/srv/new",
        "owner": "container_root", "mounts": {"100": "/new"}}}}"#,
    );
    let ran = root.pctd(&["apply", "100", "--output-format", "json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (DIFFERS, ""), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let entry = &report["containers"]["100"];
    assert_eq!(entry["holds"][0]["reason"], "VolumeHeld", "{report}");
    assert!(entry["holds"][0]["message"].to_string().contains("`pctd apply new`"), "{report}");
    assert_eq!(entry["error"], serde_json::Value::Null, "{report}");
}

#[test]
fn a_key_nobody_declared_is_1() {
    let root = Root::node();
    root.declare("/data");
    for (command, key) in [("plan", "101"), ("plan", "other"), ("apply", "other")] {
        assert_fails(&root.pctd(&[command, key]), &format!("{key} is not in the configuration"));
    }
}

#[test]
fn plan_is_0_in_sync_and_3_where_something_differs_or_is_held() {
    let root = Root::node();
    root.declare("/data");
    let ran = root.pctd(&["plan"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (DONE, "In sync: 2 keys.\n"), "{ran:?}");

    root.declare("/other");
    let ran = root.pctd(&["plan", "100"]);
    let plan = "container 100\n  + mp1: /srv/data,mp=/other\n    \
                volume data; seen at the next start\n\n1 step.\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (DIFFERS, plan), "{ran:?}");

    root.write(
        "etc/pctd/config.json",
        r#"{"shared_volumes": {"data": {"host_path": "/srv/data",
        "owner": "nobody-here:0", "mounts": {"100": "/data"}}}}"#,
    );
    let ran = root.pctd(&["plan"]);
    assert_eq!(ran.code, DIFFERS, "{ran:?}");
    assert!(ran.stdout.contains("! UnknownAccount: there is no user `nobody-here`"), "{ran:?}");
}

#[test]
fn a_plan_writes_nothing() {
    let root = Root::node();
    root.declare("/other");
    assert_eq!(root.pctd(&["plan"]).code, DIFFERS);
    assert!(!root.path("var").exists() && !root.path("run").exists());
}

#[test]
fn apply_is_0_when_converged_3_when_held_and_1_when_it_fails() {
    let root = Root::node();
    root.declare("/data");
    let ran = root.pctd(&["apply"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (DONE, ""), "{ran:?}");

    // The mount is missing and there is no pct.
    root.declare("/other");
    let ran = root.pctd(&["apply"]);
    assert_eq!(ran.code, FAILED, "{ran:?}");
    assert!(ran.stdout.contains("failed: `"), "{ran:?}");

    let conf = "protection: 1\nrootfs: local:100/vm.raw\nunprivileged: 1\n";
    root.write("etc/pve/nodes/pve/lxc/100.conf", conf);
    let ran = root.pctd(&["apply", "--output-format", "json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (DIFFERS, ""), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["containers"]["100"]["holds"][0]["reason"], "Protected", "{report}");
}

#[test]
fn only_one_process_converges_a_node() {
    let root = Root::node();
    root.declare("/data");
    let own = std::process::id();
    root.write("run/pctd/pctd.lock", &format!("{own}\n"));
    let lock = File::open(root.path("run/pctd/pctd.lock")).unwrap();
    lock.lock().unwrap();
    for command in ["run", "apply"] {
        let said = format!("another pctd is running (process {own})");
        assert_fails(&root.pctd(&[command]), &said);
    }
    // Looking needs no lock.
    assert_eq!(root.pctd(&["plan"]).code, DONE);
}

#[test]
fn inspect_is_0_for_any_container() {
    let root = Root::node();
    for (id, presence) in [("100", "here"), ("101", "absent")] {
        let ran = root.pctd(&["inspect", id, "--output-format", "json"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (DONE, ""), "{ran:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["presence"], presence, "{report}");
    }
}

#[test]
fn doctor_is_0_where_all_is_well_3_where_something_is_not_and_1_where_nothing_is_known() {
    let root = Root::node();
    root.declare("/data");
    let well = root.pctd(&["doctor", "100"]);
    assert_eq!((well.code, well.stderr.as_str()), (DONE, ""), "{well:?}");
    assert!(well.stdout.contains("  mp0: /srv/data at /data, volume data\n"), "{well:?}");
    // Root's on the host, so nobody's inside; in the container and on the host it is one file.
    for path in ["/data/file", "/srv/data/file"] {
        let ran = root.pctd(&["doctor", "100", path]);
        assert_eq!((ran.code, ran.stderr.as_str()), (DIFFERS, ""), "{ran:?}");
        let said = "! SeesNobody: /srv/data/file (file, mode 0644) is 0:0 on the host, so container 100 sees nobody";
        assert!(ran.stdout.contains(said), "{ran:?}");
    }
    let ran = root.pctd(&["doctor", "--output-format", "json", "100", "/data/file"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["version"], &report["path"]["host"]),
        (&1.into(), &"/srv/data/file".into())
    );
    assert_eq!(root.pctd(&["doctor", "101"]).code, DIFFERS);
    assert_fails(&root.pctd(&["doctor", "100", "data"]), "is no absolute path");
    // Without a configuration the container is explained all the same.
    root.write("etc/pctd/config.json", "{");
    let ran = root.pctd(&["doctor", "100"]);
    assert_eq!(ran.code, DIFFERS, "{ran:?}");
    assert!(ran.stdout.contains("! ConfigInvalid: ") && ran.stdout.contains("default id map"));
    assert_fails(&Root::new().pctd(&["doctor", "100"]), "/etc/pve is not usable");
}
