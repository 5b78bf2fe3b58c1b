//! What must hold for any input of pctd's readers, whoever wrote it.
//!
//! One function for each kind of input: it panics where a law does not hold, and that is a defect.
//! The targets in `targets/` try them on what libFuzzer comes up with, and `tests/` on everything
//! that was recorded or was found by a fuzzer before. Where somebody else reads the same input,
//! the two are compared.

#![expect(clippy::missing_panics_doc, reason = "a panic is what each of them is for")]

use std::collections::BTreeSet;

use pctd_core::conf::{Conf, Digest, MountPoint};
use pctd_core::config::{Strictness, load};
use pctd_core::idmap::{IdKind, IdMap};
use pctd_core::ids::Ctid;
use pctd_core::ledger::Ledger;
use pctd_core::modes::{FilePattern, MODE_BITS, ModeRule};
use pctd_core::order::Order;
use pctd_core::ownership::{EntryKind, EntryStat};
use pctd_core::request::{self, Asked, Op, Peer, Wanted, WireRequest};
use pctd_core::undo::{Block, Entries, FRAME_BYTES, Frame, Judgement, Privileges, State};
use pctd_core::vmlist::{Members, Vmlist, parse_starttime};
use serde_json::Value;

pub mod seeds;

/// A container's conf: what Proxmox writes of it reads as the same, and once it was written twice it
/// stays as it is. (Not once: the first time an empty `[pve:pending]` is kept.)
pub fn conf(data: &[u8]) {
    let Ok(conf) = Conf::parse(ctid(), data) else { return };
    let _ = (conf.mount_keys_in_use(), conf.pending_names(), conf.idmap_overlap());
    assert_eq!(
        conf.effective_idmap().is_ok(),
        conf.root_ids_as_proxmox().is_ok(),
        "both die of the same lines"
    );
    let Ok(written) = conf.rewritten() else { return };
    let again = Conf::parse(ctid(), &written).expect("what Proxmox writes it can read");
    assert_eq!(again.mounts(), conf.mounts(), "mount points");
    assert_eq!(again.is_effectively_unprivileged(), conf.is_effectively_unprivileged());
    assert_eq!(again.effective_idmap(), conf.effective_idmap());
    let Ok(twice) = again.rewritten() else { return };
    let last = Conf::parse(ctid(), &twice).expect("what Proxmox writes it can read");
    assert_eq!(last.rewritten().ok(), Some(twice), "written twice and three times");
}

fn ctid() -> Ctid {
    Ctid::new(100).expect("the lowest id there is")
}

/// The value of a mount point: its normal form is itself.
pub fn mount(data: &[u8]) {
    if let Ok(mount) = MountPoint::parse(data) {
        let (_, _) = (mount.size(), mount.idmap());
        let printed = mount.render();
        if stands_alone(&mount) {
            let again = MountPoint::parse(&printed).expect("what Proxmox writes it can read");
            assert_eq!(again.render(), printed);
        }
    }
    if let Ok(rootfs) = MountPoint::parse_rootfs(data) {
        let printed = rootfs.render_rootfs();
        if stands_alone(&rootfs) {
            let again =
                MountPoint::parse_rootfs(&printed).expect("what Proxmox writes it can read");
            assert_eq!(again.render_rootfs(), printed);
        }
    }
}

/// Whether the volume is read as itself where Proxmox writes it without its `volume=`. With a `=`
/// in it (`volume=/a=b`, `volume=volume=/a`) it is read as an option, by Proxmox as well.
fn stands_alone(mount: &MountPoint) -> bool {
    !mount.volume.contains(&b'=')
}

/// The configuration: nothing is accepted that is no JSON, every refusal has a reason, and what
/// passes strictly passes leniently as the same.
pub fn config(data: &[u8]) {
    let files: Vec<(String, Vec<u8>)> = data
        .split(|byte| *byte == 0)
        .enumerate()
        .map(|(at, text)| (format!("{at}.json"), text.to_vec()))
        .collect();
    let lenient = load(&files, Strictness::Lenient);
    match &lenient {
        Ok(_) => {
            for (name, text) in &files {
                assert!(serde_json::from_slice::<Value>(text).is_ok(), "{name} is no JSON");
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
    if let Ok(strict) = load(&files, Strictness::Strict) {
        assert_eq!(Ok(strict.desired), lenient.map(|loaded| loaded.desired));
    }
}

/// pmxcfs's lists: exactly the containers that a plain reader of JSON finds, or an error.
pub fn pmxcfs(data: &[u8]) {
    let _ = (parse_starttime(data), Members::parse(data));
    let Ok(list) = Vmlist::parse(data) else { return };
    let Ok(plain) = serde_json::from_slice::<Value>(data) else {
        // Half a surrogate pair, in a string that nobody asks for, is the one thing skipped unread.
        assert!(std::str::from_utf8(data).is_ok_and(|text| text.contains("\\u")), "it is JSON");
        return;
    };
    let ids = plain["ids"].as_object().expect("it has ids");
    for node in ids.values().filter_map(|guest| guest["node"].as_str()) {
        let expected: BTreeSet<Ctid> = ids
            .iter()
            .filter(|(_, guest)| guest["node"] == node && guest["type"] == "lxc")
            .filter_map(|(id, _)| id.parse().ok())
            .collect();
        assert_eq!(list.containers_of(node).collect::<BTreeSet<_>>(), expected);
    }
}

/// The ledger: what was read is written, and read as the same.
pub fn ledger(data: &[u8]) {
    let Ok(ledger) = serde_json::from_slice::<Ledger>(data) else { return };
    let written = serde_json::to_vec(&ledger).expect("a ledger can be written");
    assert_eq!(serde_json::from_slice::<Ledger>(&written).ok(), Some(ledger));
}

/// A record of what was changed: whatever is read of it is written as the same, and an undo knows an
/// entry as it was and as it was left.
pub fn undo(data: &[u8]) {
    let mut rest = data;
    while let Some((head, after)) = rest.split_first_chunk()
        && let Some(Frame { len }) = Frame::read(*head)
        && let Some((frame, more)) = after.split_at_checked(len)
    {
        block(frame);
        rest = more;
    }
    // Nobody guesses a checksum.
    block(&[data, &Digest::of(data).prefix().to_le_bytes()].concat());
}

fn block(frame: &[u8]) {
    let Some(block) = Block::read(frame) else { return };
    if let Block::Entries(Entries { entries, .. }) = &block {
        for (entry, kind) in entries.iter().flat_map(|entry| KINDS.map(|kind| (entry, kind))) {
            for privileges in [Privileges::Withheld, Privileges::GivenBack] {
                let judge = |state: State| {
                    let State { ids, mode } = state;
                    entry.judge(&EntryStat { kind, ids, mode }, privileges)
                };
                assert_eq!(judge(entry.before), Judgement::InPlace);
                assert_ne!(judge(entry.after), Judgement::ChangedSince);
            }
        }
    }
    // None where it is longer than a frame may be.
    let Some(written) = block.to_frame() else { return };
    assert_eq!(Block::read(&written[FRAME_BYTES..]), Some(block));
}

const KINDS: [EntryKind; 4] =
    [EntryKind::Directory, EntryKind::File, EntryKind::Symlink, EntryKind::Special];

/// A mode and a pattern of file names: applied twice it changes nothing more, and it reads as it
/// is written.
pub fn mode(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(pattern) = FilePattern::new(text) {
        let _ = pattern.matches(data);
    }
    let Ok(rule) = text.parse::<ModeRule>() else { return };
    for mode in 0..=MODE_BITS {
        for is_dir in [false, true] {
            let once = rule.apply(mode, is_dir);
            assert_eq!(once & !MODE_BITS, 0, "only bits of a mode");
            assert_eq!(rule.apply(once, is_dir), once, "{text} on {mode:o}");
        }
    }
    assert_eq!(rule.to_string().parse::<ModeRule>().ok(), Some(rule));
}

/// `/proc/PID/uid_map`: there and back again is where it began, for every id near an edge.
pub fn idmap(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (uid_map, gid_map) = text.split_once('\0').unwrap_or((text, text));
    let Some(map) = IdMap::from_proc(uid_map, gid_map) else { return };
    for range in map.ranges() {
        let edges = [range.container, range.container.saturating_add(range.count)];
        for id in edges.into_iter().flat_map(|edge| [edge.saturating_sub(1), edge]) {
            let Ok(id) = u32::try_from(id) else { continue };
            for kind in [IdKind::User, IdKind::Group] {
                assert_eq!(map.host_id(kind, id), plain(&map, kind, id), "{kind:?} {id}");
            }
        }
    }
}

/// Lines on the daemon's socket: nobody but root changes anything, whatever he says and whoever he
/// is; what root confirms is what stands there for a plain reader of JSON; and a refusal is one line
/// that is not much longer than what it refuses.
pub fn request(data: &[u8]) {
    let config = [CONFIG.to_owned()];
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let root = request::read(line, Peer::Root, &config);
        for uid in [1, 1000, u32::MAX] {
            match (request::read(line, Peer::Guest(uid), &config), &root) {
                (Ok(Wanted::Once(Op::Reconcile { .. } | Op::Order { .. })), _) => {
                    panic!("uid {uid} changes something")
                }
                (Ok(wanted), root) => assert_eq!(Ok(&wanted), root.as_ref(), "root may as well"),
                (Err(why), _) => is_clean_refusal(&why, line),
            }
        }
        match &root {
            Ok(wanted) => says_so(line, wanted),
            Err(why) => is_clean_refusal(why, line),
        }
    }
}

/// The configuration that the daemon of [`request()`] uses.
const CONFIG: &str = "/etc/pctd/config.json";

fn is_clean_refusal(why: &str, line: &[u8]) {
    assert!(!why.is_empty());
    let told = serde_json::to_string(why).expect("it is text");
    assert!(!told.contains('\n'), "one line");
    // What is refused is quoted in it: escaped in words, and those in JSON.
    assert!(told.len() <= 512 + 12 * line.len(), "{} bytes for {}", told.len(), line.len());
}

/// A request that is understood says what is made of it, and travels as the same.
fn says_so(line: &[u8], wanted: &Wanted) {
    let plain: Value = serde_json::from_slice(line).expect("it is JSON");
    let is_set = |name: &str| plain[name] == true;
    assert_eq!(plain["version"], 1);
    let said = plain["keys"].as_array().cloned().unwrap_or_default();
    let wire: WireRequest = serde_json::from_slice(line).expect("it was read");
    let (op, keys) = match wanted {
        Wanted::Follow(keys) | Wanted::Once(Op::Status(keys)) => ("status", keys),
        Wanted::Once(Op::Reconcile { keys, asked, .. }) => {
            let names = plain["config"].as_array();
            assert!(names.is_none_or(|names| *names == [CONFIG]), "another configuration");
            assert!(*asked == Asked::No || is_set("confirm") || is_set("yes"), "unasked");
            assert!(*asked <= Asked::All || !said.is_empty(), "nothing is named");
            assert!(*asked < Asked::Sure || is_set("yes"), "no yes");
            ("reconcile", keys)
        }
        Wanted::Once(Op::Order { order, .. }) => {
            let names = plain["config"].as_array();
            assert!(names.is_none_or(|names| *names == [CONFIG]), "another configuration");
            let said = &plain["order"];
            assert_eq!(serde_json::from_value::<Order>(said.clone()).ok().as_ref(), Some(order));
            ("order", &wire.keys)
        }
    };
    assert_eq!(plain["op"], op);
    assert_eq!(
        is_set("follow"),
        matches!(wanted, Wanted::Follow(_)) || is_set("follow") && op != "status"
    );
    assert_eq!(keys.iter().map(|key| Value::from(key.to_string())).collect::<Vec<_>>(), said);
    let sent = serde_json::to_vec(&wire).expect("it can be sent");
    assert_eq!(serde_json::from_slice::<WireRequest>(&sent).ok(), Some(wire));
}

/// Looks an id up as the documents say it: the last line that has it counts.
fn plain(map: &IdMap, kind: IdKind, id: u32) -> Option<u32> {
    let mut found = None;
    for range in map.ranges().iter().filter(|range| range.kind == kind) {
        let has_it = u128::from(id) >= u128::from(range.container)
            && u128::from(id) < u128::from(range.container) + u128::from(range.count);
        if has_it {
            let host = u128::from(range.host) + u128::from(id) - u128::from(range.container);
            found = u32::try_from(host).ok().or(found);
        }
    }
    found
}
