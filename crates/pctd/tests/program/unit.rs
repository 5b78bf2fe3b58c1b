//! The systemd unit: that systemd understands it, and that it keeps what the program relies on.

use std::collections::BTreeMap;
use std::process::Command;

use pctd_core::desired::Settings;
use pctd_node::Pct;

use crate::support::{PROGRAM, Root, workspace};

/// Settings that would reach into `pct` and the hook scripts below it; the unit says why.
const BREAKS_PCT: [&str; 30] = [
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "DeviceAllow",
    "DevicePolicy",
    "DynamicUser",
    "IPAddressDeny",
    "InaccessiblePaths",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadWritePaths",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictSUIDSGID",
    "SystemCallFilter",
    "UMask",
];

fn unit() -> String {
    let path = workspace().join("systemd/pctd.service");
    std::fs::read_to_string(path).expect("the unit is there")
}

/// Returns the last value of every key.
fn keys(unit: &str) -> BTreeMap<&str, &str> {
    unit.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect()
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let root = Root::new();
    let unit = unit().replace("ExecStart=/usr/sbin/pctd", &format!("ExecStart={PROGRAM}"));
    root.write("pctd.service", &unit);
    let verify = Command::new("systemd-analyze")
        // The manual page is not installed where the program is only built.
        .args(["verify", "--recursive-errors=no", "--man=no"])
        .arg(root.path("pctd.service"))
        .output();
    let output = match verify {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("PCTD_REQUIRE_REAL").is_none(), "systemd-analyze: {error}");
            eprintln!("skipped: systemd-analyze: {error}");
            return;
        }
    };
    // It exits with 0 over a key that it does not know.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn stopping_waits_for_the_longest_step() {
    let unit = unit();
    let timeout = humantime::parse_duration(keys(&unit)["TimeoutStopSec"]).unwrap();
    let settings = Settings::default();
    // A call that takes too long is told to end, then killed, then given up.
    assert!(timeout > settings.pct_timeout + 2 * Pct::GRACE, "{timeout:?}");
    assert!(timeout > settings.restart_timeout + 2 * Pct::GRACE, "{timeout:?}");
}

#[test]
fn nothing_in_the_unit_reaches_into_pct() {
    let unit = unit();
    let set: Vec<_> = BREAKS_PCT.iter().filter(|key| keys(&unit).contains_key(*key)).collect();
    assert_eq!(set, Vec::<&&str>::new());
}

#[test]
fn the_unit_has_what_the_program_relies_on() {
    let unit = unit();
    let keys = keys(&unit);
    for (key, value) in [
        ("Type", "notify"),
        ("Before", "pve-guests.service"),
        ("Wants", "pve-cluster.service"),
        ("ExecStart", "/usr/sbin/pctd run"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillMode", "mixed"),
        ("RuntimeDirectory", "pctd"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("StateDirectory", "pctd"),
        ("ConfigurationDirectory", "pctd"),
    ] {
        assert_eq!(keys.get(key), Some(&value), "{key}");
    }
    assert!(keys["After"].split(' ').any(|unit| unit == "pve-cluster.service"));
}
