//! Where a container is, judged from two reads that may have happened at different moments.
//!
//! `.vmlist` is one read and names exactly one node for an id at any time; a conf or a directory
//! listing can miss a file that is being renamed over. Where the two disagree nothing is known.

use crate::ids::Ctid;
use crate::vmlist::{GuestKind, Vmlist};

/// What reading a conf gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfRead {
    /// Its bytes, from one read.
    Bytes(Vec<u8>),
    /// No file, also after some retries.
    Missing,
    /// The read failed, for this reason.
    Failed(String),
}

/// What the directory of this node's confs looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfDir {
    /// It can be listed and holds something.
    Filled,
    /// It can be listed and holds nothing.
    Empty,
    /// It is missing or cannot be listed, for this reason.
    Unusable(String),
}

/// Where a container is; [`Verdict::Here`] still has to be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On this node, with these bytes as its conf.
    Here(Vec<u8>),
    /// On another node.
    OnNode(String),
    /// The id is a virtual machine's.
    Vm,
    /// Nowhere in the cluster.
    Absent,
    /// The reads do not fit together, for this reason.
    Unknown(String),
}

/// Everything that was read about one container.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The container.
    pub ctid: Ctid,
    /// This node.
    pub node: &'a str,
    /// `.vmlist`.
    pub vmlist: &'a Vmlist,
    /// The directory of this node's confs.
    pub dir: &'a ConfDir,
    /// The conf in it.
    pub conf: ConfRead,
}

/// Returns where the container is.
pub fn judge(evidence: Evidence<'_>) -> Verdict {
    let Evidence { ctid, node, vmlist, dir, conf } = evidence;
    let listed = vmlist.get(ctid);
    if let Some(guest) = listed {
        if let GuestKind::Other(_) = guest.kind {
            return Verdict::Vm;
        }
        if guest.node != node {
            return Verdict::OnNode(guest.node.clone());
        }
    }
    match dir {
        ConfDir::Unusable(reason) => return Verdict::Unknown(reason.clone()),
        // The bare mount point of a stopped pmxcfs looks like this.
        ConfDir::Empty if vmlist.containers_of(node).next().is_some() => {
            return Verdict::Unknown(
                "the conf directory is empty while .vmlist has containers on this node".into(),
            );
        }
        ConfDir::Empty | ConfDir::Filled => {}
    }
    match (listed, conf) {
        (_, ConfRead::Failed(reason)) => Verdict::Unknown(reason),
        (Some(_), ConfRead::Bytes(bytes)) => Verdict::Here(bytes),
        (Some(_), ConfRead::Missing) => {
            Verdict::Unknown(format!("{ctid} is on this node in .vmlist but its conf is not there"))
        }
        (None, ConfRead::Bytes(_)) => {
            Verdict::Unknown(format!("the conf of {ctid} is there but .vmlist does not have it"))
        }
        (None, ConfRead::Missing) => Verdict::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMLIST: &[u8] = br#"{"version":1,"ids":{
        "100":{"node":"here","type":"lxc","version":1},
        "101":{"node":"there","type":"lxc","version":1},
        "102":{"node":"here","type":"qemu","version":1},
        "103":{"node":"there","type":"qemu","version":1}}}"#;

    fn judged(vmlist: &Vmlist, id: u32, dir: &ConfDir, conf: ConfRead) -> Verdict {
        let ctid = Ctid::new(id).unwrap();
        judge(Evidence { ctid, node: "here", vmlist, dir, conf })
    }

    fn is_unknown(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Unknown(_))
    }

    #[test]
    fn a_container_is_here_only_when_both_reads_say_so() {
        let vmlist = Vmlist::parse(VMLIST).unwrap();
        let bytes = || ConfRead::Bytes(b"arch: amd64\n".to_vec());
        let here = || Verdict::Here(b"arch: amd64\n".to_vec());
        let there = || Verdict::OnNode("there".into());
        for (id, conf, expected) in [
            (100, bytes(), here()),
            (101, bytes(), there()),
            (101, ConfRead::Missing, there()),
            (102, ConfRead::Missing, Verdict::Vm),
            (103, ConfRead::Missing, Verdict::Vm),
            (104, ConfRead::Missing, Verdict::Absent),
        ] {
            assert_eq!(judged(&vmlist, id, &ConfDir::Filled, conf), expected, "{id}");
        }
        for (id, conf) in [
            (100, ConfRead::Missing),
            (104, bytes()),
            (100, ConfRead::Failed("EIO".into())),
            (104, ConfRead::Failed("EIO".into())),
        ] {
            assert!(is_unknown(&judged(&vmlist, id, &ConfDir::Filled, conf)), "{id}");
        }
    }

    #[test]
    fn nothing_is_absent_while_the_conf_directory_cannot_be_believed() {
        let vmlist = Vmlist::parse(VMLIST).unwrap();
        for dir in [ConfDir::Empty, ConfDir::Unusable("ENOTCONN".into())] {
            for id in [100, 104] {
                let verdict = judged(&vmlist, id, &dir, ConfRead::Missing);
                assert!(is_unknown(&verdict), "{id} {dir:?}");
            }
            let elsewhere = judged(&vmlist, 101, &dir, ConfRead::Missing);
            assert_eq!(elsewhere, Verdict::OnNode("there".into()));
        }
    }

    #[test]
    fn a_node_without_containers_has_an_empty_directory() {
        let vmlist = Vmlist::parse(br#"{"version":1,"ids":{}}"#).unwrap();
        let verdict = judged(&vmlist, 100, &ConfDir::Empty, ConfRead::Missing);
        assert_eq!(verdict, Verdict::Absent);
    }
}
