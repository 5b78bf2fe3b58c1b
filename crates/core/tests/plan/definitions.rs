//! The cases of definitions: containers to be made, to be finished, and what drifts.

use pctd_core::ledger::{LedgerEntry, Making};
use pctd_core::observed::{NodeState, Presence, TemplateState};

use crate::cases::{Case, case};
use crate::world::{PRIVILEGED, World, ctid};

/// A source as an admin sets one up: it starts with the node, at a fixed address.
const SOURCE: &str = "arch: amd64\nhostname: base\nmemory: 512\n\
    net0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.100/24,tag=5,type=veth\n\
    onboot: 1\nprotection: 1\nrootfs: local:900/x.raw,size=1G\nstartup: order=1,up=30\nswap: 512\nunprivileged: 1\n";

/// The same without anything a clone must not have.
const BARE: &str =
    "arch: amd64\nhostname: base\nrootfs: local:900/x.raw,size=1G\nswap: 512\nunprivileged: 1\n";

/// These definitions, with settings.
fn defined(settings: &str, definitions: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false SETTINGS}, "lxc_configs": {DEFINITIONS}}"#;
    World::new(&text.replace("SETTINGS", settings).replace("DEFINITIONS", definitions))
}

fn template(fields: &str) -> World {
    defined("", &format!(r#""100": {{"template": "local:vztmpl/a.tar.zst" {fields}}}"#))
}

/// 901 as a clone of 900, which is not defined itself.
fn clone(fields: &str) -> World {
    defined("", &format!(r#""901": {{"clone_from_ctid": "900" {fields}}}"#))
}

/// 901 as a clone of the snapshot `base` of 900.
fn of_snapshot() -> World {
    defined("", r#""900": {"template_snapshot_name": "base"}, "901": {"clone_from_ctid": "900"}"#)
}

fn marked(world: World, id: u32, how: Making) -> World {
    world.entered(LedgerEntry::MakeIntended { ctid: ctid(id), how })
}

const NETWORK: &str = r#", "network_config": {"name": "eth0", "bridge": "vmbr0", "ip": "10.0.0.5/24", "gw": "10.0.0.1"}"#;

pub(crate) fn all() -> Vec<Case> {
    let mut cases = making();
    cases.extend(cloning());
    cases.extend(finishing());
    cases.extend(drifting());
    cases
}

fn making() -> Vec<Case> {
    let create = "100 create from local:vztmpl/a.tar.zst:";
    vec![
        case("a container is made from its template", template(""), &[create]),
        case(
            "it is made with everything that is defined but the swap, which tells that it is whole",
            template(&format!(
                r#", "name": "web", "memory_mb": 2048, "swap_mb": 0, "cores": 2, "storage_pool": "quick",
                "storage_size_gb": 32, "mac_address": "52:54:00:67:89:b0", "start_at_boot": true,
                "boot_order": 2, "boot_delay": 10, "pct_options": ["nesting=1", "keyctl=1"] {NETWORK}"#
            )),
            &[
                "100 create from local:vztmpl/a.tar.zst on quick:32: cores=2 features=keyctl=1,nesting=1 \
               hostname=web memory=2048 net0=name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=52:54:00:67:89:B0,\
               ip=10.0.0.5/24 onboot=1 startup=order=2,up=10",
            ],
        ),
        case(
            "it is made privileged where that is declared",
            template(r#", "unprivileged": false, "storage_size_gb": 8"#),
            &["100 create privileged from local:vztmpl/a.tar.zst on 8:"],
        ),
        case(
            "a gateway without a fixed address is left out",
            template(r#", "network_config": {"bridge": "vmbr0", "ip": "dhcp", "gw": "10.0.0.1"}"#),
            &["100 create from local:vztmpl/a.tar.zst: net0=name=eth0,bridge=vmbr0,ip=dhcp"],
        ),
        case(
            "nothing is made when that is switched off",
            defined(r#", "create_containers": false"#, r#""100": {"template": "a:vztmpl/b"}"#),
            &["100 ! NotDefined"],
        ),
        case(
            "a container that was here and is gone is not made again",
            template("").entered(LedgerEntry::Seen(ctid(100))),
            &["100 ! Gone"],
        ),
        case(
            "it is made again when an admin names it",
            template("").entered(LedgerEntry::Seen(ctid(100))).named(100),
            &[create],
        ),
        case(
            "one whose making was cut off before it began is made",
            marked(template("").entered(LedgerEntry::Seen(ctid(100))), 100, Making::Create),
            &[create],
        ),
        case(
            "one that was made is not owed the start of the one that was here before",
            marked(template("").start_owed(100), 100, Making::Create).here(100, BARE),
            &[],
        ),
        case(
            "a mount like one that pctd added to the container before is not pctd's to remove",
            marked(
                defined(r#", "prune": true"#, r#""100": {"template": "local:vztmpl/a.tar.zst"}"#)
                    .wrote(100, "mp0", "/srv/a,mp=/a"),
                100,
                Making::Create,
            )
            .here(100, &format!("{BARE}mp0: /srv/a,mp=/a\n"))
            .settled(),
            &[],
        ),
        case(
            "one that a task is about to make is not made beside it",
            marked(template(""), 100, Making::Create).at_work(100),
            &["100 ! Busy"],
        ),
        case(
            "nothing is made while the ledger is lost",
            template("").forgot(),
            &["100 ! LedgerLost"],
        ),
        case(
            "what Proxmox would not take is said before anything is made",
            template(r#", "name": "my_web", "memory_mb": 8"#),
            &["100 ! DefinitionInvalid"],
        ),
        case(
            "a template that is missing",
            template("").with(|w| {
                let missing = TemplateState::Missing(vec!["/var/lib/vz/a.tar.zst".into()]);
                w.snapshot.making.templates.insert("local:vztmpl/a.tar.zst".into(), missing);
            }),
            &["100 ! TemplateMissing"],
        ),
        case(
            "a template on a storage that does not answer",
            template("").with(|w| {
                let unknown = TemplateState::Unknown("it has not answered since 9:00".into());
                w.snapshot.making.templates.insert("local:vztmpl/a.tar.zst".into(), unknown);
            }),
            &["100 ! TemplateUnreadable"],
        ),
        case(
            "nothing is made without quorum",
            template("").with(|w| {
                let NodeState::Up(cluster) = &mut w.snapshot.node else { panic!() };
                cluster.quorate = false;
            }),
            &["100 ! NoQuorum"],
        ),
        case(
            "an id of a virtual machine is nobody else's",
            template("").presence(100, Presence::Vm),
            &["100 ! IdTakenByVm"],
        ),
        case(
            "an id on another node is nobody else's",
            template("").presence(100, Presence::OnNode("pve2".into())),
            &[],
        ),
        case(
            "what is not known is not made",
            template("").presence(100, Presence::Unknown("no conf, and in .vmlist".into())),
            &["100 ! ContainerUnknown"],
        ),
        case(
            "in a cluster the definition has to name the node",
            template("").with(|w| w.snapshot.making.clustered = true),
            &["100 ! NodeNotNamed"],
        ),
        case(
            "in a cluster the node that is named makes it",
            template(r#", "node": "pve""#).with(|w| w.snapshot.making.clustered = true),
            &[create],
        ),
        case(
            "in a cluster no other node makes it",
            template(r#", "node": "pve2""#).with(|w| w.snapshot.making.clustered = true),
            &[],
        ),
        case(
            "in observe mode it is shown and not made",
            defined(r#", "mode": "observe""#, r#""100": {"template": "local:vztmpl/a.tar.zst"}"#),
            &[create, "100 ! ObserveOnly"],
        ),
    ]
}

fn cloning() -> Vec<Case> {
    let not_ready = ["901 ! CloneSourceNotReady"];
    let snapshot = |lines: &str| format!("{BARE}mp0: /srv/a,mp=/a\n[base]\n{BARE}{lines}");
    vec![
        case("a source is cloned", clone("").here(900, BARE), &["901 clone 900"]),
        case(
            "a clone loses what is its source's, and gets what is defined",
            clone(&format!(r#", "name": "web", "memory_mb": 2048, "boot_order": 7 {NETWORK}"#))
                .here(900, SOURCE),
            &[
                "901 clone 900 as web",
                "901 finish: memory=2048 net0=name=eth0,bridge=vmbr0,gw=10.0.0.1,ip=10.0.0.5/24,tag=5,type=veth \
                 startup=order=7 -onboot -protection",
            ],
        ),
        case(
            "an interface with a fixed address goes where none is defined",
            clone("").here(900, SOURCE),
            &["901 clone 900", "901 finish: -net0 -onboot -protection -startup"],
        ),
        case(
            "an interface that asks for its address stays",
            clone("").here(900, &format!("{BARE}net0: name=eth0,bridge=vmbr0,ip=dhcp\n")),
            &["901 clone 900"],
        ),
        case(
            "another storage than the source's is named",
            clone(r#", "storage_pool": "quick""#).here(900, BARE),
            &["901 clone 900 on quick"],
        ),
        case(
            "the source's storage is not",
            clone(r#", "storage_pool": "local""#).here(900, BARE),
            &["901 clone 900"],
        ),
        case(
            "the snapshot that the source names is cloned, whatever was mounted since",
            of_snapshot().here(900, &snapshot("")).running(900),
            &["901 clone 900@base"],
        ),
        case("a snapshot that is not there yet", of_snapshot().here(900, BARE), &not_ready),
        case(
            "a snapshot that is being taken",
            of_snapshot().here(900, &snapshot("snapstate: prepare\n")),
            &not_ready,
        ),
        case(
            "a snapshot with a bind mount",
            of_snapshot().here(900, &snapshot("mp1: /srv/b,mp=/b\n")),
            &not_ready,
        ),
        case(
            "a source with a bind mount",
            clone("").here(900, &format!("{BARE}mp0: /srv/a,mp=/a\n")),
            &not_ready,
        ),
        case("a source that runs", clone("").here(900, BARE).running(900), &not_ready),
        case("a source at which a task works", clone("").here(900, BARE).flock(900), &not_ready),
        case("a source that is being cloned", clone("").here(900, BARE).cloning(900), &not_ready),
        case(
            "a source that is locked",
            clone("").here(900, &format!("{BARE}lock: disk\n")),
            &not_ready,
        ),
        case("a source that does not exist", clone("").presence(900, Presence::Absent), &not_ready),
        case(
            "a source that is a virtual machine",
            clone("").presence(900, Presence::Vm),
            &not_ready,
        ),
        case(
            "a source on another node",
            clone("").presence(900, Presence::OnNode("pve2".into())),
            &not_ready,
        ),
        case(
            "a source that is not finished is not ready",
            marked(clone("").here(900, BARE), 900, Making::Clone),
            // Nobody defines 900 itself.
            &not_ready,
        ),
        case(
            "a chain begins with what it begins with",
            defined(
                "",
                r#""900": {"template": "local:vztmpl/a"}, "901": {"clone_from_ctid": "900"},
                "910": {"clone_from_ctid": "901"}"#,
            ),
            &[
                "900 create from local:vztmpl/a:",
                "901 ! CloneSourceNotReady",
                "910 ! CloneSourceNotReady",
            ],
        ),
        case(
            "a source with the other privilege",
            clone(r#", "unprivileged": true"#).here(900, PRIVILEGED),
            &["901 ! UnprivilegedMismatch"],
        ),
        case(
            "a source with a map of its own is unprivileged",
            clone(r#", "unprivileged": true"#)
                .here(900, &format!("{PRIVILEGED}lxc.idmap: u 0 200000 65536\n")),
            &["901 clone 900"],
        ),
    ]
}

fn finishing() -> Vec<Case> {
    let half = "arch: amd64\nrootfs: local:1/x.raw,size=1G\nunprivileged: 1\n";
    vec![
        case(
            "a clone that a crash left unconfigured is finished",
            marked(clone(NETWORK).here(901, SOURCE).here(900, SOURCE), 901, Making::Clone),
            &["901 finish: net0=name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,\
               ip=10.0.0.5/24,tag=5,type=veth -onboot -protection -startup"],
        ),
        case(
            "also when somebody has started it",
            marked(clone("").here(901, SOURCE).running(901), 901, Making::Clone),
            &["901 finish: -net0 -onboot -protection -startup"],
        ),
        case(
            "a clone that pctd did not make is its maker's",
            clone(NETWORK).here(901, SOURCE).here(900, SOURCE),
            &[],
        ),
        case(
            "the swap comes last",
            marked(
                template(r#", "swap_mb": 0"#).here(100, &format!("{half}swap: 512\n")),
                100,
                Making::Create,
            ),
            &["100 finish: swap=0"],
        ),
        case(
            "a creation that was cut off has no swap line",
            marked(template("").here(100, half), 100, Making::Create),
            &["100 ! CreateInterrupted"],
        ),
        case(
            "but not while a task is at work",
            marked(template("").here(100, half), 100, Making::Create).at_work(100),
            &["100 ! IdmapNotReady"],
        ),
        case(
            "a lock that a killed creation left",
            template("").here(100, "lock: create\n"),
            &["100 ! CreateInterrupted"],
        ),
        case(
            "a lock of a creation that goes on",
            template("").here(100, "lock: create\n").flock(100),
            &["100 ! IdmapNotReady"],
        ),
        case(
            "a lock of a clone that goes on",
            clone("").here(901, "lock: create\n").at_work(901),
            &["901 ! IdmapNotReady"],
        ),
        case(
            "nothing is finished while the container is locked",
            marked(clone("").here(901, &format!("{SOURCE}lock: backup\n")), 901, Making::Clone),
            &["901 ! Locked"],
        ),
    ]
}

fn drifting() -> Vec<Case> {
    let fields = r#""name": "web", "memory_mb": 2048, "swap_mb": 0, "cores": 2, "start_at_boot": false,
        "boot_order": 2, "boot_delay": 10, "pct_options": ["nesting=1"]"#;
    let conf = format!("{BARE}memory: 512\nonboot: 1\nstartup: 1,down=5\nfeatures: keyctl=1\n");
    let managed = |manage: &str| {
        defined(&format!(r#", "manage": [{manage}]"#), &format!(r#""100": {{{fields}}}"#))
            .here(100, &conf)
    };
    vec![
        case("fields that nobody manages are left", managed(""), &[]),
        case(
            "those that are managed are set, and what is not declared stays",
            managed(
                r#""name", "memory_mb", "swap_mb", "cores", "start_at_boot", "boot_order", "boot_delay", "pct_options""#,
            ),
            &[
                "100 configure: cores=2 features=keyctl=1,nesting=1 hostname=web memory=2048 onboot=0 \
               startup=down=5,order=2,up=10 swap=0",
            ],
        ),
        case(
            "one field of a property leaves the other",
            managed(r#""boot_order""#),
            &["100 configure: startup=down=5,order=2"],
        ),
        case(
            "what waits for a restart already is not set again",
            managed(r#""pct_options""#).running(100).container(100, |c| {
                c.conf.pending.section.set("features", "keyctl=1,nesting=1");
            }),
            &[],
        ),
        case(
            "protection does not keep fields",
            managed(r#""cores""#).container(100, |c| c.conf.current.set("protection", "1")),
            &["100 configure: cores=2"],
        ),
    ]
}
