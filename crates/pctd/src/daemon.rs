//! `pctd run`: the sources of events, the loop, and the life of the service.
//!
//! ```text
//! config files --+
//! conf, locks ---+--> Event --> Controller --> Engine --> pct, directories
//! polls ---------+                  |
//! clients -------+                  +--> STATUS=, watchdog, answers
//! signals --> reload or stop
//! ```
//!
//! Every task is either the loop itself or feeds it; the end of the loop is the end of the
//! process, and an unexpected end is an error that systemd answers with a restart.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pctd_core::config::Severity;
use pctd_core::desired::Desired;
use pctd_core::ledger::Memory;
use pctd_node::{LockError, NodeLock, PATIENCE};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::config_files::ConfigPaths;
use crate::controller::{ConfigEvent, Controller, Event, News};
use crate::daemon::poll::Poller;
use crate::daemon::service::Service;
use crate::daemon::signals::Signal;
use crate::daemon::socket::{Reach, Reread};
use crate::daemon::watches::{Role, Seen, Watches};
use crate::engine::Engine;

mod config_poll;
mod metrics;
mod poll;
mod service;
mod signals;
pub(crate) mod socket;
mod watches;

/// Why the daemon could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Another pctd works on this node.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Something the process needs from the system is not to be had.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// inotify is not to be had.
    #[error("cannot watch files: {0}")]
    Watch(#[from] notify::Error),
    /// The loop ended though nobody asked.
    #[error("the loop ended unexpectedly")]
    LoopEnded,
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

/// Events waiting for the loop. Each is tiny, the loop never blocks, and a source that finds the
/// channel full waits; the file watch, which must not wait, goes through a channel of its own.
const EVENTS: usize = 256;

/// Findings of the file watch that wait to become events; more are dropped, since these few make
/// the loop look anyway and the poll and the resync find what was missed.
const FINDINGS: usize = 1024;

/// Clients that wait until the configuration is read again; one after the other, and more wait at
/// their connections.
const REREADS: usize = 1;

/// Editors write a file in several steps; this long after the first one it is read.
const CONFIG_SETTLE: Duration = Duration::from_millis(100);

/// How long the end waits for metrics that are being written, and for the last ones.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// The reason why it could not start, or that the loop ended unasked.
pub(crate) fn run(engine: Engine, config: ConfigPaths) -> Result<(), DaemonError> {
    let lock = NodeLock::acquire(engine.node().paths())?;
    engine.node().reload_ledger();
    if let Memory::Lost(why) = engine.node().ledger().memory() {
        warn!("the ledger is lost: {why}; nothing is concluded from what is not in it");
    }
    let signals = signals::listen().map_err(system("cannot listen to signals"))?;
    // One thread suffices for a loop that never blocks; all work is on the blocking pool.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(10))
        .build()
        .map_err(system("cannot start the runtime"))?;
    let ended = runtime.block_on(serve(engine, config, signals));
    // A read that hangs on a dead pmxcfs must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    ended
}

async fn serve(
    engine: Engine,
    config: ConfigPaths,
    mut signals: mpsc::Receiver<Signal>,
) -> Result<(), DaemonError> {
    info!("pctd {} started", env!("CARGO_PKG_VERSION"));
    let Some((seen, first)) = read_first(&config, &mut signals).await else {
        info!("stopped");
        return Ok(());
    };
    let desired = match &first {
        ConfigEvent::Accepted { desired, .. } => Arc::clone(desired),
        ConfigEvent::Rejected { .. } => Arc::new(Desired::default()),
    };
    let (events_tx, events) = mpsc::channel(EVENTS);
    // Without a bound, but a volume is told of once until it is walked.
    let (doubts_tx, doubts) = mpsc::unbounded_channel();
    let engine = Arc::new(engine.watching(move |volume, why| {
        // Nobody listens only when the loop has ended.
        let _ended = doubts_tx.send(Event::Doubt(volume, why));
    }));
    tokio::spawn(pass_on(doubts, events_tx.clone()));
    let (stop_tx, stop) = watch::channel(false);
    let (desired_tx, desired_rx) = watch::channel(Arc::clone(&desired));
    let (summary, summary_rx) = watch::channel(String::new());

    let listener = socket::listen(&engine.node().paths().socket())
        .map_err(system("cannot listen on the socket"))?;
    let (rereads, reread) = mpsc::channel(REREADS);
    let reach = Reach { config: shown(&config), events: events_tx.clone(), rereads };
    tokio::spawn(socket::serve(listener, reach));
    let (reloaded, reloaded_rx) = watch::channel(());
    tokio::spawn(socket::admit(Arc::clone(&engine), desired_rx.clone(), reloaded_rx));
    let paths = engine.node().paths().clone();
    let measuring =
        metrics::run(paths.clone(), desired_rx.clone(), events_tx.clone(), stop.clone());
    let measuring = tokio::spawn(measuring);
    let last_desired = desired_rx.clone();
    let service = Service::start().map_err(system("cannot start a thread"))?;
    tokio::spawn(service::report(service.clone(), summary_rx, events_tx.clone()));
    let poller = Poller::new(Arc::clone(&engine), desired_rx.clone(), events_tx.clone());
    let feed = Feed {
        config,
        service: service.clone(),
        events: events_tx,
        desired: desired_tx,
        reloaded,
        stop: stop_tx,
    };
    let (found_tx, found) = mpsc::channel(FINDINGS);
    let wanted = wanted_watches(&engine, &desired);
    tokio::spawn(config_poll::run(feed.config.clone(), seen, desired_rx, found_tx.clone()));
    let watches = Watches::new(wanted, found_tx)?;
    tokio::spawn(poller.run(watches));
    let feeding = tokio::spawn(feed.run(found, signals, reread));

    let controller = Controller::new(engine, first, summary);
    controller.run(events, stop, || service.ready(), |time| service.extend(time)).await;
    service.flush();
    // What it is writing must not come after the last word; longer than this nobody waits for it.
    let _late = timeout(LAST_WORD, measuring).await;
    let desired = Arc::clone(&last_desired.borrow());
    // Nor for the last word, where the directory does not answer.
    let _late = timeout(LAST_WORD, metrics::stopped(&paths, &desired)).await;
    if !feeding.is_finished() {
        return Err(DaemonError::LoopEnded);
    }
    info!("stopped");
    Ok(())
}

/// Passes on what the watch is in doubt of.
async fn pass_on(mut doubts: mpsc::UnboundedReceiver<Event>, events: mpsc::Sender<Event>) {
    while let Some(doubt) = doubts.recv().await {
        if events.send(doubt).await.is_err() {
            return;
        }
    }
}

/// Reads the configuration for the first time, or says why there is none yet; `None` where it is the
/// end before that.
///
/// A file system that does not answer is not waited for, as guests wait for READY; `config_poll` goes
/// on waiting, and finds it when it answers.
async fn read_first(
    config: &ConfigPaths,
    signals: &mut mpsc::Receiver<Signal>,
) -> Option<(config_poll::Look, ConfigEvent)> {
    let files = config.clone();
    // Looked at before it is put in force: what changes in between is then seen to have changed.
    let reading = tokio::task::spawn_blocking(move || (config_poll::look(&files), read(&files)));
    let why = tokio::select! {
        read = timeout(PATIENCE, reading) => match read {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(panic)) => format!("reading it ended unexpectedly: {panic}"),
            Err(_elapsed) => format!(
                "it has not answered for {} s (a server that is down, or a file system that hangs?); \
                 it is read when it does",
                PATIENCE.as_secs()
            ),
        },
        () = stop(signals) => return None,
    };
    let files = shown(config);
    let error = format!("the configuration ({}): {why}", files.join(", "));
    Some((Err(error.clone()), ConfigEvent::Rejected { error, files }))
}

/// Waits for the signal to stop.
async fn stop(signals: &mut mpsc::Receiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(Signal::Stop) => return,
            // It is being read.
            Some(Signal::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Returns the paths of the configuration as they are shown.
fn shown(config: &ConfigPaths) -> Vec<String> {
    config.paths().iter().map(|path| path.display().to_string()).collect()
}

/// Returns the directories to be watched, beside those of the configuration.
fn wanted_watches(engine: &Engine, desired: &Desired) -> Vec<(PathBuf, Role)> {
    let paths = engine.node().paths();
    // Through pmxcfs's own links, so that the name of the node need not be known yet.
    let confs = match &desired.settings.node {
        Some(node) => paths.lxc_dir(node),
        None => paths.local().join("lxc"),
    };
    vec![(confs, Role::Confs), (paths.conf_lock_dir(), Role::Locks)]
}

/// Turns what the watches and the signals say into events.
///
/// A read of the configuration can hang, on a dead pmxcfs or NFS server; it holds up neither the
/// signals nor what the watches find, and meanwhile there is no second one.
struct Feed {
    config: ConfigPaths,
    service: Service,
    events: mpsc::Sender<Event>,
    desired: watch::Sender<Arc<Desired>>,
    /// Told after every read, also of what was in force already.
    reloaded: watch::Sender<()>,
    stop: watch::Sender<bool>,
}

/// The loop is gone.
type Gone = mpsc::error::SendError<Event>;

impl Feed {
    async fn run(
        self,
        found: mpsc::Receiver<Seen>,
        signals: mpsc::Receiver<Signal>,
        rereads: mpsc::Receiver<Reread>,
    ) {
        let (edit, edited) = watch::channel(());
        let (reload, asked) = watch::channel(());
        let reading = self.read_again(edited, asked, rereads);
        let feed = async { tokio::try_join!(self.pass_on(found, edit), reading) };
        // What is left undone at a stop, nobody needs any more.
        tokio::select! {
            () = self.heed(signals, reload) => {}
            _gone = feed => {}
        }
    }

    /// Passes on what the signals ask for, until it is the end.
    async fn heed(&self, mut signals: mpsc::Receiver<Signal>, reload: watch::Sender<()>) {
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Reload => reload.send_replace(()),
                Signal::Stop => {
                    self.service.stopping();
                    self.stop.send_replace(true);
                    return;
                }
            }
        }
        // Nobody listens to signals any more; that is no reason to end.
        std::future::pending::<()>().await;
    }

    /// Passes on what the watches find.
    async fn pass_on(
        &self,
        mut found: mpsc::Receiver<Seen>,
        edit: watch::Sender<()>,
    ) -> Result<(), Gone> {
        while let Some(seen) = found.recv().await {
            match seen {
                Seen::Conf(ctid) => self.events.send(Event::Container(ctid, News::Conf)).await?,
                Seen::Lock(ctid) => self.events.send(Event::Container(ctid, News::Lock)).await?,
                Seen::Lost => self.events.send(Event::All("file events were lost")).await?,
                Seen::Config => edit.send_replace(()),
            }
        }
        Ok(())
    }

    /// Reads the configuration when it was edited, a reload is asked for, or a client waits for it; what comes while it is
    /// read makes it be read once more.
    async fn read_again(
        &self,
        mut edited: watch::Receiver<()>,
        mut asked: watch::Receiver<()>,
        mut rereads: mpsc::Receiver<Reread>,
    ) -> Result<(), Gone> {
        loop {
            // Cancel-safe: a dropped `changed` is seen by the next one, and receiving loses nothing.
            tokio::select! {
                Ok(()) = edited.changed() => {
                    tokio::time::sleep(CONFIG_SETTLE).await;
                    // What arrived meanwhile is part of the same edit.
                    edited.mark_unchanged();
                    self.reload().await?;
                }
                Ok(()) = asked.changed() => {
                    self.service.reloading();
                    self.reload().await?;
                    self.service.ready();
                }
                Some(reply) = rereads.recv() => {
                    self.reload().await?;
                    // The client may have hung up.
                    let _unheard = reply.send(());
                }
                else => return Ok(()),
            }
        }
    }

    /// Reads the configuration and tells the loop what became of it.
    async fn reload(&self) -> Result<(), Gone> {
        let config = self.config.clone();
        let event = match tokio::task::spawn_blocking(move || read(&config)).await {
            Ok(event) => event,
            Err(panic) => {
                warn!("reading the configuration ended unexpectedly: {panic}");
                return Ok(());
            }
        };
        if let ConfigEvent::Accepted { desired, .. } = &event {
            self.desired.send_if_modified(|old| {
                let changed = **old != **desired;
                *old = Arc::clone(desired);
                changed
            });
        }
        self.reloaded.send_replace(());
        self.events.send(Event::Config(event)).await
    }
}

/// Reads and validates the configuration.
fn read(config: &ConfigPaths) -> ConfigEvent {
    match config.load() {
        Ok((loaded, files)) => {
            for note in &loaded.notes {
                match note.severity {
                    Severity::Warning => warn!("{note}"),
                    Severity::Ignored => debug!("{note}"),
                }
            }
            ConfigEvent::Accepted { desired: Arc::new(loaded.desired), files }
        }
        Err(error) => {
            let files = config.files().iter().map(|path| path.display().to_string()).collect();
            ConfigEvent::Rejected { error: crate::config_files::chain(&error), files }
        }
    }
}
