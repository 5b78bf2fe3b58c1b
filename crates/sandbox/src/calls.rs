//! The record of what was run: one line when a `pct` begins, one when it ends.
//!
//! A run that hangs or is killed has no second line, so a test can see that too.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::parent_id;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::NodeError;
use crate::file;
use crate::paths::Root;

/// One run of `pct`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PctCall {
    /// The arguments after `pct`.
    pub argv: Vec<String>,
    /// The process.
    pub pid: u32,
    /// The process that ran it; whoever adopts orphans, where that one has ended already.
    pub parent: u32,
    /// When it began.
    pub began: SystemTime,
    /// When it ended, if it did.
    pub ended: Option<SystemTime>,
    /// The exit code, if it ended.
    pub exit: Option<u8>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    pid: u32,
    #[serde(default)]
    parent: u32,
    /// Milliseconds since the epoch.
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

fn append(root: &Root, argv: Option<Vec<String>>, exit: Option<u8>) -> Result<(), NodeError> {
    let path = root.calls();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let line = Line { pid: std::process::id(), parent: parent_id(), at, argv, exit };
    let mut text = serde_json::to_string(&line)
        .map_err(|error| NodeError::Settings { path: path.clone(), error })?;
    text.push('\n');
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| OpenOptions::new().append(true).create(true).open(&path))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| NodeError::io(&path, error))
}

/// Notes that a run begins.
pub(crate) fn began(root: &Root, argv: &[String]) -> Result<(), NodeError> {
    append(root, Some(argv.to_vec()), None)
}

/// Notes that it ends.
pub(crate) fn ended(root: &Root, exit: u8) -> Result<(), NodeError> {
    append(root, None, Some(exit))
}

/// Returns all runs so far, in the order they began.
pub(crate) fn read(root: &Root) -> Result<Vec<PctCall>, NodeError> {
    let path = root.calls();
    let content =
        file::read(&path).map_err(|error| NodeError::io(&path, error))?.unwrap_or_default();
    let mut calls: Vec<PctCall> = Vec::new();
    for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Line = serde_json::from_slice(line)
            .map_err(|error| NodeError::Settings { path: path.clone(), error })?;
        let at = UNIX_EPOCH + Duration::from_millis(line.at);
        match line.argv {
            Some(argv) => {
                let Line { pid, parent, .. } = line;
                calls.push(PctCall { argv, pid, parent, began: at, ended: None, exit: None });
            }
            None => {
                if let Some(call) = calls.iter_mut().rev().find(|call| call.pid == line.pid) {
                    call.ended = Some(at);
                    call.exit = line.exit;
                }
            }
        }
    }
    Ok(calls)
}
