//! Whose a volume is, where it lies, and its certificates.

use super::*;

pub(super) fn owners() -> Vec<Case> {
    let plain = World::one_mount;
    let not_ready = ["data ! IdmapNotReady", "100 ! IdmapNotReady"];
    let not_ready_waits = ["data ! IdmapNotReady", "100 ! IdmapNotReady", "100 waits for data"];
    vec![
        case("an empty conf has no map yet", plain().here(100, "").drift("data", 9), &not_ready),
        case("a conf being created has no map yet", plain().here(100, &conf("lock: create")).flock(100).drift("data", 9), &not_ready),
        case("a conf without a rootfs has no map yet", plain().here(100, "unprivileged: 1\n"), &not_ready),
        case(
            "a stopped container whose flock is held may still be in the making",
            plain().here(100, UNPRIVILEGED).flock(100),
            &not_ready_waits,
        ),
        case("a map that cannot be read is none", plain().here(100, &conf("lxc.idmap: b 0 100000 65536")), &not_ready_waits),
        case(
            "a map that overlaps is none",
            plain().here(100, &conf("lxc.idmap: u 0 100000 65536\nlxc.idmap: u 5 200000 1\nlxc.idmap: g 0 100000 65536")),
            &not_ready_waits,
        ),
        case(
            "explicit lines are asked for and not there",
            with_settings(r#""idmap_source": "explicit""#).here(100, UNPRIVILEGED),
            &not_ready_waits,
        ),
        case(
            "the fallback applies after the timeout to what never was owned",
            with_settings(r#""idmap_source": "explicit", "idmap_fallback": "nobody""#)
                .here(100, UNPRIVILEGED)
                .waited(100)
                .drift("data", 2),
            &["data own 65534:65534 2/10", "100 +mp0: /tank/data,mp=/data after volume", "100 ! IdmapNotReady"],
        ),
        case(
            "the fallback is not for what may have been owned before the ledger was lost",
            with_settings(r#""idmap_source": "explicit", "idmap_fallback": "nobody""#)
                .here(100, UNPRIVILEGED)
                .waited(100)
                .drift("data", 2)
                .forgot(),
            &not_ready_waits,
        ),
        case(
            "a privileged container's root is the host's",
            plain().here(100, PRIVILEGED).dir("data", |d| d.ids = HostIds::ROOT),
            &["100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "the map in force wins over the conf",
            plain()
                .here(100, &conf("lxc.idmap: u 0 300000 65536\nlxc.idmap: g 0 300000 65536"))
                .running_with(100, IdMap::default_unprivileged())
                .drift("data", 1),
            &["data own 100000:100000 1/10", "100 +mp0: /tank/data,mp=/data now after volume"],
        ),
        case(
            "a mount that carries its own id map counts with the ids on disk",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data,idmap=passthrough"))
                .drift("data", 1),
            &["data own 0:0 1/10"],
        ),
        case(
            "ids that the mount's own map names come from there",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data,idmap=u:0:5000:1;g:0:5001:1"))
                .drift("data", 1),
            &["data own 5000:5001 1/10"],
        ),
        case(
            "the host's own ids are never taken for those of an unprivileged container that starts",
            plain().here(100, UNPRIVILEGED).running_with(100, IdMap::privileged()).drift("data", 1),
            &not_ready_waits,
        ),
        case(
            "different maps are a conflict, and the mounts go on",
            shared("").drift("data", 5),
            &["data ! OwnerConflict", "900 +mp0: /tank/data,mp=/data", "901 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "owner_ctid resolves it",
            shared(r#""owner_ctid": "901","#).drift("data", 5),
            &[
                "data own 200000:200000 5/10",
                "900 +mp0: /tank/data,mp=/data after volume",
                "901 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "owner_ctid has to be here",
            shared(r#""owner_ctid": "901","#).presence(901, Presence::Absent),
            &["data ! IdmapNotReady", "900 waits for data"],
        ),
        case(
            "one that is not ready is waited for",
            shared("").here(901, "").drift("data", 5),
            &["data ! IdmapNotReady", "901 ! IdmapNotReady", "900 waits for data"],
        ),
        case(
            "but not for ever",
            shared("").here(901, "").waited(901).drift("data", 5),
            &[
                "data own 100000:100000 5/10",
                "900 +mp0: /tank/data,mp=/data after volume",
                "901 ! IdmapNotReady",
            ],
        ),
        case(
            "one on another node does not count",
            shared("").presence(901, Presence::OnNode("pve2".into())),
            &["900 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "an id in a hole of the map",
            with_fields(r#""owner": "container:70000""#).here(100, UNPRIVILEGED),
            &["data ! IdUnmapped", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "an account that is not there",
            with_fields(r#""owner": "alice""#).here(100, UNPRIVILEGED),
            &["data ! UnknownAccount", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a host owner by name",
            with_fields(r#""owner": "nobody:nogroup""#).here(100, UNPRIVILEGED).drift("data", 4),
            &["data own 65534:65534 4/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what was never walked is walked first",
            plain().here(100, UNPRIVILEGED).audit("data", None),
            &["100 +mp0: /tank/data,mp=/data after volume", "data ? Soon"],
        ),
        case(
            "what is in the ledger and right at the root needs no walk",
            plain().here(100, &conf("mp0: /tank/data,mp=/data")).settle().audit("data", None),
            &[],
        ),
        case(
            "a root that differs needs one, whatever the ledger says",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data"))
                .settle()
                .audit("data", None)
                .dir("data", |d| d.ids = HostIds::ROOT),
            &["data ? Soon"],
        ),
        case(
            "a big pass waits for a word",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).drift("data", 6),
            &["data ! ConfirmationRequired", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "drift since the watch was armed needs no word",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).audit(
                "data",
                Some(Audit { entries: 10, changes: 9, fresh: 4, owners: 9, ..Audit::default() }),
            ),
            &["data own 100000:100000 9/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what is old is too much, however much is fresh",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).audit(
                "data",
                Some(Audit { entries: 10, changes: 9, fresh: 3, owners: 9, ..Audit::default() }),
            ),
            &["data ! ConfirmationRequired", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a big pass that was confirmed",
            with_settings(r#""confirm_above": 5"#)
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .confirmed("data"),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "a file system that refuses owners",
            plain()
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .dir("data", |d| d.file_system = file_system("nfs4:/tank"))
                .with(|w| drop(w.snapshot.requests.refused.insert(volume("data"), "EPERM".into()))),
            &["data ! OwnershipUnsupported", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what cannot be recorded is not changed",
            plain()
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .with(|w| drop(w.snapshot.requests.unrecorded.insert(volume("data"), "full".into()))),
            &["data ! UndoUnavailable", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what was taken back is not done again",
            plain().here(100, UNPRIVILEGED).drift("data", 6).undone("data"),
            &["data ! Undone", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what was taken back is done again when an admin asks for it",
            plain().here(100, UNPRIVILEGED).drift("data", 6).undone("data").confirmed("data"),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what was taken back is done again when something else is declared",
            with_fields(r#""owner": "container_root", "file_mode": "0640""#)
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .entered(LedgerEntry::Undone { volume: volume("data"), declared: "before".into() }),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "entries that cannot be read are not in place",
            plain().here(100, &conf("mp0: /tank/data,mp=/data")).audit(
                "data",
                Some(Audit { entries: 2, errors: 1, first_errors: vec!["x: EIO".into()], ..Audit::default() }),
            ),
            &["data ! WalkIncomplete"],
        ),
    ]
}

pub(super) fn sources() -> Vec<Case> {
    let plain = || World::one_mount().here(100, UNPRIVILEGED);
    let missing = || SourceState::Missing { file_system: file_system("ext4:1") };
    let waits = |reason: &'static str| vec![reason, "100 waits for data"];
    vec![
        case(
            "a missing directory is made and owned, then mounted",
            plain().source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "a missing directory that is not to be made",
            with_fields(r#""create": false"#).here(100, UNPRIVILEGED).source("data", missing()),
            &waits("data ! SourceMissing"),
        ),
        case(
            "a link is never followed",
            plain().source(
                "data",
                SourceState::Symlink { link: "/tank".into(), resolved: Some("/pool/data".into()) },
            ),
            &waits("data ! PathUnsafe"),
        ),
        case(
            "a parent that everybody may write to",
            plain().source("data", SourceState::WritableByAll { ancestor: "/tank".into() }),
            &waits("data ! PathUnsafe"),
        ),
        case(
            "a path that cannot be read",
            plain().source("data", SourceState::Unreadable("input/output error".into())),
            &waits("data ! SourceUnreadable"),
        ),
        case(
            "a disk that is not mounted",
            with_fields(r#""require_mount": true"#)
                .here(100, UNPRIVILEGED)
                .dir("data", |d| d.file_system.is_root = true),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "a named mount point that is none",
            with_fields(r#""require_mount": "/tank""#)
                .here(100, UNPRIVILEGED)
                .dir("data", |d| d.file_system.required_mounted = Some(false)),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "a missing directory on a disk that is not mounted is not made",
            with_fields(r#""require_mount": "/tank""#)
                .here(100, UNPRIVILEGED)
                .source("data", missing()),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "another file system than before",
            plain().settle().dir("data", |d| d.file_system = file_system("ext4:2")),
            &waits("data ! SourceChanged"),
        ),
        case(
            "another file system than before, and the directory is missing there",
            plain()
                .settle()
                .source("data", SourceState::Missing { file_system: file_system("ext4:2") }),
            &waits("data ! SourceChanged"),
        ),
        case(
            "a missing directory after the ledger was lost is not made unasked",
            plain().forgot().source("data", missing()),
            &waits("data ! LedgerLost"),
        ),
        case(
            "a missing directory after the ledger was lost, and it is to be made",
            plain().forgot().source("data", missing()).confirmed("data"),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "a missing directory that is remembered is made, whatever else was lost",
            plain().forgot().settle().source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "another file system that is meant",
            plain()
                .settle()
                .dir("data", |d| d.file_system = file_system("ext4:2"))
                .confirmed("data"),
            &["100 +mp0: /tank/data,mp=/data"],
        ),
    ]
}

pub(super) fn certificates() -> Vec<Case> {
    let with = |fields: &str| {
        let text = r#""owner": "container_root", "certificates": [{"domain": "a.b" FIELDS}]"#;
        with_fields(&text.replace("FIELDS", fields)).here(100, &conf("mp0: /tank/data,mp=/data"))
    };
    let plain = || with("");
    let missing = || SourceState::Missing { file_system: file_system("ext4:1") };
    let make = ["data make a.b for 365 days"];
    let renew = ["data renew a.b for 365 days"];
    let blocked = ["data ! CertificateBlocked"];
    vec![
        case("a pair that is missing is made", plain().pair(None, None), &make),
        case("a pair that nobody looked at is not", plain(), &[]),
        case(
            "a pair is made after the directory and before the mount",
            plain().here(100, UNPRIVILEGED).source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "data make a.b for 365 days",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "nothing is made for an owner that is not known yet",
            plain().pair(None, None).here(100, "unprivileged: 1\n"),
            &["data ! IdmapNotReady", "100 ! IdmapNotReady"],
        ),
        case("a pair of somebody else is left", plain().pair(Some("k"), Some("c")), &[]),
        case("a key without a certificate is left", plain().pair(Some("k"), None), &blocked),
        case("a certificate without a key is left", plain().pair(None, Some("c")), &blocked),
        case("what is no file is left", plain().pair(Some("!"), None), &blocked),
        case("what is no file beside a key is left", plain().pair(Some("k"), Some("!")), &blocked),
        case(
            "its own pair is in place",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 31),
            &[],
        ),
        case(
            "its own pair is renewed a month before it expires",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 30),
            &renew,
        ),
        case(
            "or as long before as is declared",
            with(r#", "renew_before": "90d""#).pair(Some("k"), Some("c")).made("k", "c", true, 80),
            &renew,
        ),
        case(
            "its own pair is in place from the first day on",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 365),
            &[],
        ),
        case(
            "its own pair that is not valid yet is renewed: the clock was ahead",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 366),
            &renew,
        ),
        case(
            "somebody else's pair is not renewed",
            plain().pair(Some("k2"), Some("c")).made("k", "c", true, 1),
            &[],
        ),
        case(
            "its own pair is renewed when another one is declared",
            with(r#", "subject_alt_names": ["10.0.0.1"]"#)
                .pair(Some("k"), Some("c"))
                .made("k", "c", true, 300),
            &renew,
        ),
        case(
            "half of its own finished pair is somebody's doing",
            plain().pair(Some("k"), None).made("k", "c", true, 300),
            &blocked,
        ),
        case(
            "half of a pair it was making is made anew",
            plain().pair(Some("k"), None).made("k", "c", false, 365),
            &make,
        ),
        case(
            "a pair of which the ledger lacks the end is done",
            plain().pair(Some("k"), Some("c")).made("k", "c", false, 365),
            &[],
        ),
        case(
            "a new key beside the old certificate is a renewal that was interrupted",
            plain()
                .pair(Some("k2"), Some("c"))
                .made("k", "c", true, 9)
                .made("k2", "c2", false, 365),
            &renew,
        ),
        case(
            "a key that was interrupted twice is still pctd's",
            plain().pair(Some("k"), None).made("k", "c", false, 365).made("k2", "c2", false, 365),
            &make,
        ),
    ]
}
