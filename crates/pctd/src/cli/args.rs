//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use pctd_core::ids::{Ctid, Key, VolumeName};

/// Keeps LXC bind mounts, their owners and modes as one JSON file declares them.
///
/// Exit codes: 0 in sync or done; 1 failure; 2 wrong usage; 3 differences, or something is held.
#[derive(Debug, Parser)]
#[command(name = "pctd", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A configuration file, or a directory whose *.json are read in the order of their names.
    /// Default: /etc/pctd/config.json and /etc/pctd/conf.d.
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Vec<PathBuf>,
    /// Accept a configuration that others than root could change, by its mode, its owner or a
    /// directory on the way to it.
    #[arg(long, global = true)]
    pub(crate) allow_insecure_config: bool,
    /// Put every path of the node below this directory.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// The pct program. Default: /usr/sbin/pct, below --root.
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) pct: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    pub(crate) output_format: OutputFormat,
    /// Say more: what was observed and planned, and what is not managed.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Say less: warnings and errors only.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// See [`Global::output_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document on one line.
    Json,
    /// One JSON document, indented.
    JsonPretty,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground.
    ///
    /// Logs to journald under systemd, else to standard error. SIGHUP reads the configuration
    /// again, SIGTERM ends after the step under way, a second SIGTERM ends at once.
    Run,
    /// Show what would be done, as a diff. Changes nothing and needs no daemon.
    ///
    /// Exit code 0: in sync. 3: something differs or is held.
    Plan {
        /// Containers (by id) and volumes (by name); default: all.
        #[arg(value_name = "KEY")]
        keys: Vec<Key>,
    },
    /// Converge once, through the daemon if one runs.
    ///
    /// Naming a volume confirms a pass over more than `confirm_above` entries, and a file system
    /// that is another one than before; naming a container, that another id map is meant by which its
    /// root keeps its host id. Exit code 0: converged. 3: something is held.
    Apply {
        /// Containers (by id) and volumes (by name); default: all.
        #[arg(value_name = "KEY")]
        keys: Vec<Key>,
        /// Confirm big passes for every volume, and whatever id map a container that is named is to have.
        #[arg(long)]
        yes: bool,
    },
    /// Show the conditions the daemon sees.
    ///
    /// Exit code 0: all converged. 3: not.
    Status {
        /// Containers (by id) and volumes (by name); default: all.
        #[arg(value_name = "KEY")]
        keys: Vec<Key>,
        /// Show it again whenever it changes, as a table on a terminal, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Validate configuration files; looks at nothing else.
    Check {
        /// Files or directories; default: those of --config.
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Treat what looks like a typing error as an error everywhere.
        #[arg(long)]
        strict: bool,
    },
    /// Show a container as pctd reads it.
    Inspect {
        /// The container.
        ctid: Ctid,
    },
    /// Explain whose ids are whose, in a container and at a path.
    ///
    /// PATH is one of the host or of the container. Exit code 0: all is as it should be. 3:
    /// something is not.
    Doctor {
        /// The container.
        ctid: Ctid,
        /// What is to be explained besides.
        path: Option<String>,
    },
    /// Give entries of a volume the owners and modes back that pctd took from them.
    ///
    /// Takes back the last pass and everything since: what is still as pctd left it is restored, what
    /// somebody changed since is left alone. Afterwards nothing of it is done again until `pctd apply
    /// VOLUME`, or until other owners or modes are declared. Exit code 0: all is as it was. 3:
    /// something was left; with --dry-run, something would be restored.
    Undo {
        /// The volume; with --list none: all of which anything is on record, declared or not.
        #[arg(required_unless_present = "list")]
        volume: Option<VolumeName>,
        /// Show the passes that can be taken back.
        #[arg(long, conflicts_with_all = ["back_to", "setuid", "dry_run"])]
        list: bool,
        /// Go back to before this pass, by its number in the list.
        #[arg(long, value_name = "PASS")]
        back_to: Option<u64>,
        /// Give setuid and setgid of files back, too. Whoever pctd gave such a file to may have written
        /// to it since.
        #[arg(long)]
        setuid: bool,
        /// Only count; changes nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give entries of a volume other ids on disk, by a constant.
    ///
    /// A user or group from FROM up to COUNT more becomes the one that is as far above TO; others are
    /// left alone, and modes are. For a tree that was made for one id map and is to be read in another.
    /// One that was interrupted is gone on with by the same command, and `pctd undo VOLUME` takes it
    /// back. Exit code 0: all is shifted. 3: with --dry-run, something would be.
    Shift {
        /// The volume.
        volume: VolumeName,
        /// The first id that is changed.
        #[arg(long, value_name = "ID")]
        from: u32,
        /// What it becomes.
        #[arg(long, value_name = "ID")]
        to: u32,
        /// How many ids are changed.
        #[arg(long, default_value_t = 65_536, value_name = "N")]
        count: u32,
        /// Only count, and name a few; changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Also while containers that mount the volume run.
        #[arg(long)]
        live: bool,
    },
    /// Print the JSON schema of the configuration, or of what commands print.
    Schema {
        /// Of what.
        #[arg(value_enum, default_value_t = SchemaOf::Config)]
        of: SchemaOf,
    },
    /// Print a completion script.
    Completions {
        /// For this shell.
        shell: Shell,
    },
    /// Print the manual page, or that of a command.
    Man {
        /// The command.
        command: Option<String>,
    },
}

/// See [`Command::Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The configuration files.
    Config,
    /// What `plan` and `apply` print.
    Plan,
    /// What `status` prints.
    Status,
    /// What `inspect` prints.
    Inspect,
    /// What `check` prints.
    Check,
    /// What `doctor` prints.
    Doctor,
    /// What `undo` prints.
    Undo,
    /// What `shift` prints.
    Shift,
}
