//! A real daemon over a node directory, and what it tells systemd.

use std::io::{self, Read as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes this long unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The `pctd` of one node directory.
#[derive(Debug, Clone)]
pub struct Pctd {
    program: PathBuf,
    root: PathBuf,
}

impl Pctd {
    /// Returns the `pctd` at `program` for the node below `root`.
    pub fn new(program: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), root: root.into() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(arguments).stdin(Stdio::null());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().expect("pctd is there"))
    }

    /// Runs a command and kills it after this time; -1 is the code of one that did not end before.
    pub fn run_and_kill(&self, arguments: &[&str], after: Duration) -> Ran {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("pctd is there");
        std::thread::sleep(after);
        // One that has ended is no longer there to be killed.
        let _killed = child.kill();
        Ran::from(child.wait_with_output().expect("it is a child"))
    }

    /// Runs a command and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments = [arguments, &["--output-format", "json"]].concat();
        let ran = self.run(&arguments);
        let read = serde_json::from_str(&ran.stdout);
        read.unwrap_or_else(|error| panic!("{arguments:?} printed no JSON: {error}\n{ran:?}"))
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&self) -> Daemon {
        let daemon = self.spawn(&[]);
        daemon.wait_for("READY=1");
        daemon
    }

    /// Starts the daemon with these variables, and does not wait.
    pub fn spawn(&self, variables: &[(&str, &str)]) -> Daemon {
        let notify = self.root.join("run/notify");
        let _not_there = std::fs::remove_file(&notify);
        std::fs::create_dir_all(self.root.join("run")).expect("the node can be written");
        let socket = UnixDatagram::bind(&notify).expect("a socket can be made");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        let log = std::fs::File::create(self.root.join("run/pctd.log")).expect("a log can be made");
        let child = self
            .command(&["run", "-v"])
            .envs(variables.iter().copied())
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("pctd is there");
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        // Always read, as systemd does; ends when the daemon does.
        std::thread::spawn(move || listen(&socket, &heard));
        Daemon { pctd: self.clone(), child, told }
    }
}

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    pctd: Pctd,
    child: Child,
    told: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.pctd.root.join("run/pctd.log")).unwrap_or_default()
    }

    /// Waits until systemd is told this line, and forgets all that was told until then.
    pub fn wait_for(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut told = self.told.lock().expect("nobody panics with it");
            if let Some(at) = told.iter().position(|told| told == line) {
                told.drain(..=at);
                return;
            }
            drop(told);
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the daemon did not say {line}; its log:\n{}", self.log());
    }

    /// Returns what systemd was told since then.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().expect("nobody panics with it").clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("the daemon runs");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the daemon did not end; its log:\n{}", self.log());
    }

    /// Stops it as systemd would, and expects a clean end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}; its log:\n{}", self.log());
    }

    /// Returns its status.
    pub fn status(&self) -> serde_json::Value {
        self.pctd.json(&["status"])
    }

    /// Waits until the status is as wanted; returns how long that took.
    pub fn until(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Duration {
        let begun = Instant::now();
        let mut last = serde_json::Value::Null;
        while begun.elapsed() < PATIENCE {
            last = self.status();
            if wanted(&last) {
                return begun.elapsed();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not reached: {what}\n{last:#}\nlog:\n{}", self.log());
    }

    /// Waits until every key has this state.
    pub fn until_all(&self, state: &str) -> Duration {
        self.until(&format!("all {state}"), |status| states(status).all(|(_, is)| is == state))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn listen(socket: &UnixDatagram, told: &Mutex<Vec<String>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let lines = text.lines().map(str::to_owned);
        told.lock().expect("nobody panics with it").extend(lines);
    }
}

/// Returns every key of a status with its state.
pub fn states(status: &serde_json::Value) -> impl Iterator<Item = (String, String)> {
    let of = |section: &str| status[section].as_object().cloned().unwrap_or_default();
    of("volumes")
        .into_iter()
        .chain(of("containers"))
        .map(|(key, value)| (key, value["state"].as_str().unwrap_or_default().to_owned()))
}

/// Waits until `wanted` holds; returns how long that took.
///
/// # Panics
///
/// It did not within [`PATIENCE`].
pub fn eventually(what: &str, mut wanted: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if wanted() {
            return begun.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("not reached: {what}");
}

/// Returns a file's text; empty where there is none.
pub fn text(path: &Path) -> String {
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("{}: {error}", path.display())
        }
        _ => text,
    }
}
