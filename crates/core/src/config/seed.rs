//! The owner and modes that volumes had before they could declare them.
//!
//! In force only with `seed_defaults`, and only for what a volume does not say itself.

use crate::desired::Owner;
use crate::modes::{FilePattern, ModeRule};

/// Modes by the name of the volume.
pub(super) struct SeedModes {
    pub(super) dir: ModeRule,
    pub(super) file: ModeRule,
    pub(super) patterns: Vec<(FilePattern, ModeRule)>,
}

/// Returns the owner of a volume that names none.
pub(super) fn owner() -> Owner {
    Owner::Host { user: "nobody".to_owned(), group: Some("nogroup".to_owned()) }
}

/// Returns the modes of a volume of this name that gives none.
pub(super) fn modes(volume: &str) -> SeedModes {
    let (dir, file) = match volume {
        "ssl_certs" | "nginx_sites" => (0o755, 0o644),
        "portainer_data" => (0o770, 0o660),
        _ => (0o775, 0o664),
    };
    // A certificate is for everybody to read, its key is not.
    let keys: &[&str] = if volume == "ssl_certs" { &["*.key", "*.pem"] } else { &[] };
    let patterns = keys
        .iter()
        .filter_map(|pattern| FilePattern::new(pattern))
        .map(|pattern| (pattern, ModeRule::Exact(0o640)))
        .collect();
    SeedModes { dir: ModeRule::Exact(dir), file: ModeRule::Exact(file), patterns }
}
