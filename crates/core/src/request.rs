//! What clients ask of the daemon: a request as it travels, and what is made of it.
//!
//! Whoever reads the socket says who is at its other end; here is decided what they may ask for.

use serde::{Deserialize, Serialize};

use crate::conf::Digest;
use crate::ids::Key;
use crate::order::Order;
use crate::report::REPORT_VERSION;

/// The longest request of root: it names keys, and a node has a few thousand at most.
const ROOT_REQUEST: u64 = 256 * 1024;
/// The longest request of others, who have less to say.
const GUEST_REQUEST: u64 = 16 * 1024;

/// A request as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireRequest {
    /// The version of the protocol.
    pub version: u32,
    /// What is wanted.
    pub op: WireOp,
    /// Of which keys; none: all.
    #[serde(default)]
    pub keys: Vec<Key>,
    /// Whether the status is sent again whenever it is another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Whether big passes and changed file systems are meant.
    #[serde(default)]
    pub confirm: bool,
    /// Whether whatever is named is meant, however dangerous.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yes: bool,
    /// The configuration files that the client would use; `reconcile` is refused where the daemon
    /// uses others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<String>>,
    /// The configuration files as the client read them, wherever they are. The daemon reads its own
    /// again, and `reconcile` is refused where these are not what is in force then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Vec<ReadFile>>,
    /// What is ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// See [`WireRequest::op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireOp {
    /// The status.
    Status,
    /// A look, now, and the steps that follow.
    Reconcile,
    /// An order for one volume.
    Order,
}

/// A file that was read, and a name for what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// The file.
    pub path: String,
    /// The SHA-1 of its bytes; only to tell contents apart, which are root's alone.
    pub sha1: String,
}

impl ReadFile {
    /// Returns what these bytes of a file are known by.
    pub fn of(path: &str, bytes: &[u8]) -> Self {
        Self { path: path.to_owned(), sha1: Digest::of(bytes).to_string() }
    }
}

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Root, or whoever runs the daemon.
    Root,
    /// Another user, who may look.
    Guest(u32),
}

impl Peer {
    /// Returns how many bytes a request may have.
    pub const fn longest_request(self) -> u64 {
        match self {
            Self::Root => ROOT_REQUEST,
            Self::Guest(_) => GUEST_REQUEST,
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// One answer.
    Once(Op),
    /// The status of these keys, and again whenever it is another one.
    Follow(Vec<Key>),
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The status of these keys, or of all.
    Status(Vec<Key>),
    /// A look at these keys, or at all, now.
    Reconcile {
        /// The keys.
        keys: Vec<Key>,
        /// Whether an admin asked for it, and what is meant by that.
        asked: Asked,
        /// What the client read, where it is not done with another configuration in force.
        read: Option<Vec<ReadFile>>,
    },
    /// An order, carried out between two runs over its volume.
    Order {
        /// What is to be done.
        order: Order,
        /// As of `Reconcile`.
        read: Option<Vec<ReadFile>>,
    },
}

/// Whether an admin asked for a run; the later of these means the earlier, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Asked {
    /// Nobody did.
    #[default]
    No,
    /// With everything else: big passes and changed file systems are meant, and what was refused
    /// before is tried again.
    All,
    /// By name, for an earlier run: a container that is gone is made again.
    Again,
    /// By name: another id map is meant as well, as far as its root keeps its host id.
    Named,
    /// By name and with `--yes`: whatever id map it is.
    Sure,
}

impl Asked {
    /// Returns what a confirmation means, of these keys or, where none is named, of all.
    pub const fn of(confirm: bool, yes: bool, keys: &[Key]) -> Self {
        match (confirm || yes, keys) {
            (false, _) => Self::No,
            (true, []) => Self::All,
            (true, _) if yes => Self::Sure,
            (true, _) => Self::Named,
        }
    }

    /// Returns what of it still counts after somebody else was in the way: another id map may be
    /// declared or in force by then than the one that was meant.
    #[must_use]
    pub fn later(self) -> Self {
        self.min(Self::Again)
    }
}

/// Reads a line of `peer`, who may not ask for everything; `config` is what the daemon uses.
///
/// # Errors
///
/// In words, why it is not done.
pub fn read(line: &[u8], peer: Peer, config: &[String]) -> Result<Wanted, String> {
    // A list of the values alone would be read as well, and say `yes` by its place.
    if line.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err("this is no request: it is no JSON object".to_owned());
    }
    let wire: WireRequest =
        serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    if wire.version != REPORT_VERSION {
        return Err(format!("version {} is not spoken here, {REPORT_VERSION} is", wire.version));
    }
    match (wire.op, peer) {
        (WireOp::Status, _) if wire.follow => Ok(Wanted::Follow(wire.keys)),
        (WireOp::Status, _) => Ok(Wanted::Once(Op::Status(wire.keys))),
        (WireOp::Reconcile | WireOp::Order, Peer::Guest(uid)) => {
            Err(format!("only root may change anything; uid {uid} may ask for the status"))
        }
        (_, Peer::Root) if wire.config.as_deref().is_some_and(|theirs| theirs != config) => {
            Err(format!("the daemon uses another configuration ({})", config.join(", ")))
        }
        (WireOp::Reconcile, Peer::Root) => {
            let WireRequest { keys, confirm, yes, read, .. } = wire;
            let asked = Asked::of(confirm, yes, &keys);
            Ok(Wanted::Once(Op::Reconcile { keys, asked, read }))
        }
        (WireOp::Order, Peer::Root) => match wire.order {
            Some(order) => Ok(Wanted::Once(Op::Order { order, read: wire.read })),
            None => Err("this is no request: nothing is ordered".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_look_and_root_may_change() {
        let reconcile = br#"{"version":1,"op":"reconcile","confirm":true}"#;
        let op = Op::Reconcile { keys: Vec::new(), asked: Asked::All, read: None };
        assert_eq!(read(reconcile, Peer::Root, &[]), Ok(Wanted::Once(op)));
        let refused = read(reconcile, Peer::Guest(1000), &[]).unwrap_err();
        assert_eq!(refused, "only root may change anything; uid 1000 may ask for the status");
        for peer in [Peer::Root, Peer::Guest(1000)] {
            let status = read(br#"{"version":1,"op":"status"}"#, peer, &[]);
            assert_eq!(status, Ok(Wanted::Once(Op::Status(Vec::new()))));
            let follow = read(br#"{"version":1,"op":"status","follow":true}"#, peer, &[]);
            assert_eq!(follow, Ok(Wanted::Follow(Vec::new())));
        }
    }

    #[test]
    fn only_a_name_with_a_yes_means_everything() {
        for (what, means) in [
            (r#""keys":["100"],"confirm":true,"yes":true"#, Asked::Sure),
            (r#""keys":["100"],"confirm":true"#, Asked::Named),
            (r#""confirm":true,"yes":true"#, Asked::All),
            (r#""keys":["100"]"#, Asked::No),
        ] {
            let line = format!(r#"{{"version":1,"op":"reconcile",{what}}}"#);
            let Ok(Wanted::Once(Op::Reconcile { asked, .. })) =
                read(line.as_bytes(), Peer::Root, &[])
            else {
                panic!("{line} is refused")
            };
            assert_eq!(asked, means, "{line}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        for (line, said) in [
            (b"".as_slice(), "this is no request: EOF"),
            (b"\xff\xfe", "this is no request: "),
            (
                br#"[1,"reconcile",["100"],false,true,true]"#,
                "this is no request: it is no JSON object",
            ),
            (br#"{"version":2,"op":"status"}"#, "version 2 is not spoken here, 1 is"),
            (br#"{"version":1,"op":"status","x":1}"#, "this is no request: unknown field `x`"),
            (br#"{"version":1,"op":"status","keys":["12"]}"#, "this is no request: "),
            (b"[[[[", "this is no request: "),
        ] {
            let refused = read(line, Peer::Root, &[]).unwrap_err();
            assert!(refused.starts_with(said), "{refused}");
        }
        // serde_json ends at a depth that no stack minds.
        let deep =
            [br#"{"version":1,"op":"status","keys":"#.as_slice(), &b"[".repeat(100_000)].concat();
        read(&deep, Peer::Root, &[]).unwrap_err();
    }

    #[test]
    fn another_configuration_than_the_clients_is_not_reconciled() {
        let line = br#"{"version":1,"op":"reconcile","config":["/a"]}"#;
        read(line, Peer::Root, &["/a".to_owned()]).unwrap();
        let refused = read(line, Peer::Root, &["/b".to_owned()]).unwrap_err();
        assert_eq!(refused, "the daemon uses another configuration (/b)");
    }
}
