//! The daemon's socket: newline-delimited JSON, one request a connection, one document back, or a
//! stream of them while the status is followed.
//!
//! A client cannot hold anything up: it has a task of its own, so many bytes and so much time, and
//! there are only so many places. Descriptors that it passes along are never received.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::report::REPORT_VERSION;
use pctd_core::request::{self, Op, Peer, Wanted};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::debug;

use crate::controller::Event;
use crate::controller::followers::{Answer, Request};

mod peer;

pub(crate) use peer::admit;

use peer::Places;

/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether a client that waits is still there.
const PRESENCE: Duration = Duration::from_secs(1);

/// How often a status that is followed may be sent.
const FOLLOW: Duration = Duration::from_secs(1);

/// How long a guest's place stays taken after the answer. An answer costs the loop time, and with
/// this all guests together get 160 in a second, and one of them 80.
const GUEST_PAUSE: Duration = Duration::from_millis(100);

/// Listens at `path`, which only this user can connect to until [`admit`] says more.
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

/// A client's wish that the configuration is read again, answered once the loop is told of it.
pub(crate) type Reread = oneshot::Sender<()>;

/// What clients reach.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// The paths of the configuration.
    pub(crate) config: Vec<String>,
    /// The loop.
    pub(crate) events: mpsc::Sender<Event>,
    /// Whoever reads the configuration.
    pub(crate) rereads: mpsc::Sender<Reread>,
}

/// Serves clients until the listener fails.
pub(crate) async fn serve(listener: UnixListener, reach: Reach) {
    let places = Places::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: give them time to come back.
                debug!("cannot accept a client: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(peer) = peer::of(&stream) else { continue };
        let Some(place) = places.take(peer) else {
            turn_away(&stream);
            continue;
        };
        let reach = reach.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, peer, &reach).await {
                debug!("a client left: {error}");
            }
            if let Peer::Guest(_) = peer {
                sleep(GUEST_PAUSE).await;
            }
            drop(place);
        });
    }
}

/// Tells a client for which there is no place, if it can be told at once.
fn turn_away(stream: &UnixStream) {
    let mut text =
        serde_json::to_vec(&error("too many clients; try again".to_owned())).unwrap_or_default();
    text.push(b'\n');
    let _unheard = send(stream, &text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

async fn converse(mut stream: UnixStream, peer: Peer, reach: &Reach) -> io::Result<()> {
    let line = match hear(&mut stream, peer).await? {
        Ok(line) => line,
        Err(why) => return say(&mut stream, &error(why)).await,
    };
    if line.is_empty() {
        return Ok(());
    }
    match request::read(&line, peer, &reach.config) {
        Ok(Wanted::Once(op)) => match ask(op, &stream, reach).await {
            Some(answer) => say(&mut stream, &answer).await?,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        },
        Ok(Wanted::Follow(keys)) => follow(&mut stream, keys, reach).await?,
        Err(why) => say(&mut stream, &error(why)).await?,
    }
    stream.shutdown().await
}

/// Reads one line, or up to the end of what is sent; or says what is wrong with it.
///
/// Plain reads: descriptors that came along are closed by the kernel.
async fn hear(stream: &mut UnixStream, peer: Peer) -> io::Result<Result<Vec<u8>, String>> {
    let longest = peer.longest_request();
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(longest));
    match timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Ok(read) => read?,
        Err(_elapsed) => {
            return Ok(Err(format!("no request came within {} s", REQUEST_TIMEOUT.as_secs())));
        }
    };
    let is_cut = reader.get_ref().limit() == 0 && line.last() != Some(&b'\n');
    Ok(if is_cut { Err(format!("a request has at most {longest} bytes")) } else { Ok(line) })
}

/// Has the loop answer; `None` where the client hung up meanwhile.
async fn ask(op: Op, stream: &UnixStream, reach: &Reach) -> Option<Answer> {
    let stopping = || error("the daemon is stopping".to_owned());
    if let Op::Reconcile { read: Some(_), .. } | Op::Order { read: Some(_), .. } = op {
        // An edit that nobody told of yet is read now, and known to the loop before the request is.
        let (reply, read) = oneshot::channel();
        let sent = reach.rereads.send(reply).await.is_ok();
        if !sent || await_from(read, stream).await?.is_none() {
            return Some(stopping());
        }
    }
    let (reply, answer) = oneshot::channel();
    if reach.events.send(Event::Client(Request { op, reply })).await.is_err() {
        return Some(stopping());
    }
    Some(await_from(answer, stream).await?.unwrap_or_else(stopping))
}

/// Waits for an answer, `Some(None)` where there will be none; `None` where the client hung up.
async fn await_from<T>(mut answer: oneshot::Receiver<T>, stream: &UnixStream) -> Option<Option<T>> {
    let mut look = interval(PRESENCE);
    loop {
        // Cancel-safe: the answer stays in its channel, a dropped tick is due again.
        tokio::select! {
            answer = &mut answer => return Some(answer.ok()),
            _ = look.tick() => if has_left(stream) {
                return None;
            },
        }
    }
}

/// Sends the status, and again whenever it is another one, until the client leaves.
async fn follow(stream: &mut UnixStream, keys: Vec<Key>, reach: &Reach) -> io::Result<()> {
    let mut last = None;
    let mut due = interval(FOLLOW);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if has_left(stream) {
            return Ok(());
        }
        let Some(answer) = ask(Op::Status(keys.clone()), stream, reach).await else {
            return Ok(());
        };
        let is_over = matches!(answer, Answer::Error { .. });
        if last.as_ref() != Some(&answer) {
            say(stream, &answer).await?;
        }
        if is_over {
            return Ok(());
        }
        last = Some(answer);
    }
}

async fn say(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    timeout(ANSWER_TIMEOUT, stream.write_all(&text)).await?
}

/// Returns whether the client closed the connection. One that only ended its side of it (`nc -N`)
/// still waits for the answer; to the kernel that is no hang-up (`unix_poll`).
fn has_left(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once)).is_ok()
        && asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn error(error: String) -> Answer {
    Answer::Error { version: REPORT_VERSION, error }
}
