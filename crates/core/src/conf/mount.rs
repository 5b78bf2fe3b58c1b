//! Mount points: the values of `mp0` to `mp255` and of `rootfs`
//! (`PVE::LXC::Config::parse_volume`, `print_volume`).

use std::collections::BTreeMap;

use bstr::BString;

use crate::conf::idmap::IdLine;
use crate::conf::number::Number;
use crate::conf::schema::{self, Complaint, Rule};

/// What kind of thing is mounted (`classify_mountpoint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountClass {
    /// A directory of the host.
    Bind,
    /// A device of the host.
    Device,
    /// A volume of a storage.
    Volume,
}

impl MountClass {
    /// Returns the class of what is mounted.
    pub fn of(volume: &[u8]) -> Self {
        if volume.starts_with(b"/dev/") {
            Self::Device
        } else if volume.starts_with(b"/") {
            Self::Bind
        } else {
            Self::Volume
        }
    }

    /// Returns Proxmox's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Device => "device",
            Self::Volume => "volume",
        }
    }
}

/// A mount point that Proxmox cannot read, and so does not mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MountError(pub Complaint);

/// The value of a mount point key, read where that is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The value as it stands in the conf.
    pub raw: BString,
    /// The mount point it is.
    pub parsed: Result<MountPoint, MountError>,
}

impl MountEntry {
    pub(crate) fn mount_point(raw: &[u8]) -> Self {
        Self { raw: raw.into(), parsed: MountPoint::parse(raw) }
    }

    pub(crate) fn rootfs(raw: &[u8]) -> Self {
        Self { raw: raw.into(), parsed: MountPoint::parse_rootfs(raw) }
    }
}

/// The map of ids for one mount alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountIdMap {
    /// Ids inside are ids on disk.
    Passthrough,
    /// These ids inside (`container`) are these on disk (`host`), the rest as the container's map.
    Lines(Vec<IdLine>),
}

/// A mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// What kind of thing is mounted.
    pub class: MountClass,
    /// What is mounted: a path of the host, or a volume such as `local:100/vm-100-disk-1.raw`.
    pub volume: BString,
    /// Where, as written; `/` for the root file system. See [`normalise_path`].
    pub target: BString,
    /// All other options that are given, booleans as `0` or `1`.
    pub options: BTreeMap<String, String>,
}

impl MountPoint {
    /// Reads the value of an `mpN`.
    ///
    /// # Errors
    ///
    /// Returns what Proxmox finds wrong with it.
    pub fn parse(value: &[u8]) -> Result<Self, MountError> {
        Self::read(schema::MOUNT_POINT, value)
    }

    /// Reads the value of `rootfs`.
    ///
    /// # Errors
    ///
    /// Returns what Proxmox finds wrong with it.
    pub fn parse_rootfs(value: &[u8]) -> Result<Self, MountError> {
        Self::read(schema::ROOTFS, value)
    }

    fn read(rules: &[Rule], value: &[u8]) -> Result<Self, MountError> {
        let mut options = schema::parse_property_string(rules, value, None).map_err(MountError)?;
        let mut take = |name: &str| options.remove(bstr::BStr::new(name));
        let volume = take("volume").unwrap_or_default();
        let target = take("mp").unwrap_or_else(|| "/".into());
        // The schema leaves nothing but ASCII in the other options.
        let text = |bytes: BString| bytes.to_string();
        let options = options.into_iter().map(|(name, value)| (text(name), text(value))).collect();
        Ok(Self { class: MountClass::of(&volume), volume, target, options })
    }

    /// Returns a mount of a host directory.
    pub fn bind(host_path: &str, target: &str, options: &BTreeMap<String, String>) -> Self {
        Self {
            class: MountClass::of(host_path.as_bytes()),
            volume: host_path.into(),
            target: target.into(),
            options: BTreeMap::new(),
        }
        .with_options(options)
    }

    /// Returns the mount point with these options set and its other ones as they are.
    #[must_use]
    pub fn with_options(&self, options: &BTreeMap<String, String>) -> Self {
        let mut changed = self.clone();
        changed.options.extend(options.iter().map(|(name, value)| (name.clone(), value.clone())));
        // An empty list is no list: Proxmox refuses an option without a value.
        changed.options.retain(|_, value| !value.is_empty());
        changed
    }

    /// Returns the value in Proxmox's normal form for an `mpN`.
    pub fn render(&self) -> BString {
        self.print(true)
    }

    /// Returns the value in Proxmox's normal form for `rootfs`, which names no target.
    pub fn render_rootfs(&self) -> BString {
        self.print(false)
    }

    /// The volume without its name, then what is required, then the rest by name
    /// (`PVE::JSONSchema::print_property_string`).
    fn print(&self, with_target: bool) -> BString {
        let mut text = self.volume.clone();
        let mut add = |name: &str, value: &[u8]| {
            text.extend_from_slice(&[b",", name.as_bytes(), b"=", value].concat());
        };
        if with_target {
            add("mp", &self.target);
        }
        for (name, value) in &self.options {
            let size = if name == "size" { self.size() } else { None };
            add(name, size.map_or_else(|| value.clone(), Number::to_size).as_bytes());
        }
        text
    }

    /// Returns the size in bytes, where one is given.
    pub fn size(&self) -> Option<Number> {
        self.options.get("size").and_then(|size| Number::from_size(size.as_bytes()))
    }

    /// Returns whether a boolean option is given and on.
    pub fn is_on(&self, option: &str) -> bool {
        self.options.get(option).is_some_and(|value| value == "1")
    }

    /// Returns the map of ids for this mount alone, where one is given.
    pub fn idmap(&self) -> Option<MountIdMap> {
        let text = self.options.get("idmap")?;
        if text == "passthrough" {
            return Some(MountIdMap::Passthrough);
        }
        let line = |entry: &str| {
            let fields: Vec<&[u8]> = entry.split(':').map(str::as_bytes).collect();
            IdLine::from_fields(&fields)
        };
        // The pattern of the schema lets nothing pass that is no line.
        Some(MountIdMap::Lines(text.split(';').filter_map(line).collect()))
    }
}

/// Returns a path in the form in which equal places are equal: slashes are not repeated, none is
/// at the end, and one is in front.
///
/// Proxmox stores targets as given and mounts all of these spellings at the same place.
pub fn normalise_path(path: &[u8]) -> BString {
    let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty());
    let normal: Vec<u8> = parts.flat_map(|part| [b"/", part].concat()).collect();
    if normal.is_empty() { "/".into() } else { normal.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `pct set` of pve-container 6.1.
    #[test]
    fn a_mount_point_is_rendered_in_normal_form() {
        for (value, normal) in [
            ("mp=data2/,ro=1,volume=/srv/x/,backup=0", "/srv/x/,mp=data2/,backup=0,ro=1"),
            (
                "/srv//dbl,mp=//x//y/,shared=1,replicate=0,acl=1,mountoptions=noatime;nosuid,quota=0,size=4G,keepattrs=1",
                "/srv//dbl,mp=//x//y/,acl=1,keepattrs=1,mountoptions=noatime;nosuid,quota=0,replicate=0,shared=1,size=4G",
            ),
            ("/srv/z,mp=/z,ro=yes,size=10", "/srv/z,mp=/z,ro=1,size=10"),
            ("local:1/a.raw,mp=/z,size=1.5T", "local:1/a.raw,mp=/z,size=1536G"),
            ("/srv/with space,mp=/sp ace:x", "/srv/with space,mp=/sp ace:x"),
            ("volume=0,/srv/a,mp=/a", "/srv/a,mp=/a"),
        ] {
            let mount_point = MountPoint::parse(value.as_bytes()).unwrap();
            assert_eq!(mount_point.render(), normal, "{value}");
            assert_eq!(MountPoint::parse(normal.as_bytes()).unwrap().render(), normal, "{value}");
        }
    }

    #[test]
    fn what_is_mounted_has_a_class() {
        for (value, class) in [
            ("/srv/a,mp=/a", MountClass::Bind),
            ("/dev,mp=/a", MountClass::Bind),
            ("/dev/sda1,mp=/a", MountClass::Device),
            ("local:1,mp=/a", MountClass::Volume),
            ("relative,mp=/a", MountClass::Volume),
        ] {
            assert_eq!(MountPoint::parse(value.as_bytes()).unwrap().class, class, "{value}");
        }
    }

    #[test]
    fn given_options_are_set_and_others_stay() {
        let mount_point = MountPoint::parse(b"/srv/a,mp=/a,quota=1,ro=1").unwrap();
        let options = BTreeMap::from([("ro".to_owned(), "0".to_owned())]);
        assert_eq!(mount_point.with_options(&options).render(), "/srv/a,mp=/a,quota=1,ro=0");
        assert_eq!(MountPoint::bind("/srv/b", "/b", &options).render(), "/srv/b,mp=/b,ro=0");
        assert!(mount_point.is_on("ro") && !mount_point.is_on("acl"));
    }

    #[test]
    fn the_map_of_a_mount_is_read() {
        let idmap = |value: &str| MountPoint::parse(value.as_bytes()).unwrap().idmap();
        assert_eq!(idmap("/a,mp=/a"), None);
        assert_eq!(idmap("/a,mp=/a,idmap=passthrough"), Some(MountIdMap::Passthrough));
        let Some(MountIdMap::Lines(lines)) = idmap("/a,mp=/a,idmap=u:0:5000:1;g:0:05:10") else {
            panic!("no lines");
        };
        let texts: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["u 0 5000 1", "g 0 05 10"]);
    }

    #[test]
    fn targets_that_are_one_place_are_equal() {
        for (path, normal) in [
            ("//a//b/", "/a/b"),
            ("rel/x", "/rel/x"),
            ("/", "/"),
            ("", "/"),
            ("///", "/"),
            ("/a", "/a"),
        ] {
            assert_eq!(normalise_path(path.as_bytes()), normal, "{path}");
        }
    }
}
