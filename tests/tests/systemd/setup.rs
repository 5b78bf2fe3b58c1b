//! The package: installed, upgraded, removed, purged.

use std::collections::BTreeSet;

use pctd_tests::world::UNPRIVILEGED;

use crate::machine::Machine;
use crate::{package, said};

const CONFIG: &str = r#"{
    "settings": {"seed_defaults": false, "poll_interval": "100ms"},
    "shared_volumes": {
        "ssl": {"host_path": "/tank/ssl", "owner": "container_root", "dir_mode": "0755",
                "mounts": {"953": "/etc/nginx/ssl"}}
    }
}
"#;

/// Returns a node on which the package is installed and container 953 has its volume, and runs.
///
/// It is started once all is in place: a simulated container has no process 1 of its own, by which
/// pctd knows one on a real node, so while it runs its map counts as one that cannot be read.
fn converged() -> Option<Machine> {
    let machine = Machine::node()?;
    machine.container(953, &[UNPRIVILEGED]);
    machine.boot_and_install();
    machine.configure(CONFIG);
    machine.until_converged();
    machine.ok("pct start 953");
    machine.write("/tank/ssl/key", "precious");
    Some(machine)
}

/// What an upgrade has to keep: the files, the conf, and who has what.
fn kept(machine: &Machine) -> [String; 4] {
    [
        machine.read("/etc/pctd/config.json"),
        machine.read("/var/lib/pctd/ledger.json"),
        machine.conf(953),
        machine.ok("find /tank -printf '%p %U:%G %m\\n' | sort; cat /tank/ssl/key"),
    ]
}

#[test]
fn the_package_has_a_manual_page_and_completions_and_needs_next_to_nothing() {
    let Some(deb) = package::built() else { return package::not_asked_for() };
    let contents = said(std::process::Command::new("dpkg-deb").arg("--contents").arg(&deb));
    let files: BTreeSet<&str> =
        contents.lines().filter_map(|line| line.split(' ').next_back()).collect();
    for file in [
        "./usr/sbin/pctd",
        "./etc/pctd/config.json",
        "./usr/share/man/man8/pctd.8.gz",
        "./usr/share/man/man8/pctd-apply.8.gz",
        "./usr/share/bash-completion/completions/pctd",
        "./usr/share/zsh/vendor-completions/_pctd",
        "./usr/share/fish/vendor_completions.d/pctd.fish",
        "./usr/share/pctd/pctd.schema.json",
        "./usr/share/pctd/report-status.schema.json",
        "./usr/share/doc/pctd/examples/example.json",
        "./usr/share/doc/pctd/changelog.gz",
        "./usr/share/doc/pctd/copyright",
    ] {
        assert!(files.contains(file), "no {file} in {contents}");
    }
    let needs = said(std::process::Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Depends"));
    let needs = needs.trim().split(", ").map(|need| need.split(' ').next().unwrap_or_default());
    assert_eq!(needs.collect::<Vec<_>>(), ["procps", "libc6", "libgcc-s1"]);
}

#[test]
fn the_version_of_the_package_is_that_of_the_program() {
    let Some(deb) = package::built() else { return package::not_asked_for() };
    let version = package::version(&deb);
    let upstream = version.rsplit_once('-').map(|(upstream, _revision)| upstream);
    assert_eq!(upstream, Some(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn a_debian_that_is_no_node_takes_the_package_and_is_left_alone() {
    let Some(machine) = Machine::debian() else { return };
    machine.boot();
    let files =
        || machine.ok("find / -xdev -not -path '/var/lib/dpkg/*' | grep -v '^/usr/' | sort");
    let before = files();
    machine.install(&machine.deb);
    // dpkg waited for READY=1. There is no pve-cluster.service, and that is no failure.
    assert_eq!(
        machine.ok("systemctl is-active pctd; systemctl is-enabled pctd"),
        "active\nenabled\n"
    );
    assert_eq!(machine.show("NRestarts"), "0");
    assert_eq!(machine.ok("pctd check"), "Valid: 0 volumes, 0 containers.\n");
    assert_eq!(machine.ok("dpkg --verify pctd"), "");
    let after = files();
    let before: BTreeSet<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().filter(|path| !before.contains(path)).collect();
    let enabled = "/var/lib/systemd/deb-systemd-helper-enabled";
    assert_eq!(
        new,
        [
            "/etc/pctd",
            "/etc/pctd/conf.d",
            "/etc/pctd/config.json",
            "/etc/systemd/system/multi-user.target.wants/pctd.service",
            "/root/pctd.deb",
            "/var/lib/pctd",
            &format!("{enabled}/multi-user.target.wants"),
            &format!("{enabled}/multi-user.target.wants/pctd.service"),
            &format!("{enabled}/pctd.service.dsh-also"),
            "/var/log/dpkg.log",
        ]
    );
    assert_eq!(machine.ok("systemctl --failed --no-legend"), "");
}

#[test]
fn an_upgrade_keeps_the_configuration_the_ledger_and_what_is_in_place() {
    let Some(machine) = converged() else { return };
    let (before, main) = (kept(&machine), machine.show("MainPID"));
    let calls = machine.pve().pct_calls().unwrap();
    let newer = machine.newer_package();
    machine.install(&newer);
    let installed = machine.ok("dpkg-query -f '${Version}' -W pctd");
    assert_eq!(installed, package::version(&newer));
    assert_ne!(machine.show("MainPID"), main, "the new program runs");
    machine.until_looked();
    assert_eq!(kept(&machine), before);
    assert_eq!(machine.pve().pct_calls().unwrap(), calls, "there was nothing to do");
    assert_eq!(machine.ok("pct status 953"), "status: running\n");
}

#[test]
fn a_service_that_was_switched_off_stays_off_over_an_upgrade() {
    let Some(machine) = Machine::debian() else { return };
    machine.boot_and_install();
    machine.ok("systemctl disable --now pctd");
    machine.install(&machine.newer_package());
    let states = machine.run("systemctl is-active pctd; systemctl is-enabled pctd").stdout;
    assert_eq!(states, "inactive\ndisabled\n");
}

#[test]
fn a_removal_keeps_everything_and_a_purge_everything_that_is_not_pctds() {
    let Some(machine) = converged() else { return };
    let of_the_admin = r#"{"shared_volumes": {}}"#;
    machine.write("/etc/pctd/conf.d/own.json", of_the_admin);
    let before = kept(&machine);

    machine.ok("dpkg --remove pctd");
    assert_eq!(machine.run("systemctl is-active pctd").stdout, "inactive\n");
    assert_eq!(machine.run("pgrep -x pctd || ls /proc/*/exe -l | grep sbin/pctd").stdout, "");
    assert_eq!(kept(&machine), before);

    machine.ok("dpkg --purge pctd");
    for gone in ["/var/lib/pctd", "/run/pctd", "/etc/pctd/config.json", "/usr/share/doc/pctd"] {
        assert_eq!(machine.run(&format!("test -e {gone}")).code, 1, "{gone} is left");
    }
    assert_eq!(machine.run("find /etc/systemd /var/lib/systemd -name 'pctd*'").stdout, "");
    assert_eq!(machine.read("/etc/pctd/conf.d/own.json"), of_the_admin);
    assert_eq!(machine.conf(953), before[2]);
    assert_eq!(machine.read("/tank/ssl/key"), "precious");
    assert_eq!(machine.ok("pct status 953"), "status: running\n");
    assert_eq!(machine.ok("systemctl --failed --no-legend"), "");
}
