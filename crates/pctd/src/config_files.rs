//! Reading configuration files: which there are, and what they say together.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pctd_core::config::{self, Loaded, Problems, Strictness};

/// Where configuration is read from, in the order it is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigPaths {
    paths: Vec<PathBuf>,
    /// Whether the paths were named; the default ones may be missing.
    named: bool,
}

/// The bytes of one file under the name it is shown by.
pub(crate) type FileBytes = (String, Vec<u8>);

/// Why there is no configuration to put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not even one file was found.
    #[error("no configuration found: neither {0} exists; name it with --config")]
    Nothing(String),
    /// The files say something that cannot be put in force.
    #[error("{0}")]
    Invalid(Problems),
}

impl ConfigPaths {
    /// Returns the paths that were named, or the default ones in `directory`.
    pub(crate) fn new(named: Vec<PathBuf>, directory: &Path) -> Self {
        if named.is_empty() {
            let paths = vec![directory.join("config.json"), directory.join("conf.d")];
            Self { paths, named: false }
        } else {
            Self { paths: named, named: true }
        }
    }

    /// Returns the paths, as named.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Returns the directories whose changes may be changes of the configuration: editors rename
    /// over a file, so its directory tells and the file does not.
    pub(crate) fn watched_directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                directories.push(path.clone());
            } else {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                directories.push(parent.unwrap_or_else(|| Path::new(".")).to_path_buf());
                if path.extension().is_none() {
                    // `conf.d` may be made later; what is not there yet is watched once it is.
                    directories.push(path.clone());
                }
            }
        }
        directories.sort();
        directories.dedup();
        directories
    }

    /// Reads every file: of a directory its `*.json` in the order of their names.
    ///
    /// # Errors
    ///
    /// A named path that cannot be read, or nothing to read at all.
    pub(crate) fn read(&self) -> Result<Vec<FileBytes>, ConfigError> {
        let mut files = Vec::new();
        for path in &self.paths {
            for file in self.files_of(path)? {
                files.push((file.display().to_string(), read(&file)?));
            }
        }
        if files.is_empty() {
            let tried: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
            return Err(ConfigError::Nothing(tried.join(" nor ")));
        }
        Ok(files)
    }

    /// Reads and validates.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], and everything that is wrong with the files at once.
    pub(crate) fn load(&self) -> Result<(Loaded, Vec<String>), ConfigError> {
        let files = self.read()?;
        let names = files.iter().map(|(name, _)| name.clone()).collect();
        config::load(&files, Strictness::Lenient)
            .map(|loaded| (loaded, names))
            .map_err(ConfigError::Invalid)
    }

    /// Returns the files there are now, as far as they can be listed; for a status.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let listed = |path: &PathBuf| self.files_of(path).unwrap_or_else(|_| vec![path.clone()]);
        self.paths.iter().flat_map(listed).collect()
    }

    fn files_of(&self, path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound && !self.named;
        match fs::metadata(path) {
            Err(error) if missing(&error) => Ok(Vec::new()),
            Err(source) => Err(ConfigError::Read { path: path.display().to_string(), source }),
            Ok(metadata) if !metadata.is_dir() => Ok(vec![path.to_path_buf()]),
            Ok(_) => {
                let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
                let entries = entries.map_err(|source| ConfigError::Read {
                    path: path.display().to_string(),
                    source,
                })?;
                let is_json = |file: &PathBuf| file.extension().is_some_and(|e| e == "json");
                let mut files: Vec<_> =
                    entries.iter().map(fs::DirEntry::path).filter(is_json).collect();
                files.sort();
                Ok(files)
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(file).map_err(|source| ConfigError::Read { path: file.display().to_string(), source })
}

/// Returns a name for the state of a directory that changes when it is another one: (device, inode).
pub(crate) fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns an error with what it comes from, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
