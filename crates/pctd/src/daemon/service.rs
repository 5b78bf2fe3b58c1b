//! What systemd is told: READY, STATUS, RELOADING, STOPPING, how long that takes, and the watchdog.
//!
//! Without `NOTIFY_SOCKET` every call here does nothing.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::request::Op;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::controller::Event;
use crate::controller::followers::Request;

/// What systemd may be told.
#[derive(Debug, Clone)]
enum Word {
    Ready,
    Reloading,
    Stopping,
    Extend(Duration),
    Status(String),
    Alive,
    /// Nothing; answered once all that came before was said.
    Said(SyncSender<()>),
}

/// Words waiting to be sent; a few, because only a service manager that hangs lets them wait.
const WAITING: usize = 16;

/// How long the end of the process waits for the last words to be sent.
const FLUSH: Duration = Duration::from_millis(500);

/// The way to systemd: a thread of its own, because a send blocks while the manager does not
/// read, and the loop must go on whatever the manager does.
#[derive(Debug, Clone)]
pub(super) struct Service {
    words: SyncSender<Word>,
}

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub(super) fn start() -> io::Result<Self> {
        let (words, waiting) = std::sync::mpsc::sync_channel(WAITING);
        let send = move || waiting.iter().for_each(|word| send(&word));
        std::thread::Builder::new().name("systemd".to_owned()).spawn(send)?;
        Ok(Self { words })
    }

    fn tell(&self, word: Word) {
        // Full: the manager does not read, and nothing said now would reach it.
        let _unheard = self.words.try_send(word);
    }

    /// Says that the first configuration is in force and the node was looked at.
    pub(super) fn ready(&self) {
        self.tell(Word::Ready);
    }

    /// Says that the configuration is being read again.
    pub(super) fn reloading(&self) {
        self.tell(Word::Reloading);
    }

    /// Says that the service is ending.
    pub(super) fn stopping(&self) {
        self.tell(Word::Stopping);
    }

    /// Asks for at least this much time from now on. systemd never brings a deadline forward for it.
    pub(super) fn extend(&self, time: Duration) {
        self.tell(Word::Extend(time));
    }

    /// Waits until everything was said, but not for a manager that does not read.
    pub(super) fn flush(&self) {
        let (said, heard) = std::sync::mpsc::sync_channel(1);
        self.tell(Word::Said(said));
        let _too_late = heard.recv_timeout(FLUSH);
    }
}

fn send(word: &Word) {
    let told = match word {
        Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
        // systemd 253 and newer insist on the time.
        Word::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Word::Extend(time) => {
            let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(time)])
        }
        Word::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Said(said) => {
            // Whoever asked may have stopped waiting.
            let _late = said.try_send(());
            return;
        }
    };
    if let Err(error) = told {
        debug!("systemd could not be told: {error}");
    }
}

/// Passes on the summary when it changes, and feeds the watchdog while the loop answers.
pub(super) async fn report(
    service: Service,
    mut summary: watch::Receiver<String>,
    events: mpsc::Sender<Event>,
) {
    let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
    // Without a watchdog the timer only has to exist.
    let mut alive = tokio::time::interval(watchdog.unwrap_or(Duration::from_hours(1)));
    loop {
        // Cancel-safe: a dropped `changed` is seen by the next one, a dropped `tick` is due again.
        tokio::select! {
            changed = summary.changed() => {
                if changed.is_err() {
                    return;
                }
                let text = summary.borrow_and_update().clone();
                service.tell(Word::Status(text));
            }
            _ = alive.tick(), if watchdog.is_some() => {
                if answers(&events).await {
                    service.tell(Word::Alive);
                }
            }
        }
    }
}

/// Returns whether the loop takes an event and answers it: a sign of life that cannot be faked by
/// a task beside it.
async fn answers(events: &mpsc::Sender<Event>) -> bool {
    let (reply, answer) = oneshot::channel();
    // A key that nobody declares, so that the answer is small.
    let nobody = "a".parse().map(Key::Volume);
    let request = Request { op: Op::Status(nobody.into_iter().collect()), reply };
    events.send(Event::Client(request)).await.is_ok() && answer.await.is_ok()
}
