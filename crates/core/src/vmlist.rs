//! What pmxcfs says in `.version`, `.vmlist` and `.members`: which guest is where, and whether
//! anything moved.
//!
//! Only text here; `pctd-node` reads the files. A text that cannot be read whole is an error,
//! never a list with less in it: an absence that is believed leads to work being undone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::ids::Ctid;

/// A file of pmxcfs whose content is not what pmxcfs writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be parsed: {0}")]
pub struct Unparsable(String);

/// Reads JSON that is UTF-8 to its end, in what is skipped as well: bytes that pmxcfs would not
/// write are a torn read, and the rest of such a text is no better.
fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Unparsable> {
    let text = std::str::from_utf8(text).map_err(|error| Unparsable(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| Unparsable(error.to_string()))
}

/// What kind of guest an id belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestKind {
    /// A container.
    Lxc,
    /// Anything else, by pmxcfs's word for it (`qemu`).
    Other(String),
}

/// One guest of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The node its conf lies on; exactly one at any moment.
    pub node: String,
    /// What it is.
    pub kind: GuestKind,
    /// Counts the writes of its conf since pmxcfs started.
    pub version: u64,
}

/// `.vmlist`: every guest of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vmlist {
    guests: BTreeMap<Ctid, Guest>,
}

#[derive(Deserialize)]
struct RawVmlist {
    ids: BTreeMap<String, RawGuest>,
}

#[derive(Deserialize)]
struct RawGuest {
    node: String,
    #[serde(rename = "type")]
    kind: String,
    version: u64,
}

impl Vmlist {
    /// Reads `.vmlist`.
    ///
    /// Ids that Proxmox itself would not act on (below 100) are left out: nobody can ask for them.
    ///
    /// # Errors
    ///
    /// [`Unparsable`] where it is not the JSON that pmxcfs writes.
    pub fn parse(text: &[u8]) -> Result<Self, Unparsable> {
        let raw: RawVmlist = read(text)?;
        let guests = raw.ids.into_iter().filter_map(|(id, guest)| {
            let kind =
                if guest.kind == "lxc" { GuestKind::Lxc } else { GuestKind::Other(guest.kind) };
            Some((id.parse().ok()?, Guest { node: guest.node, kind, version: guest.version }))
        });
        Ok(Self { guests: guests.collect() })
    }

    /// Returns the guest with this id.
    pub fn get(&self, ctid: Ctid) -> Option<&Guest> {
        self.guests.get(&ctid)
    }

    /// Returns the containers of `node`, lowest first.
    pub fn containers_of(&self, node: &str) -> impl Iterator<Item = Ctid> {
        let here = move |guest: &Guest| guest.node == node && guest.kind == GuestKind::Lxc;
        self.guests.iter().filter(move |(_, guest)| here(guest)).map(|(ctid, _)| *ctid)
    }
}

/// Reads when pmxcfs started from `.version`.
///
/// # Errors
///
/// [`Unparsable`] where it is not the JSON that pmxcfs writes.
pub fn parse_starttime(text: &[u8]) -> Result<u64, Unparsable> {
    #[derive(Deserialize)]
    struct Raw {
        starttime: u64,
    }
    Ok(read::<Raw>(text)?.starttime)
}

/// `.members`: this node and those it is in a cluster with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The name of this node.
    pub node: Option<String>,
    /// Whether it is in a cluster.
    pub clustered: bool,
    /// Whether the cluster has a quorum here; a node without a cluster always has.
    pub quorate: bool,
    /// The nodes of the cluster that are reached.
    pub online: BTreeSet<String>,
}

impl Members {
    /// What a node without `.members` is: only a cluster has something to say there.
    pub const STANDALONE: Self =
        Self { node: None, clustered: false, quorate: true, online: BTreeSet::new() };

    /// Reads `.members`.
    ///
    /// # Errors
    ///
    /// [`Unparsable`] where it is not the JSON that pmxcfs writes.
    pub fn parse(text: &[u8]) -> Result<Self, Unparsable> {
        #[derive(Deserialize)]
        struct Raw {
            nodename: Option<String>,
            cluster: Option<RawCluster>,
            #[serde(default)]
            nodelist: BTreeMap<String, RawMember>,
        }
        #[derive(Deserialize)]
        struct RawCluster {
            quorate: u8,
        }
        #[derive(Deserialize)]
        struct RawMember {
            #[serde(default)]
            online: u8,
        }
        let raw: Raw = read(text)?;
        let online = raw.nodelist.into_iter().filter(|(_, member)| member.online != 0);
        Ok(Self {
            node: raw.nodename,
            clustered: raw.cluster.is_some(),
            quorate: raw.cluster.is_none_or(|cluster| cluster.quorate != 0),
            online: online.map(|(name, _)| name).collect(),
        })
    }
}

/// What a poll remembers, to tell at the next one which guests to look at again.
///
/// Compared for "different" only: the counters start again at 1 with every start of pmxcfs, and
/// those of two nodes have nothing to do with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// When pmxcfs started.
    pub starttime: u64,
    /// Every guest as `.vmlist` had it.
    pub vmlist: Vmlist,
}

impl Fingerprint {
    /// Returns the ids whose conf may have changed between the two.
    pub fn changed(&self, other: &Self) -> BTreeSet<Ctid> {
        let ids = self.vmlist.guests.keys().chain(other.vmlist.guests.keys()).copied();
        // After a restart of pmxcfs an equal number may stand for another content.
        let restarted = self.starttime != other.starttime;
        ids.filter(|id| restarted || self.vmlist.get(*id) != other.vmlist.get(*id)).collect()
    }

    /// Returns the ids that came to `node` or left it between the two.
    pub fn moved(&self, other: &Self, node: &str) -> BTreeSet<Ctid> {
        let here = |fingerprint: &Self, id: &Ctid| {
            fingerprint.vmlist.get(*id).is_some_and(|guest| guest.node == node)
        };
        let ids = self.vmlist.guests.keys().chain(other.vmlist.guests.keys());
        ids.filter(|id| here(self, id) != here(other, id)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pmxcfs writes it, blank line and all.
    const VMLIST: &str = r#"{
"version": 138,
"ids": {
"100": { "node": "vm", "type": "lxc", "version": 127 },
"105": { "node": "vm", "type": "qemu", "version": 3 },
"50": { "node": "vm", "type": "lxc", "version": 3 },
"110": { "node": "other", "type": "lxc", "version": 107 }}

}
"#;

    fn ctid(id: u32) -> Ctid {
        Ctid::new(id).unwrap()
    }

    fn fingerprint(starttime: u64, ids: &[(u32, &str, u64)]) -> Fingerprint {
        let guest =
            |node: &str, version| Guest { node: node.into(), kind: GuestKind::Lxc, version };
        let guests = ids.iter().map(|(id, node, version)| (ctid(*id), guest(node, *version)));
        Fingerprint { starttime, vmlist: Vmlist { guests: guests.collect() } }
    }

    #[test]
    fn vmlist_names_every_guest_that_can_be_asked_for() {
        let vmlist = Vmlist::parse(VMLIST.as_bytes()).unwrap();
        let guest = |node: &str, kind, version| Some(Guest { node: node.into(), kind, version });
        assert_eq!(vmlist.get(ctid(100)).cloned(), guest("vm", GuestKind::Lxc, 127));
        assert_eq!(vmlist.get(ctid(105)).cloned(), guest("vm", GuestKind::Other("qemu".into()), 3));
        assert_eq!(vmlist.get(ctid(110)).cloned(), guest("other", GuestKind::Lxc, 107));
        assert_eq!(vmlist.get(ctid(120)), None);
        assert_eq!(vmlist.containers_of("vm").collect::<Vec<_>>(), [ctid(100)]);
    }

    #[test]
    fn a_cluster_without_guests_has_an_empty_list() {
        let vmlist = Vmlist::parse(b"{\n\"version\": 1,\n\"ids\": {}\n}\n").unwrap();
        assert_eq!(vmlist, Vmlist::default());
    }

    #[test]
    fn a_text_that_is_cut_or_not_pmxcfs_is_an_error() {
        for cut in 0..VMLIST.trim_end().len() {
            assert!(Vmlist::parse(&VMLIST.as_bytes()[..cut]).is_err(), "{cut}");
        }
        for text in ["[]", "{}", r#"{"ids":{"100":{"node":"vm"}}}"#, r#"{"ids":[]}"#, "\0"] {
            assert!(Vmlist::parse(text.as_bytes()).is_err(), "{text}");
        }
        // Torn where nothing is asked for.
        let torn = b"{\"ids\":{},\"\x8f\":1}";
        assert!(Vmlist::parse(torn).is_err());
    }

    #[test]
    fn version_and_members_are_read_as_pmxcfs_writes_them() {
        let version = br#"{"starttime":1700000000,"clinfo":2,"vmlist":138,"kvstore":{}}"#;
        assert_eq!(parse_starttime(version), Ok(1_700_000_000));
        assert!(parse_starttime(b"{}").is_err());
        let alone = Members { node: Some("vm".to_owned()), ..Members::STANDALONE };
        assert_eq!(Members::parse(br#"{"nodename":"vm","version":0}"#), Ok(alone));
        for quorate in [false, true] {
            let text = format!(
                r#"{{"nodename":"a","version":4,"cluster":{{"name":"c","version":2,"nodes":2,"quorate":{}}},
                "nodelist":{{"a":{{"id":1,"online":1,"ip":"10.0.0.1"}},"b":{{"id":2,"online":0}}}}}}"#,
                u8::from(quorate)
            );
            let (node, online) = (Some("a".to_owned()), BTreeSet::from(["a".to_owned()]));
            let expected = Members { node, clustered: true, quorate, online };
            assert_eq!(Members::parse(text.as_bytes()), Ok(expected), "{text}");
        }
        assert!(Members::parse(br#"{"cluster":{}}"#).is_err());
    }

    #[test]
    fn different_is_changed_and_greater_means_nothing() {
        let before = fingerprint(1, &[(100, "a", 9), (101, "a", 4), (102, "a", 4), (103, "a", 1)]);
        let after = fingerprint(1, &[(100, "a", 2), (101, "b", 4), (102, "a", 4), (104, "a", 1)]);
        let expected: BTreeSet<_> = [100, 101, 103, 104].map(ctid).into();
        assert_eq!(before.changed(&after), expected);
        assert_eq!(after.changed(&before), expected);
        assert_eq!(before.changed(&before), BTreeSet::new());
    }

    #[test]
    fn what_came_or_went_has_moved_whatever_its_number() {
        let before = fingerprint(1, &[(100, "a", 9), (101, "a", 4), (102, "b", 4), (103, "b", 1)]);
        let after = fingerprint(2, &[(100, "a", 2), (101, "b", 4), (102, "a", 4), (104, "a", 1)]);
        let expected: BTreeSet<_> = [101, 102, 104].map(ctid).into();
        assert_eq!(before.moved(&after, "a"), expected);
        assert_eq!(before.moved(&before, "a"), BTreeSet::new());
    }

    #[test]
    fn after_a_restart_of_pmxcfs_everything_may_have_changed() {
        let before = fingerprint(1, &[(100, "a", 1)]);
        let after = fingerprint(2, &[(100, "a", 1)]);
        assert_eq!(before.changed(&after), [ctid(100)].into());
    }
}
