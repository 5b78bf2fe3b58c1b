//! The daemon's socket: newline-delimited JSON, one request a connection, one document back.
//!
//! Only root can reach it: the socket is made with mode 0600. A client cannot hold anything up:
//! lines are bounded, and a connection is a task of its own.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::report::REPORT_VERSION;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::controller::Event;
use crate::controller::followers::{Answer, Op, Request};

/// The longest request; a request names keys, and a node has a few thousand at most.
const MAX_REQUEST: u64 = 256 * 1024;

/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Whether big passes and changed file systems are meant.
    #[serde(default)]
    pub(crate) confirm: bool,
    /// The configuration files the client would use; `reconcile` is refused where the daemon
    /// uses others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Vec<String>>,
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

/// Listens at `path`, which only this user can connect to.
///
/// # Errors
///
/// The directory or the socket cannot be made.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        // The daemon's lock is held by now, so a socket that is there is a dead one.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Made closed, not closed afterwards: there is no moment in which others could connect.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = StdUnixListener::bind(path);
    rustix::process::umask(old);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves clients until the listener fails.
pub(crate) async fn serve(
    listener: UnixListener,
    config: Vec<String>,
    events: mpsc::Sender<Event>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (events, config) = (events.clone(), config.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &config, &events).await {
                        debug!("a client left: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: give them time to come back.
                debug!("cannot accept a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    config: &[String],
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
    tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await??;
    let answer = match request(&line, config) {
        Ok(op) => {
            let (reply, answer) = oneshot::channel();
            let sent = events.send(Event::Client(Request { op, reply })).await;
            match (sent, answer.await) {
                (Ok(()), Ok(answer)) => answer,
                _ => error("the daemon is stopping".to_owned()),
            }
        }
        Err(why) => error(why),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    stream.shutdown().await
}

fn request(line: &str, config: &[String]) -> Result<Op, String> {
    let wire: WireRequest =
        serde_json::from_str(line).map_err(|error| format!("this is no request: {error}"))?;
    if wire.version != REPORT_VERSION {
        return Err(format!("version {} is not spoken here, {REPORT_VERSION} is", wire.version));
    }
    match wire.op {
        WireOp::Status => Ok(Op::Status(wire.keys)),
        WireOp::Reconcile => match wire.config {
            Some(theirs) if theirs != config => {
                Err(format!("the daemon uses another configuration ({})", config.join(", ")))
            }
            _ => Ok(Op::Reconcile { keys: wire.keys, confirm: wire.confirm }),
        },
    }
}

fn error(error: String) -> Answer {
    Answer::Error { version: REPORT_VERSION, error }
}
