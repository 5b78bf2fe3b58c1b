//! A request as it travels, and what the daemon makes of it.

use pctd_core::ids::Key;
use pctd_core::report::REPORT_VERSION;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use crate::config_files::ReadFile;
use crate::controller::followers::Op;
use crate::reconciler::Asked;

/// A request as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireRequest {
    /// The version of the protocol.
    pub(crate) version: u32,
    /// What is wanted.
    pub(crate) op: WireOp,
    /// Of which keys; none: all.
    #[serde(default)]
    pub(crate) keys: Vec<Key>,
    /// Whether the status is sent again whenever it is another one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) follow: bool,
    /// Whether big passes and changed file systems are meant.
    #[serde(default)]
    pub(crate) confirm: bool,
    /// Whether whatever is named is meant, however dangerous.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) yes: bool,
    /// The configuration files that the client would use; `reconcile` is refused where the daemon
    /// uses others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Vec<String>>,
    /// The configuration files as the client read them, wherever they are. The daemon reads its own
    /// again, and `reconcile` is refused where these are not what is in force then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<Vec<ReadFile>>,
}

/// See [`WireRequest::op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireOp {
    /// The status.
    Status,
    /// A look, now, and the steps that follow.
    Reconcile,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One answer.
    Once(Op),
    /// The status of these keys, and again whenever it is another one.
    Follow(Vec<Key>),
}

/// Reads a line of `peer`, who may not ask for everything.
///
/// # Errors
///
/// In words, why it is not done.
pub(super) fn read(line: &[u8], peer: Peer, config: &[String]) -> Result<Wanted, String> {
    let wire: WireRequest =
        serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    if wire.version != REPORT_VERSION {
        return Err(format!("version {} is not spoken here, {REPORT_VERSION} is", wire.version));
    }
    match (wire.op, peer) {
        (WireOp::Status, _) if wire.follow => Ok(Wanted::Follow(wire.keys)),
        (WireOp::Status, _) => Ok(Wanted::Once(Op::Status(wire.keys))),
        (WireOp::Reconcile, Peer::Guest(uid)) => {
            Err(format!("only root may change anything; uid {uid} may ask for the status"))
        }
        (WireOp::Reconcile, Peer::Root) => match &wire.config {
            Some(theirs) if theirs != config => {
                Err(format!("the daemon uses another configuration ({})", config.join(", ")))
            }
            _ => {
                let WireRequest { keys, confirm, yes, read, .. } = wire;
                let asked = Asked::of(confirm, yes, &keys);
                Ok(Wanted::Once(Op::Reconcile { keys, asked, read }))
            }
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
            (br#"{"version":2,"op":"status"}"#, "version 2 is not spoken here, 1 is"),
            (br#"{"version":1,"op":"status","x":1}"#, "this is no request: unknown field `x`"),
            (br#"{"version":1,"op":"status","keys":["12"]}"#, "this is no request: "),
            (b"[[[[", "this is no request: "),
        ] {
            let refused = read(line, Peer::Root, &[]).unwrap_err();
            assert!(refused.starts_with(said), "{refused}");
        }
        // serde_json ends at a depth that no stack minds.
        read(&b"[".repeat(100_000), Peer::Root, &[]).unwrap_err();
    }

    #[test]
    fn another_configuration_than_the_clients_is_not_reconciled() {
        let line = br#"{"version":1,"op":"reconcile","config":["/a"]}"#;
        read(line, Peer::Root, &["/a".to_owned()]).unwrap();
        let refused = read(line, Peer::Root, &["/b".to_owned()]).unwrap_err();
        assert_eq!(refused, "the daemon uses another configuration (/b)");
    }
}
