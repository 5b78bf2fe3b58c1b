//! Bind mounts in raw `lxc.mount.entry` lines, which LXC itself makes when a container starts
//! (lxc.container.conf(5)). The fields are those of fstab(5), blanks in them written in octal.

use bstr::{BString, ByteSlice as _};

use crate::conf::mount::{MountIdMap, normalise_path};
use crate::conf::raw_line::RawLine;
use crate::conf::section::Section;
use crate::conf::text::is_space;

/// A bind mount of a directory of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// The host path, normalised.
    pub source: BString,
    /// The path inside the container, absolute and normalised; in the line it has no slash before it,
    /// or the container does not start.
    pub target: BString,
    /// Its options, in their order.
    pub options: Vec<String>,
}

impl MountLine {
    /// Makes the ids inside those on disk (`lxc_idmapped_mounts_parent`). LXC has the namespace of
    /// the container for it and knows no other map that is still there at the next start. Where the
    /// file system cannot, and in a privileged container, the container does not start.
    pub const IDMAP: &str = "idmap=container";

    /// Reads the value of a line; `None` for what is no bind mount.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> =
            value.split(|byte| is_space(*byte)).filter(|field| !field.is_empty()).collect();
        let [source, target, _, options, ..] = fields[..] else { return None };
        let options: Vec<String> =
            options.split(|byte| *byte == b',').map(|o| o.to_str_lossy().into_owned()).collect();
        let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
        is_bind.then(|| Self {
            source: normalise_path(&unescape(source)),
            target: normalise_path(&unescape(target)),
            options,
        })
    }

    /// Returns the bind mounts of a section, each with its line as it counts.
    pub fn of(section: &Section) -> impl Iterator<Item = (Self, String)> + use<'_> {
        section.lxc().iter().filter_map(|(key, value)| {
            let line = Self::parse(value).filter(|_| key == RawLine::MOUNT_ENTRY)?;
            Some((line, format!("{key}: {value}")))
        })
    }

    /// Returns the bind mount that a raw line makes, if it makes one.
    pub fn made_by(line: &RawLine) -> Option<Self> {
        Self::parse(line.value().as_bytes()).filter(|_| line.key() == RawLine::MOUNT_ENTRY)
    }

    /// Returns whether it has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }

    /// Returns whether it includes what is mounted below the source.
    pub fn is_recursive(&self) -> bool {
        self.has("rbind")
    }

    /// Returns whether the mount gets a map of ids, of whatever namespace.
    pub fn is_mapped(&self) -> bool {
        self.options.iter().any(|option| option.starts_with("idmap="))
    }

    /// Returns the map of ids that the mount gets, where it is known.
    pub fn idmap(&self) -> Option<MountIdMap> {
        self.has(Self::IDMAP).then_some(MountIdMap::Passthrough)
    }

    /// Returns whether a container does not start where the source is missing.
    pub fn needs_source(&self) -> bool {
        // `optional` does not help where a detached mount is made.
        !self.has("optional") || self.is_mapped()
    }

    /// Returns the line.
    pub fn line(&self) -> RawLine {
        let target = self.target.strip_prefix(b"/").unwrap_or(&self.target);
        let (source, target) = (escape(&self.source), escape(target));
        let options = self.options.join(",");
        RawLine::new(RawLine::MOUNT_ENTRY, format!("{source} {target} none {options} 0 0"))
    }
}

/// Writes what would end a field, or begin an escape, in octal (getmntent(3)).
fn escape(path: &[u8]) -> String {
    let mut text = String::new();
    for piece in path.chunks(1) {
        match piece {
            b" " => text.push_str("\\040"),
            b"\t" => text.push_str("\\011"),
            b"\n" => text.push_str("\\012"),
            b"\\" => text.push_str("\\134"),
            _ => text.push(char::from(piece[0])),
        }
    }
    text
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let known = [(b"040", b' '), (b"011", b'\t'), (b"012", b'\n'), (b"134", b'\\')];
        let found = known.iter().find(|(digits, _)| *first == b'\\' && after.starts_with(*digits));
        let (byte, length) = found.map_or((*first, 0), |(digits, byte)| (*byte, digits.len()));
        plain.push(byte);
        rest = &after[length..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_written_with_blanks_in_octal_and_no_slash_before_its_target() {
        let line = MountLine {
            source: "/srv/a b\\c".into(),
            target: "/mnt/x y".into(),
            options: ["bind", "ro", "create=dir"].map(str::to_owned).to_vec(),
        };
        let raw = line.line();
        assert_eq!(
            raw.to_string(),
            "lxc.mount.entry: /srv/a\\040b\\134c mnt/x\\040y none bind,ro,create=dir 0 0"
        );
        assert_eq!(MountLine::parse(raw.value().as_bytes()), Some(line));
    }

    #[test]
    fn what_is_no_bind_mount_is_none_and_paths_are_normalised() {
        for value in ["tmpfs tmp tmpfs defaults 0 0", "/srv x none", "", "/srv x none ro 0 0"] {
            assert_eq!(MountLine::parse(value.as_bytes()), None, "{value}");
        }
        let line = MountLine::parse(b"/srv//a/  /mnt//x/\tnone rbind,optional 0 0").unwrap();
        assert_eq!(
            (line.source.to_string(), line.target.to_string()),
            ("/srv/a".into(), "/mnt/x".into())
        );
        assert!(!line.needs_source() && line.is_recursive());
    }

    #[test]
    fn a_map_of_ids_is_that_of_the_container_or_not_known() {
        let line =
            |options: &str| MountLine::parse(format!("/a a none {options}").as_bytes()).unwrap();
        let own = line("bind,optional,idmap=container");
        assert!(own.needs_source() && own.is_mapped());
        assert_eq!(own.idmap(), Some(MountIdMap::Passthrough));
        let other = line("bind,optional,idmap=/run/ns");
        assert!(other.needs_source() && other.is_mapped() && other.idmap().is_none());
        let none = line("bind,optional");
        assert!(!none.is_mapped() && none.idmap().is_none());
    }
}
