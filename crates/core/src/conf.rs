//! Container confs: `/etc/pve/lxc/<ctid>.conf` read as Proxmox reads it.
//!
//! The reader follows `PVE::LXC::Config` of pve-container 6.1 to the byte, its oddities included,
//! since what counts is what Proxmox will do with a file. A corpus of confs with what the original
//! made of them is kept in `tests/recorded/conf-corpus`.
//!
//! A conf is bytes; names of properties and keys are ASCII, values need not be UTF-8. Nothing here
//! opens a file, and nothing fails but where Proxmox's own reader does.
//!
//! ```
//! use pctd_core::conf::Conf;
//! use pctd_core::ids::Ctid;
//!
//! let ctid: Ctid = "100".parse()?;
//! let conf = Conf::parse(ctid, b"unprivileged: yes\nmp0: /srv/a,mp=/a,ro=1\ngarbage\n")?;
//! assert!(conf.is_effectively_unprivileged());
//! assert_eq!(conf.warnings, ["vm 100 - unable to parse config: garbage\n"]);
//! let mount = conf.mounts().values().next().and_then(|entry| entry.parsed.as_ref().ok());
//! assert_eq!(mount.map(|mount| mount.target.to_string()).as_deref(), Some("/a"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BStr, BString};

use crate::idmap::IdMap;
use crate::ids::{Ctid, MpKey};

mod digest;
mod edit;
mod idmap;
mod lxc_key;
mod mount;
mod mount_line;
mod number;
mod parse;
mod pending;
mod raw_line;
pub mod schema;
mod section;
pub mod text;
mod write;

pub use digest::Digest;
pub use edit::{EditError, RawEdit};
pub use idmap::{IdLine, IdMapError, RootIds};
pub use mount::{MountClass, MountEntry, MountError, MountIdMap, MountPoint, normalise_path};
pub use mount_line::MountLine;
pub use number::Number;
pub use pending::{Force, Pending};
pub use raw_line::{RawLine, RawLineError};
pub use section::Section;
pub use text::NotAReference;
pub use write::RewriteError;

/// A container's conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// What is in force.
    pub current: Section,
    /// What waits for the container to stop.
    pub pending: Pending,
    /// The snapshots by name.
    pub snapshots: BTreeMap<String, Section>,
    /// What Proxmox warns about, in order; each a line with its end.
    pub warnings: Vec<BString>,
    /// The digest of the bytes read.
    pub digest: Digest,
    /// A property `digest`, which Proxmox takes for the digest.
    pub digest_overridden: Option<BString>,
}

/// A conf that Proxmox's reader dies of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a property stands where Proxmox keeps a table")]
pub struct ConfError {
    /// What Perl died of.
    #[source]
    pub cause: NotAReference,
    /// What was warned about until then.
    pub warnings: Vec<BString>,
    /// The digest of the bytes read.
    pub digest: Digest,
}

impl Conf {
    /// Reads a conf; `ctid` is for the warnings.
    ///
    /// # Errors
    ///
    /// Fails only where Proxmox's reader dies: when a property has the name of one of its tables
    /// (`lxc`, `snapshots`) and a line for that table follows.
    pub fn parse(ctid: Ctid, bytes: &[u8]) -> Result<Self, ConfError> {
        parse::parse(ctid, bytes)
    }

    pub(crate) fn empty(digest: Digest) -> Self {
        Self {
            current: Section::default(),
            pending: Pending::default(),
            snapshots: BTreeMap::new(),
            warnings: Vec::new(),
            digest,
            digest_overridden: None,
        }
    }

    /// Returns the conf as Proxmox would write it back.
    ///
    /// # Errors
    ///
    /// Fails where Proxmox does.
    pub fn rewritten(&self) -> Result<Vec<u8>, RewriteError> {
        write::write(self)
    }

    /// Returns the lock, which keeps everybody from changing the conf.
    pub fn lock(&self) -> Option<&BStr> {
        self.current.get("lock").filter(|lock| text::is_true(lock))
    }

    /// Returns whether the container is a template.
    pub fn is_template(&self) -> bool {
        self.flag("template")
    }

    /// Returns whether mount points may not be changed.
    pub fn is_protected(&self) -> bool {
        self.flag("protection")
    }

    /// Returns whether the property `unprivileged` is true; absent, it is not.
    pub fn unprivileged_flag(&self) -> bool {
        self.flag("unprivileged")
    }

    fn flag(&self, name: &str) -> bool {
        self.current.flag(name).unwrap_or(false)
    }

    /// Returns whether there are `lxc.idmap` lines in force.
    pub fn has_custom_idmap(&self) -> bool {
        self.current.has_custom_idmap()
    }

    /// Returns whether the container runs with a map of ids: by lines of its own, or by the flag.
    pub fn is_effectively_unprivileged(&self) -> bool {
        self.has_custom_idmap() || self.unprivileged_flag()
    }

    /// Returns the id map in force; see [`Section::effective_idmap`].
    ///
    /// # Errors
    ///
    /// Fails where Proxmox dies: at the first line that is none.
    pub fn effective_idmap(&self) -> Result<IdMap, IdMapError> {
        self.current.effective_idmap()
    }

    /// Returns Proxmox's message about overlapping lines; see [`Section::idmap_overlap`].
    pub fn idmap_overlap(&self) -> Option<String> {
        self.current.idmap_overlap()
    }

    /// Returns the ids of root on the host; see [`Section::root_ids_as_proxmox`].
    ///
    /// # Errors
    ///
    /// As [`Conf::effective_idmap`].
    pub fn root_ids_as_proxmox(&self) -> Result<RootIds, IdMapError> {
        self.current.root_ids_as_proxmox()
    }

    /// Returns whether there is a root file system: a conf without one is still being made.
    pub fn has_rootfs(&self) -> bool {
        self.current.rootfs().is_some()
    }

    /// Returns the host name.
    pub fn hostname(&self) -> Option<&BStr> {
        self.current.get("hostname")
    }

    /// Returns the mount points in force.
    pub const fn mounts(&self) -> &BTreeMap<MpKey, MountEntry> {
        self.current.mounts()
    }

    /// Returns the mount points that wait for the container to stop.
    pub const fn pending_mounts(&self) -> &BTreeMap<MpKey, MountEntry> {
        self.pending.section.mounts()
    }

    /// Returns whether a mount point is to be deleted when the container stops.
    pub fn pending_delete(&self, key: MpKey) -> bool {
        self.pending.is_deleted(&key.to_string())
    }

    /// Returns the names of all properties that change or go when the container stops.
    pub fn pending_names(&self) -> BTreeSet<String> {
        let deletes = self.pending.deletes().into_keys().map(|name| name.to_string());
        let section = &self.pending.section;
        let others = ["description", "env"].into_iter().filter(|name| section.get(name).is_some());
        section
            .properties()
            .keys()
            .cloned()
            .chain(deletes)
            .chain(others.map(str::to_owned))
            .collect()
    }

    /// Returns the mount point keys that are taken: in force, waiting, or waiting to go.
    pub fn mount_keys_in_use(&self) -> BTreeSet<MpKey> {
        let deleted = self.pending.deletes().into_keys();
        let deleted = deleted.filter_map(|name| name.to_string().parse::<MpKey>().ok());
        self.mounts().keys().chain(self.pending_mounts().keys()).copied().chain(deleted).collect()
    }
}

#[cfg(test)]
mod tests {
    use bstr::ByteSlice;
    use proptest::prelude::*;

    use super::*;

    fn conf(text: &str) -> Conf {
        Conf::parse(Ctid::new(100).unwrap(), text.as_bytes()).unwrap()
    }

    #[test]
    fn a_container_is_unprivileged_by_the_flag_or_by_lines_of_its_own() {
        let (by_default, none) = (IdMap::default_unprivileged(), IdMap::privileged());
        for (text, flag, effective, map) in [
            ("", false, false, Some(&none)),
            ("unprivileged: 0", false, false, Some(&none)),
            ("unprivileged: on", true, true, Some(&by_default)),
            ("unprivileged: maybe", true, true, Some(&by_default)),
            (
                "lxc.idmap: u 0 100000 65536\nlxc.idmap: g 0 100000 65536",
                false,
                true,
                Some(&by_default),
            ),
            ("lxc.id_map: u 0 5 1", false, false, Some(&none)),
            ("unprivileged: 1\nlxc.idmap: b 0 5 1", true, true, None),
            ("[s1]\nunprivileged: 1", false, false, Some(&none)),
        ] {
            let conf = conf(text);
            assert_eq!(conf.unprivileged_flag(), flag, "{text}");
            assert_eq!(conf.is_effectively_unprivileged(), effective, "{text}");
            assert_eq!(conf.effective_idmap().ok().as_ref(), map, "{text}");
        }
    }

    #[test]
    fn a_line_of_the_map_that_is_none_is_named() {
        let conf = conf("lxc.idmap: u 0 5 1\nlxc.idmap:\n");
        assert_eq!(conf.effective_idmap(), Err(IdMapError::BadLine("".into())));
        assert_eq!(conf.idmap_overlap(), None);
    }

    #[test]
    fn every_key_named_anywhere_is_in_use() {
        let conf =
            conf("mp0: /a,mp=/a\nmp300: x\n[pve:pending]\nmp7: garbage\ndelete: mp3,!mp9 mp01");
        let keys: Vec<String> = conf.mount_keys_in_use().iter().map(MpKey::to_string).collect();
        assert_eq!(keys, ["mp0", "mp3", "mp7", "mp9"]);
        assert!(conf.pending_delete(MpKey::new(9)) && !conf.pending_delete(MpKey::new(7)));
        let names: Vec<String> = conf.pending_names().into_iter().collect();
        assert_eq!(names, ["mp01", "mp3", "mp7", "mp9"]);
    }

    #[test]
    fn a_lock_that_perl_takes_for_false_locks_nothing() {
        assert_eq!(conf("lock: 0").lock(), None);
        assert_eq!(conf("lock: strange").lock(), Some(BStr::new("strange")));
    }

    /// Lines of a conf, sound ones and others.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "mp0: /srv/a,mp=/a,ro=1",
            "mp1: local:1/a.raw,mp=/b,size=8G",
            "unused0: local:1/a.raw",
            "rootfs: local:1/b.raw",
            "onboot: yes",
            "memory: 00512",
            "unprivileged: 1",
            "lxc.idmap = u 0 100000 65536",
            "lxc.idmap: g\t0 5 1 ",
            "lxc.environment.runtime: A=1",
            "lxc.mount.entry: /a b none bind 0 0",
            "#note: 100%",
            "description: %41",
            "[pve:pending]",
            "[snap]",
            "delete: mp0, !swap",
            "snapstate: delete",
            "garbage",
            "",
        ]);
        let odd = prop::collection::vec(
            prop::sample::select(b"[]:=#%, \t\ra0lxc./mp\xff".to_vec()),
            0..12,
        );
        prop_oneof![3 => known.prop_map(|line| line.as_bytes().to_vec()), 1 => odd]
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(line(), 0..20).prop_map(|lines| lines.join(&b'\n'))
    }

    fn exercise(bytes: &[u8]) {
        let Ok(conf) = Conf::parse(Ctid::new(100).unwrap(), bytes) else { return };
        let _ = (conf.rewritten(), conf.effective_idmap(), conf.idmap_overlap());
        let _ = (conf.root_ids_as_proxmox(), conf.mount_keys_in_use(), conf.pending_names());
        for (_, mount) in conf.current.volumes() {
            let again = MountPoint::parse(&mount.render());
            // What `volume=` let in that cannot stand without it is the exception.
            if !mount.volume.contains(&b'=') {
                assert_eq!(again.map(|mount| mount.render()), Ok(mount.render()));
            }
            let _ = (mount.size(), mount.idmap());
        }
    }

    proptest! {
        #[test]
        fn parser_never_panics_on_any_input(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            exercise(&bytes);
        }

        #[test]
        fn parser_never_panics_on_what_looks_like_a_conf(bytes in text()) {
            exercise(&bytes);
        }

        #[test]
        fn checks_never_panic_on_any_value(
            name in prop::sample::select(vec![
                "mp0", "rootfs", "net0", "dev0", "features", "unused0", "hostname", "nameserver", "startup",
                "tags", "timezone", "cpulimit", "cores", "searchdomain", "parent", "env", "entrypoint",
            ]),
            value in prop::collection::vec(prop::sample::select(b"=,;:/.%a0\xff -+e\n\0".to_vec()), 0..24),
        ) {
            let _ = (schema::check(name, &value), schema::verify(name, &value));
        }

        /// The first time a header may stay behind of which the second time sees nothing: that of
        /// a pending section that holds no more than an empty comment.
        #[test]
        fn rewritten_is_a_fixed_point(bytes in text()) {
            let read = |bytes: &[u8]| Conf::parse(Ctid::new(100).unwrap(), bytes).unwrap();
            let once = read(&bytes).rewritten().unwrap();
            let again = read(&once);
            let twice = again.rewritten().unwrap();
            prop_assert_eq!(read(&twice).rewritten().unwrap(), twice.clone());
            if !once.ends_with(b"[pve:pending]\n") && !once.contains_str("[pve:pending]\n\n[") {
                prop_assert_eq!(twice.as_bstr(), once.as_bstr());
            }
            let dropped = again.warnings.iter().any(|w| w.contains_str("parse config"));
            prop_assert!(!dropped, "{}", once.as_bstr());
        }
    }
}
