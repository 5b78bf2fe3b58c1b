//! What can go wrong with the node directory itself; what Proxmox would refuse is an output of
//! `pct`, not one of these.

use std::io;
use std::path::{Path, PathBuf};

/// A node directory that could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The settings are not what they should be.
    #[error("settings {}", path.display())]
    Settings {
        /// The settings file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// Something is there that excludes what was asked for.
    #[error("{0}")]
    Conflict(String),
}

impl NodeError {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    /// Returns the system's error, for those who care which it is.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { error, .. } => Some(error.kind()),
            Self::Settings { .. } | Self::Conflict(_) => None,
        }
    }
}

/// Returns an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
