//! The table of mounts, `/proc/self/mountinfo`.

use std::collections::BTreeMap;
use std::io;

use bstr::ByteSlice as _;

/// File systems that mount further ones below themselves when a name is looked up.
const AUTOMOUNTING: [&str; 7] = ["autofs", "nfs", "nfs4", "cifs", "smb3", "afs", "ceph"];

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The mount it is mounted on.
    parent: u64,
    /// The device of the super block, which for btrfs is not the one `stat` shows.
    pub(crate) device: (u32, u32),
    pub(crate) mount_point: Vec<u8>,
    pub(crate) kind: String,
}

/// Every mount of this mount namespace, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountTable {
    entries: BTreeMap<u64, MountEntry>,
}

impl MountTable {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// Reads mountinfo (`proc_pid_mountinfo(5)`); lines of another form are left out.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self { entries: text.lines().filter_map(parse_line).collect() }
    }

    pub(crate) fn get(&self, mount: u64) -> Option<&MountEntry> {
        self.entries.get(&mount)
    }

    /// Returns the kinds of file systems that the way to a mount leads over, its own first.
    pub(crate) fn kinds_above(&self, mount: u64) -> Vec<&str> {
        // No more than there are: a table that changed while it was read may have a circle.
        let chain = std::iter::successors(self.get(mount), |entry| self.get(entry.parent));
        chain.take(self.entries.len()).map(|entry| entry.kind.as_str()).collect()
    }

    /// Returns what is mounted on this mount below a directory of it, by its path from there; the first
    /// of several.
    pub(crate) fn first_below(&self, mount: u64, directory: &[u8]) -> Option<&[u8]> {
        let mut above = directory.to_vec();
        if !above.ends_with(b"/") {
            above.push(b'/');
        }
        let on_it = self.entries.values().filter(|entry| entry.parent == mount);
        let below = on_it.filter_map(|entry| entry.mount_point.strip_prefix(above.as_slice()));
        below.filter(|rest| !rest.is_empty()).min()
    }

    /// Returns whether looking up a name below this mount may mount something.
    pub(crate) fn may_automount(&self, mount: u64) -> bool {
        let Some(own) = self.get(mount) else { return true };
        let below = |entry: &MountEntry| entry.mount_point.starts_with(&own.mount_point);
        AUTOMOUNTING.contains(&own.kind.as_str())
            || self.entries.values().any(|entry| entry.kind == "autofs" && below(entry))
    }
}

/// Returns the ZFS datasets of mountinfo, each with where it is mounted.
pub(crate) fn datasets(text: &[u8]) -> Vec<(String, String)> {
    let dataset = |line: &[u8]| {
        let (mount, source) = line.split_once_str(" - ")?;
        let mut fields = source.split_str(" ");
        let name = fields.next().filter(|kind| *kind == b"zfs").and_then(|_| fields.next())?;
        let mount_point = mount.split_str(" ").nth(4)?;
        let text = |field| String::from_utf8(unescape(field)).ok();
        Some((text(name)?, text(mount_point)?))
    };
    text.lines().filter_map(dataset).collect()
}

fn parse_line(line: &[u8]) -> Option<(u64, MountEntry)> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || fields.next().and_then(|field| field.to_str().ok());
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let (major, minor) = text()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let _root_within_the_file_system = fields.next()?;
    let mount_point = unescape(fields.next()?);
    // Optional fields end at a dash.
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8(unescape(kind)).ok()?;
    Some((id, MountEntry { parent, device, mount_point, kind }))
}

/// Undoes the kernel's `\ooo` for blanks, newlines and backslashes (`mangle_path`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(digits.to_str().ok()?, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
22 27 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
27 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=remount-ro
36 27 0:45 / /tank/with\\040blank\\134and\\012line rw - zfs tank/data rw
40 27 0:52 / /mnt/later rw,relatime - autofs systemd-1 rw,fd=55
not a line
";

    #[test]
    fn mountinfo_is_read_with_its_escapes_and_optional_fields() {
        let table = MountTable::parse(MOUNTINFO);
        let entry = |parent, device, mount_point: &[u8], kind: &str| MountEntry {
            parent,
            device,
            mount_point: mount_point.to_vec(),
            kind: kind.into(),
        };
        assert_eq!(table.get(22), Some(&entry(27, (0, 20), b"/sys", "sysfs")));
        assert_eq!(table.get(27), Some(&entry(1, (8, 1), b"/", "ext4")));
        assert_eq!(table.get(36), Some(&entry(27, (0, 45), b"/tank/with blank\\and\nline", "zfs")));
        assert_eq!(table.entries.len(), 4);
    }

    #[test]
    fn the_way_to_a_mount_leads_over_those_it_is_mounted_on() {
        let table = MountTable::parse(MOUNTINFO);
        assert_eq!(table.kinds_above(36), ["zfs", "ext4"]);
        assert_eq!(table.kinds_above(27), ["ext4"]);
        assert_eq!(table.kinds_above(99), Vec::<&str>::new());
        let circle = b"1 2 8:1 / /a rw - ext4 a rw\n2 1 8:2 / /b rw - fuse.b b rw\n";
        assert_eq!(MountTable::parse(circle).kinds_above(1), ["ext4", "fuse.b"]);
    }

    #[test]
    fn what_is_mounted_below_a_directory_is_on_its_mount() {
        let table = MountTable::parse(
            b"27 1 8:1 / / rw - ext4 a rw\n36 27 0:1 / /tank/a rw - zfs b rw\n\
              37 36 0:2 / /tank/a/x/y rw - zfs c rw\n38 36 0:3 / /tank/a/b rw - zfs d rw\n\
              39 27 0:4 / /tank/ab rw - zfs e rw\n",
        );
        let first = |mount, directory: &str| {
            table.first_below(mount, directory.as_bytes()).map(|rest| rest.to_str().unwrap())
        };
        assert_eq!(first(36, "/tank/a"), Some("b"));
        assert_eq!(first(36, "/tank/a/x"), Some("y"));
        assert_eq!(first(36, "/tank/a/b"), None);
        assert_eq!(first(27, "/tank/a"), None);
        assert_eq!(first(27, "/tank"), Some("a"));
        assert_eq!(first(27, "/"), Some("tank/a"));
    }

    #[test]
    fn datasets_come_with_where_they_are_mounted() {
        let expected = ("tank/data".to_owned(), "/tank/with blank\\and\nline".to_owned());
        assert_eq!(datasets(MOUNTINFO), [expected]);
    }

    #[test]
    fn a_mount_with_an_automount_below_may_mount_something() {
        let table = MountTable::parse(MOUNTINFO);
        for (mount, expected) in [(27, true), (36, false), (40, true), (99, true)] {
            assert_eq!(table.may_automount(mount), expected, "{mount}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_kernel_escapes_comes_back(name: Vec<u8>) {
            let escape = |b: &u8| match b {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{b:03o}").into_bytes(),
                b => vec![*b],
            };
            let escaped: Vec<u8> = name.iter().flat_map(escape).collect();
            proptest::prop_assert_eq!(unescape(&escaped), name);
        }

        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>) {
            let table = MountTable::parse(&text);
            proptest::prop_assert!(table.entries.len() <= text.len());
        }
    }

    #[test]
    fn a_backslash_that_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\b\\04"), b"a\\b\\04");
        assert_eq!(unescape(b"\\040\\"), b" \\");
    }
}
