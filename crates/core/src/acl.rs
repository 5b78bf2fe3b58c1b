//! Access control lists of directories (acl(5)): in words, resolved to ids, and as the kernel keeps them.
//!
//! The kernel's form (`linux/posix_acl_xattr.h`) is the value of an extended attribute: a version,
//! then eight bytes for each entry. It is fixed, and what getxattr(2) and setxattr(2) speak on every
//! file system with such lists, so no library is needed that would want a path.

use std::collections::BTreeMap;
use std::fmt;

use crate::modes::Permissions;

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// The id of an entry that names nobody (`ACL_UNDEFINED_ID`).
const NO_ID: u32 = u32::MAX;
/// How long the version is, and how long each entry.
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// Whom an entry is for: by name in a declaration, by id on disk. In the order the kernel wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who<Q> {
    /// The owner.
    Owner,
    /// Another user.
    User(Q),
    /// The owning group.
    OwningGroup,
    /// Another group.
    Group(Q),
    /// What all of these but the owner have at most.
    Mask,
    /// Everybody else.
    Other,
}

/// What everybody may do; without an entry there is no such list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acl<Q: Ord>(BTreeMap<Who<Q>, Permissions>);

impl<Q: Ord> Acl<Q> {
    /// Returns the list that is none.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Returns the list of these entries, with the mask that follows from them.
    pub fn new(entries: impl IntoIterator<Item = (Who<Q>, Permissions)>) -> Self {
        let mut all = BTreeMap::new();
        for (who, may) in entries {
            let known = all.entry(who).or_insert(Permissions::NONE);
            // Two names may stand for one id.
            *known = known.or(may);
        }
        let is_named = |who: &Who<Q>| matches!(who, Who::User(_) | Who::Group(_));
        let is_masked = |who: &Who<Q>| is_named(who) || *who == Who::OwningGroup;
        all.remove(&Who::Mask);
        if all.keys().any(is_named) {
            let masked = all.iter().filter(|(who, _)| is_masked(who));
            let mask = masked.fold(Permissions::NONE, |mask, (_, may)| mask.or(*may));
            all.insert(Who::Mask, mask);
        }
        Self(all)
    }

    /// Returns whether there is no list.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl Acl<String> {
    /// Returns the list with ids in the place of names.
    ///
    /// # Errors
    ///
    /// What `id` says of the first name that has none.
    pub fn resolve<E>(
        &self,
        mut id: impl FnMut(&Who<String>, &str) -> Result<u32, E>,
    ) -> Result<Acl<u32>, E> {
        let mut entries = Vec::with_capacity(self.0.len());
        for (who, may) in &self.0 {
            let resolved = match who {
                Who::Owner => Who::Owner,
                Who::OwningGroup => Who::OwningGroup,
                Who::Mask => Who::Mask,
                Who::Other => Who::Other,
                Who::User(name) => Who::User(id(who, name)?),
                Who::Group(name) => Who::Group(id(who, name)?),
            };
            entries.push((resolved, *may));
        }
        Ok(Acl::new(entries))
    }
}

impl Acl<u32> {
    /// Returns the list as the kernel takes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (who, may) in &self.0 {
            let (tag, id): (u16, u32) = match who {
                Who::Owner => (0x01, NO_ID),
                Who::User(id) => (0x02, *id),
                Who::OwningGroup => (0x04, NO_ID),
                Who::Group(id) => (0x08, *id),
                Who::Mask => (0x10, NO_ID),
                Who::Other => (0x20, NO_ID),
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(u16::from(may.bits()).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// Reads a list as the kernel gives it; `None` for what it does not write.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (header, entries) = bytes.split_at_checked(HEADER)?;
        if header != VERSION.to_le_bytes() || !entries.len().is_multiple_of(ENTRY) {
            return None;
        }
        let mut all = BTreeMap::new();
        for entry in entries.chunks_exact(ENTRY) {
            let (half, word) = (|at: usize| [entry[at], entry[at + 1]], &entry[4..]);
            let (tag, may) = (u16::from_le_bytes(half(0)), u16::from_le_bytes(half(2)));
            let id = u32::from_le_bytes(word.try_into().ok()?);
            let who = match tag {
                0x01 => Who::Owner,
                0x02 => Who::User(id),
                0x04 => Who::OwningGroup,
                0x08 => Who::Group(id),
                0x10 => Who::Mask,
                0x20 => Who::Other,
                _ => return None,
            };
            let may = Permissions::new(u32::from(may))?;
            if all.insert(who, may).is_some() {
                return None;
            }
        }
        Some(Self(all))
    }

    /// Returns whether the attribute with this value is this list; `None`: there is no attribute.
    pub fn is(&self, value: Option<&[u8]>) -> bool {
        match value {
            None => self.is_none(),
            Some(bytes) => Self::from_bytes(bytes).is_some_and(|found| found == *self),
        }
    }

    /// Returns whether an entry that was made in a directory with this default list has that access
    /// list, whatever its mode: a mode says what owner, mask and everybody else have, and the kernel
    /// changes nothing else with it (`posix_acl_create_masq`, `__posix_acl_chmod_masq`).
    pub fn is_source_of(&self, access: &Self) -> bool {
        let by_name = |acl: &Self| {
            let is_of_mode = |who: &Who<u32>| matches!(who, Who::Owner | Who::Mask | Who::Other);
            let entries = acl.0.iter().filter(|(who, _)| !is_of_mode(who));
            entries.map(|(who, may)| (who.clone(), *may)).collect::<Vec<_>>()
        };
        !self.is_none() && by_name(self) == by_name(access)
    }
}

impl<Q: Ord + fmt::Display> fmt::Display for Acl<Q> {
    /// Writes the list as getfacl(1) does in one line; the mask, which follows, is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        let shown = self.0.iter().filter(|(who, _)| **who != Who::Mask);
        for (i, (who, may)) in shown.enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match who {
                Who::Owner => write!(f, "u::{may}"),
                Who::User(id) => write!(f, "u:{id}:{may}"),
                Who::OwningGroup => write!(f, "g::{may}"),
                Who::Group(id) => write!(f, "g:{id}:{may}"),
                Who::Mask => write!(f, "m::{may}"),
                Who::Other => write!(f, "o::{may}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(text: &str) -> Permissions {
        text.parse().unwrap()
    }

    fn acl(entries: &[(Who<u32>, &str)]) -> Acl<u32> {
        Acl::new(entries.iter().map(|(who, text)| (who.clone(), may(text))))
    }

    fn plain() -> Acl<u32> {
        acl(&[(Who::Owner, "rwx"), (Who::OwningGroup, "rwx"), (Who::Other, "r-x")])
    }

    fn named() -> Acl<u32> {
        acl(&[
            (Who::Owner, "rwx"),
            (Who::OwningGroup, "r-x"),
            (Who::Group(110_000), "rwx"),
            (Who::Other, "---"),
        ])
    }

    /// What `setfacl -d -m g:110000:rwx` leaves on a directory of mode 0750, read by getfattr(1).
    #[test]
    fn the_kernels_form_is_written_and_read() {
        let hex = "0200000001000700ffffffff04000500ffffffff08000700b0ad010010000700ffffffff20000000ffffffff";
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(named().to_bytes(), bytes);
        assert_eq!(Acl::from_bytes(&bytes), Some(named()));
        for acl in [Acl::none(), plain(), named()] {
            assert_eq!(Acl::from_bytes(&acl.to_bytes()), Some(acl));
        }
    }

    #[test]
    fn what_the_kernel_does_not_write_is_no_list() {
        let whole = named().to_bytes();
        for cut in 0..whole.len() {
            let is_whole = cut >= HEADER && (cut - HEADER).is_multiple_of(ENTRY);
            assert_eq!(Acl::from_bytes(&whole[..cut]).is_some(), is_whole, "{cut} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            Acl::from_bytes(&bytes)
        };
        assert_eq!(with(0, 3), None, "another version");
        assert_eq!(with(4, 0x40), None, "an unknown tag");
        assert_eq!(with(6, 8), None, "an unknown permission");
        assert_eq!(with(12, 1), None, "an entry twice");
    }

    #[test]
    fn the_mask_is_what_the_named_have_at_most() {
        let entries = |acl: &Acl<u32>| acl.0.get(&Who::Mask).copied();
        assert_eq!(entries(&plain()), None);
        assert_eq!(entries(&named()), Some(may("rwx")));
        let narrow = acl(&[(Who::OwningGroup, "r--"), (Who::User(7), "--x"), (Who::Other, "rwx")]);
        assert_eq!(entries(&narrow), Some(may("r-x")));
    }

    #[test]
    fn an_order_of_its_own_makes_no_other_list() {
        // A file system may give entries of one kind back in the order they came.
        let two = acl(&[(Who::Owner, "rwx"), (Who::Group(1), "r--"), (Who::Group(2), "rwx")]);
        let mut bytes = two.to_bytes();
        let (first, second) = (HEADER + ENTRY, HEADER + 2 * ENTRY);
        for at in 0..ENTRY {
            bytes.swap(first + at, second + at);
        }
        assert_ne!(bytes, two.to_bytes());
        assert!(two.is(Some(&bytes)));
        assert!(!two.is(None) && !plain().is(Some(&bytes)));
        assert!(Acl::none().is(None) && !Acl::none().is(Some(&bytes)));
    }

    #[test]
    fn a_list_that_came_from_the_default_is_told_from_others() {
        let access = |owner: &str, named: &str, mask: &str| {
            let mut acl = acl(&[
                (Who::Owner, owner),
                (Who::OwningGroup, "r-x"),
                (Who::Group(110_000), named),
                (Who::Other, "---"),
            ]);
            acl.0.insert(Who::Mask, may(mask));
            acl
        };
        assert!(named().is_source_of(&access("rw-", "rwx", "---")));
        assert!(!named().is_source_of(&access("rw-", "rw-", "rw-")), "less for the group");
        assert!(!named().is_source_of(&plain()) && !plain().is_source_of(&named()));
        assert!(!Acl::none().is_source_of(&Acl::none()), "nothing comes from no list");
    }

    #[test]
    fn names_become_ids_or_are_named() {
        let names = Acl::new([
            (Who::OwningGroup, may("rwx")),
            (Who::User("alice".to_owned()), may("r--")),
            (Who::Group("media".to_owned()), may("-w-")),
        ]);
        assert_eq!(names.to_string(), "u:alice:r--,g::rwx,g:media:-w-");
        let ids = |who: &Who<String>, name: &str| match (who, name) {
            (Who::User(_), "alice") => Ok(1000),
            (Who::Group(_), "media") => Ok(1005),
            _ => Err(name.to_owned()),
        };
        assert_eq!(names.resolve(ids).unwrap().to_string(), "u:1000:r--,g::rwx,g:1005:-w-");
        assert_eq!(names.resolve(|_, name| Err(name.to_owned())), Err("alice".to_owned()));
        assert_eq!(Acl::<u32>::none().to_string(), "none");
    }
}
