//! The commands of `pct`, their parameters and usage lines (`PVE::CLI::pct`, `$cmddef`).

use crate::output::Die;
use crate::pct::command::Command;
use crate::pct::parameters::Check;
use crate::pct::{clone, create, destroy, power, restore, set, show, snapshot};

const VMID: (&str, Check) = ("vmid", Check::Vmid);
const NO_LIMIT: usize = usize::MAX;

const COMMANDS: &[Command] = &[
    Command {
        name: "clone",
        positional: &["vmid", "newid"],
        parameters: &[
            VMID,
            ("newid", Check::Vmid),
            ("hostname", Check::Property("hostname")),
            ("description", Check::Text(NO_LIMIT)),
            ("pool", Check::Text(NO_LIMIT)),
            ("snapname", Check::SnapshotName),
            ("storage", Check::Storage),
            ("full", Check::Boolean),
            ("target", Check::Text(NO_LIMIT)),
            ("bwlimit", Check::Number),
        ],
        takes_properties: false,
        usage: "pct clone <vmid> <newid> [OPTIONS]",
        run: clone::run,
    },
    Command {
        name: "create",
        positional: &["vmid", "ostemplate"],
        parameters: &[
            VMID,
            ("ostemplate", Check::Text(255)),
            ("password", Check::Text(NO_LIMIT)),
            ("storage", Check::Storage),
            ("force", Check::Boolean),
            ("restore", Check::Boolean),
            ("unique", Check::Boolean),
            ("pool", Check::Text(NO_LIMIT)),
            ("ignore-unpack-errors", Check::Boolean),
            ("ssh-public-keys", Check::Text(NO_LIMIT)),
            ("bwlimit", Check::Number),
            ("start", Check::Boolean),
            ("ha-managed", Check::Boolean),
        ],
        takes_properties: true,
        usage: "pct create <vmid> <ostemplate> [OPTIONS]",
        run: create::run,
    },
    Command {
        name: "restore",
        positional: &["vmid", "ostemplate"],
        parameters: &[
            VMID,
            ("ostemplate", Check::Text(255)),
            ("storage", Check::Storage),
            ("force", Check::Boolean),
            ("unprivileged", Check::Boolean),
        ],
        takes_properties: false,
        usage: "pct restore <vmid> <ostemplate> [OPTIONS]",
        run: restore::run,
    },
    Command {
        name: "destroy",
        positional: &["vmid"],
        parameters: &[
            VMID,
            ("force", Check::Boolean),
            ("purge", Check::Boolean),
            ("destroy-unreferenced-disks", Check::Boolean),
        ],
        takes_properties: false,
        usage: "pct destroy <vmid> [OPTIONS]",
        run: destroy::run,
    },
    Command {
        name: "list",
        positional: &[],
        parameters: &[],
        takes_properties: false,
        usage: "pct list ",
        run: show::list,
    },
    Command {
        name: "pending",
        positional: &["vmid"],
        parameters: &[VMID],
        takes_properties: false,
        usage: "pct pending <vmid>",
        run: show::pending,
    },
    Command {
        name: "config",
        positional: &["vmid"],
        parameters: &[VMID, ("current", Check::Boolean), ("snapshot", Check::SnapshotName)],
        takes_properties: false,
        usage: "pct config <vmid> [OPTIONS]",
        run: show::config,
    },
    Command {
        name: "set",
        positional: &["vmid"],
        parameters: &[
            VMID,
            ("delete", Check::ConfigIds),
            ("revert", Check::ConfigIds),
            ("digest", Check::Text(40)),
        ],
        takes_properties: true,
        usage: "pct set <vmid> [OPTIONS]",
        run: set::run,
    },
    Command {
        name: "snapshot",
        positional: &["vmid", "snapname"],
        parameters: &[
            VMID,
            ("snapname", Check::SnapshotName),
            ("description", Check::Text(NO_LIMIT)),
        ],
        takes_properties: false,
        usage: "pct snapshot <vmid> <snapname> [OPTIONS]",
        run: snapshot::run,
    },
    Command {
        name: "reboot",
        positional: &["vmid"],
        parameters: &[VMID, ("timeout", Check::Count)],
        takes_properties: false,
        usage: "pct reboot <vmid> [OPTIONS]",
        run: power::reboot,
    },
    Command {
        name: "shutdown",
        positional: &["vmid"],
        parameters: &[VMID, ("timeout", Check::Count), ("forceStop", Check::Boolean)],
        takes_properties: false,
        usage: "pct shutdown <vmid> [OPTIONS]",
        run: power::shutdown,
    },
    Command {
        name: "start",
        positional: &["vmid"],
        parameters: &[VMID, ("skiplock", Check::Boolean), ("debug", Check::Boolean)],
        takes_properties: false,
        usage: "pct start <vmid> [OPTIONS]",
        run: power::start,
    },
    Command {
        name: "stop",
        positional: &["vmid"],
        parameters: &[VMID, ("skiplock", Check::Boolean), ("overrule-shutdown", Check::Boolean)],
        takes_properties: false,
        usage: "pct stop <vmid> [OPTIONS]",
        run: power::stop,
    },
    Command {
        name: "status",
        positional: &["vmid"],
        parameters: &[VMID, ("verbose", Check::Boolean)],
        takes_properties: false,
        usage: "pct status <vmid> [OPTIONS]",
        run: show::status,
    },
    Command {
        name: "unlock",
        positional: &["vmid"],
        parameters: &[VMID],
        takes_properties: false,
        usage: "pct unlock <vmid>",
        run: set::unlock,
    },
    Command {
        name: "help",
        positional: &[],
        parameters: &[],
        takes_properties: false,
        usage: "pct help [<extra-args>] [OPTIONS]",
        run: |_, _| Ok(()),
    },
];

/// Commands Proxmox has and this model does not; they complete a cut name all the same.
const NOT_MODELLED: &[&str] = &[
    "migrate",
    "move-volume",
    "resize",
    "template",
    "delsnapshot",
    "listsnapshot",
    "rollback",
    "resume",
    "suspend",
    "console",
    "cpusets",
    "df",
    "enter",
    "exec",
    "fsck",
    "fstrim",
    "mount",
    "pull",
    "push",
    "remote-migrate",
    "rescan",
    "unmount",
];

const MISSING: Command = Command {
    name: "",
    positional: &[],
    parameters: &[],
    takes_properties: false,
    usage: "",
    run: |_, _| Err(Die::new("this command is not part of the sandbox\n").into()),
};

/// Finds a command by its name or an unambiguous beginning of it (`$expand_command_name`).
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    let by_name = |name: &str| COMMANDS.iter().find(|command| command.name == name);
    let all = || COMMANDS.iter().map(|command| command.name).chain(NOT_MODELLED.iter().copied());
    if name.is_empty() {
        return None;
    }
    let full = all().find(|known| *known == name).or_else(|| {
        let mut hits = all().filter(|known| known.starts_with(name));
        hits.next().filter(|_| hits.next().is_none())
    })?;
    Some(by_name(full).unwrap_or(&MISSING))
}

#[cfg(test)]
mod tests {
    use pctd_core::conf::schema;

    use super::*;
    use crate::pct::parameters::check_of;

    #[test]
    fn commands_can_be_cut_short() {
        assert_eq!(find("conf").unwrap().name, "config");
        assert!(find("sta").is_none());
        assert!(find("frobnicate").is_none());
        assert_eq!(find("set").unwrap().name, "set");
        assert_eq!(find("migrate").unwrap().name, "");
    }

    #[test]
    fn the_options_of_set_are_the_properties_of_the_schema() {
        for name in find("set").unwrap().options().into_keys() {
            assert!(
                check_of(find("set").unwrap().parameters, &name).is_some()
                    || schema::rule(&name).is_some(),
                "{name}"
            );
        }
        assert!(!find("set").unwrap().options().contains_key("parent"));
        assert!(schema::rule("mp256").is_none() && schema::rule("net32").is_none());
    }
}
