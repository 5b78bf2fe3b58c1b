//! Reading configuration files: which there are, and what they say together.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pctd_core::config::{self, Loaded, Problems, Strictness};
use pctd_core::request::ReadFile;
use pctd_node::NodePaths;
use pctd_node::trusted::{Flaw, ReadError, Reading};

/// What of a directory is read.
const SUFFIX: &str = ".json";

/// Where configuration is read from, in the order it is merged.
#[derive(Debug, Clone)]
pub(crate) struct ConfigPaths {
    paths: Vec<PathBuf>,
    /// Whether the paths were named; the default ones may be missing.
    named: bool,
    /// Whose files are believed.
    trust: Trust,
}

/// Who may have written what is put in force.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Root alone; the way to the files is judged, on this node.
    Root(NodePaths),
    /// Anybody, because the admin said so.
    Anybody,
}

/// The bytes of one file under the name it is shown by.
pub(crate) type FileBytes = (String, Vec<u8>);

/// Why there is no configuration to put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file or directory cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Not even one file was found.
    #[error("no configuration found: neither {0} exists; name it with --config")]
    Nothing(String),
    /// Others than root could have written it.
    #[error("{}", insecure(.0))]
    Insecure(Vec<Flaw>),
    /// The files say something that cannot be put in force.
    #[error("{0}")]
    Invalid(Problems),
}

fn insecure(flaws: &[Flaw]) -> String {
    let flaws: Vec<String> = flaws.iter().map(ToString::to_string).collect();
    format!(
        "others than root could change the configuration: {}; where that is meant, \
         --allow-insecure-config allows it",
        flaws.join("; ")
    )
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The files.
    pub(crate) files: Vec<FileBytes>,
    /// Why they must not be put in force; none: they may be.
    pub(crate) flaws: Vec<Flaw>,
}

impl ConfigPaths {
    /// Returns the paths that were named, or the default ones in `directory`.
    pub(crate) fn new(named: Vec<PathBuf>, directory: &Path, trust: Trust) -> Self {
        if named.is_empty() {
            let paths = vec![directory.join("config.json"), directory.join("conf.d")];
            Self { paths, named: false, trust }
        } else {
            Self { paths: named, named: true, trust }
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
    pub(crate) fn read(&self) -> Result<Files, ConfigError> {
        let mut reading = Reading::default();
        for path in &self.paths {
            let read = match &self.trust {
                Trust::Root(paths) => reading.add(paths, path, SUFFIX),
                Trust::Anybody => Self::read_unjudged(path, &mut reading),
            };
            match read {
                Err(error) if !self.named && error.is_missing(path) => {}
                read => read?,
            }
        }
        if reading.files.is_empty() {
            let tried: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
            return Err(ConfigError::Nothing(tried.join(" nor ")));
        }
        let shown = |(path, bytes): (PathBuf, Vec<u8>)| (path.display().to_string(), bytes);
        Ok(Files { files: reading.files.into_iter().map(shown).collect(), flaws: reading.flaws })
    }

    /// Reads and validates what nobody but root can have written.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], and everything that is wrong with the files at once.
    pub(crate) fn load(&self) -> Result<(Loaded, Vec<ReadFile>), ConfigError> {
        let Files { files, flaws } = self.read()?;
        if !flaws.is_empty() {
            return Err(ConfigError::Insecure(flaws));
        }
        let read = files.iter().map(|(name, bytes)| ReadFile::of(name, bytes)).collect();
        config::load(&files, Strictness::Lenient)
            .map(|loaded| (loaded, read))
            .map_err(ConfigError::Invalid)
    }

    /// Returns the files there are now, as far as they can be listed; for a status.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let listed = |path: &PathBuf| files_of(path).unwrap_or_else(|_| vec![path.clone()]);
        self.paths.iter().flat_map(listed).collect()
    }

    fn read_unjudged(path: &Path, reading: &mut Reading) -> Result<(), ReadError> {
        for file in files_of(path)? {
            let bytes = fs::read(&file);
            let bytes = bytes.map_err(|source| ReadError { path: file.clone(), source })?;
            reading.files.push((file, bytes));
        }
        Ok(())
    }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let failed = |source| ReadError { path: path.to_path_buf(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
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
