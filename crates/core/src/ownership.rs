//! The rule for one entry of a volume: given one `fstat`, what is to change, if anything.
//!
//! Pure, so that the walk only reads, asks and acts; and so that every case stands in a table.

use crate::acl::Acl;
use crate::idmap::{IdKind, IdMap};
use crate::ids::HostIds;
use crate::modes::{FilePattern, MODE_BITS, ModeRule};

/// What kind of thing an entry is, as far as ownership cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link; never followed, its own owner counts.
    Symlink,
    /// A socket, fifo or device node; never opened, only its owner counts.
    Special,
}

/// What one `fstat` says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryStat {
    /// What it is.
    pub kind: EntryKind,
    /// Whose it is.
    pub ids: HostIds,
    /// Its mode bits, without the file type.
    pub mode: u32,
}

/// Which entries below the root are held to the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every entry.
    All,
    /// Entries that none of these maps can own.
    Foreign(Vec<IdMap>),
    /// None: only the root directory is held to it.
    RootOnly,
}

/// Everything that decides what an entry of a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnershipRule {
    /// The owner; absent: left alone.
    pub owner: Option<HostIds>,
    /// The group of every entry, which is that of the owner where there is one; directories hand it
    /// on (setgid). Absent: what the owner says.
    pub group: Option<u32>,
    /// The default ACL of directories; absent: left alone.
    pub default_acl: Option<Acl<u32>>,
    /// Which entries below the root directory.
    pub scope: Scope,
    /// The mode of directories.
    pub dir_mode: ModeRule,
    /// The mode of regular files.
    pub file_mode: ModeRule,
    /// Modes by file name, longest pattern first.
    pub file_modes: Vec<(FilePattern, ModeRule)>,
    /// Whether anything below the root directory is looked at.
    pub recurse: bool,
}

/// What is to change on one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change<'r> {
    /// The new owner, where it differs.
    pub owner: Option<HostIds>,
    /// The new mode, where it differs once the owner has been set.
    pub mode: Option<u32>,
    /// The new default ACL, where it differs.
    pub default_acl: Option<&'r Acl<u32>>,
}

/// Setuid.
const SET_UID: u32 = 0o4000;
/// Setgid: what is made in such a directory has its group. On a file it counts with execute for the
/// group; without that it is an old mark for mandatory locks.
const SET_GID: u32 = 0o2000;
const EXECUTABLE_SET_GID: u32 = 0o2010;

/// Returns the mode a chown by root leaves behind (chown(2), `setattr_should_drop_sgid`).
pub const fn mode_after_chown(stat: &EntryStat) -> u32 {
    match stat.kind {
        EntryKind::Directory | EntryKind::Symlink => stat.mode,
        EntryKind::File | EntryKind::Special => {
            let mode = stat.mode & !SET_UID;
            if mode & EXECUTABLE_SET_GID == EXECUTABLE_SET_GID { mode & !SET_GID } else { mode }
        }
    }
}

/// Where in a volume an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// The root directory of the volume.
    Root,
    /// Anywhere below, under this name (bytes, never a path).
    Below(&'a [u8]),
}

impl OwnershipRule {
    /// Returns what is to change on an entry, or `None` where it is as declared. A stat does not tell
    /// of a default ACL; see [`Self::default_acl_for`].
    pub fn decide(&self, place: Place<'_>, stat: &EntryStat) -> Option<Change<'_>> {
        if let Place::Below(_) = place
            && !self.holds(stat.ids)
        {
            return None;
        }
        let owner = Some(self.ids_for(stat.ids)).filter(|ids| *ids != stat.ids);
        let mode = self.mode_for(place, stat).filter(|mode| {
            // A chown clears setuid and setgid of a file; what the declaration wants of them must
            // be set afterwards even where the mode looked right before.
            *mode != stat.mode & MODE_BITS || (owner.is_some() && mode & 0o6000 != 0)
        });
        (owner.is_some() || mode.is_some()).then_some(Change { owner, mode, default_acl: None })
    }

    /// Returns the default ACL that an entry is to have, where one is declared for it.
    pub fn default_acl_for(&self, place: Place<'_>, stat: &EntryStat) -> Option<&Acl<u32>> {
        let is_held = place == Place::Root || self.holds(stat.ids);
        let acl = self.default_acl.as_ref()?;
        (stat.kind == EntryKind::Directory && is_held).then_some(acl)
    }

    /// Returns whether an entry with this access ACL keeps its mode: somebody gave it that, or a
    /// directory that has another default ACL than is declared.
    pub fn keeps_mode(&self, access: &Acl<u32>) -> bool {
        let is_inherited = self.default_acl.as_ref().is_some_and(|acl| acl.is_source_of(access));
        !access.is_none() && !is_inherited
    }

    /// Returns whose an entry is to be that is somebody's now.
    pub fn ids_for(&self, now: HostIds) -> HostIds {
        let HostIds { uid, gid } = self.owner.unwrap_or(now);
        HostIds { uid, gid: self.group.unwrap_or(gid) }
    }

    /// Returns whether a container with this map can own something with these ids; that it cannot
    /// be in the declared group says nothing against it.
    pub fn can_own(&self, map: &IdMap, ids: HostIds) -> bool {
        map.can_own(ids)
            || self.group == Some(ids.gid) && map.container_id(IdKind::User, ids.uid).is_some()
    }

    /// Returns whether entries below the root need to be looked at at all.
    pub const fn looks_below(&self) -> bool {
        self.recurse && !matches!(self.scope, Scope::RootOnly)
    }

    /// Returns the mode of a new file that has `fresh` where nothing is declared.
    pub fn new_file_mode(&self, name: &[u8], fresh: u32) -> u32 {
        self.file_rule(Place::Below(name)).apply(fresh, false)
    }

    fn holds(&self, ids: HostIds) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Foreign(maps) => {
                // What already has the declared owner was either put right by an earlier pass or is
                // the container's own; its mode may have been chosen by a service since.
                self.owner != Some(ids) && !maps.iter().any(|map| self.can_own(map, ids))
            }
            Scope::RootOnly => false,
        }
    }

    fn mode_for(&self, place: Place<'_>, stat: &EntryStat) -> Option<u32> {
        let rule = match stat.kind {
            EntryKind::Directory => &self.dir_mode,
            EntryKind::File => self.file_rule(place),
            EntryKind::Symlink | EntryKind::Special => return None,
        };
        let is_dir = stat.kind == EntryKind::Directory;
        let hands_on = if is_dir && self.group.is_some() { SET_GID } else { 0 };
        let is_declared = !rule.is_keep() || hands_on != 0;
        is_declared.then(|| rule.apply(stat.mode & MODE_BITS, is_dir) | hands_on)
    }

    fn file_rule(&self, place: Place<'_>) -> &ModeRule {
        let Place::Below(name) = place else { return &self.file_mode };
        let named = self.file_modes.iter().find(|(pattern, _)| pattern.matches(name));
        named.map_or(&self.file_mode, |(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{IdKind, IdRange};

    const ROOT: Place<'_> = Place::Root;
    const OWNER: HostIds = HostIds::new(100_000, 100_000);
    /// A service's own ids inside the first container.
    const WWW: HostIds = HostIds::new(100_033, 100_033);
    const OTHER: HostIds = HostIds::new(200_000, 200_000);

    fn below(name: &str) -> Place<'_> {
        Place::Below(name.as_bytes())
    }

    fn rule(scope: Scope, dir_mode: &str, file_mode: &str) -> OwnershipRule {
        OwnershipRule {
            owner: Some(OWNER),
            group: None,
            default_acl: None,
            scope,
            dir_mode: dir_mode.parse().unwrap(),
            file_mode: file_mode.parse().unwrap(),
            file_modes: Vec::new(),
            recurse: true,
        }
    }

    fn all(dir_mode: &str, file_mode: &str) -> OwnershipRule {
        rule(Scope::All, dir_mode, file_mode)
    }

    fn foreign(maps: &[IdMap]) -> OwnershipRule {
        rule(Scope::Foreign(maps.to_vec()), "0775", "0664")
    }

    fn modes_only(file_mode: &str) -> OwnershipRule {
        OwnershipRule { owner: None, ..all("keep", file_mode) }
    }

    fn dir(ids: HostIds, mode: u32) -> EntryStat {
        EntryStat { kind: EntryKind::Directory, ids, mode }
    }

    fn file(ids: HostIds, mode: u32) -> EntryStat {
        EntryStat { kind: EntryKind::File, ids, mode }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what `decide` returns")]
    fn change(owner: Option<HostIds>, mode: Option<u32>) -> Option<Change<'static>> {
        Some(Change { owner, mode, default_acl: None })
    }

    fn shifted() -> IdMap {
        let range = |kind| IdRange { kind, container: 0, host: 200_000, count: 65_536 };
        IdMap::new(vec![range(IdKind::User), range(IdKind::Group)])
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn an_entry_changes_where_it_differs_and_nowhere_else() {
        let keys = OwnershipRule {
            file_modes: vec![
                (FilePattern::new("id_*.key").unwrap(), "0400".parse().unwrap()),
                (FilePattern::new("*.key").unwrap(), "0640".parse().unwrap()),
                (FilePattern::new("keep").unwrap(), ModeRule::Keep),
            ],
            ..all("0775", "0664")
        };
        let one_map = foreign(&[IdMap::default_unprivileged()]);
        let two_maps = foreign(&[IdMap::default_unprivileged(), shifted()]);
        let root_only = rule(Scope::RootOnly, "0775", "0664");
        let link = |ids| EntryStat { kind: EntryKind::Symlink, ids, mode: 0o777 };
        let fifo = |ids| EntryStat { kind: EntryKind::Special, ids, mode: 0o600 };
        let half = HostIds::new(100_033, 0);
        let cases = [
            ("as declared", &all("0775", "0664"), ROOT, dir(OWNER, 0o775), None),
            (
                "root's mode",
                &all("0775", "0664"),
                ROOT,
                dir(OWNER, 0o755),
                change(None, Some(0o775)),
            ),
            (
                "root's owner",
                &all("0775", "0664"),
                ROOT,
                dir(WWW, 0o775),
                change(Some(OWNER), None),
            ),
            (
                "both",
                &all("0775", "0664"),
                below("f"),
                file(WWW, 0o600),
                change(Some(OWNER), Some(0o664)),
            ),
            (
                "the group alone",
                &all("0775", "0664"),
                below("f"),
                file(HostIds::new(100_000, 0), 0o664),
                change(Some(OWNER), None),
            ),
            (
                "modes are kept",
                &all("keep", "keep"),
                below("f"),
                file(WWW, 0o4711),
                change(Some(OWNER), None),
            ),
            (
                "owners are kept",
                &modes_only("0664"),
                below("f"),
                file(OTHER, 0o600),
                change(None, Some(0o664)),
            ),
            ("nothing is declared", &modes_only("keep"), below("f"), file(OTHER, 0o600), None),
            (
                "a symbolic mode looks at what is there",
                &all("u=rwX,g=rX", "u=rwX,g=rX"),
                below("x"),
                file(OWNER, 0o700),
                change(None, Some(0o750)),
            ),
            (
                "a symbolic mode that holds",
                &all("g+s", "keep"),
                below("d"),
                dir(OWNER, 0o2750),
                None,
            ),
            // A chown clears setuid and setgid, so a mode that has them is set afterwards.
            (
                "a declared setuid after a chown",
                &all("0775", "4755"),
                below("f"),
                file(WWW, 0o4755),
                change(Some(OWNER), Some(0o4755)),
            ),
            (
                "a declared setgid after a chown",
                &all("2775", "0664"),
                below("d"),
                dir(WWW, 0o2775),
                change(Some(OWNER), Some(0o2775)),
            ),
            (
                "a declared setuid that is there",
                &all("0775", "4755"),
                below("f"),
                file(OWNER, 0o4755),
                None,
            ),
            (
                "an undeclared setuid goes",
                &all("0775", "0755"),
                below("f"),
                file(OWNER, 0o4755),
                change(None, Some(0o755)),
            ),
            // Neither has a mode that counts, and neither is opened.
            (
                "a link has an owner only",
                &all("0775", "0664"),
                below("l"),
                link(WWW),
                change(Some(OWNER), None),
            ),
            ("a link that is right", &all("0775", "0664"), below("l"), link(OWNER), None),
            (
                "a fifo has an owner only",
                &all("0775", "0664"),
                below("p"),
                fifo(WWW),
                change(Some(OWNER), None),
            ),
            ("a fifo that is right", &all("0775", "0664"), below("p"), fifo(OWNER), None),
            (
                "the longest pattern wins",
                &keys,
                below("id_a.key"),
                file(OWNER, 0o664),
                change(None, Some(0o400)),
            ),
            ("a pattern", &keys, below("a.key"), file(OWNER, 0o664), change(None, Some(0o640))),
            ("a pattern that keeps", &keys, below("keep"), file(OWNER, 0o111), None),
            ("no pattern", &keys, below("a.pem"), file(OWNER, 0o600), change(None, Some(0o664))),
            ("a pattern is for files", &keys, below("d.key"), dir(OWNER, 0o775), None),
            // What the container can own is its own, whoever made it and with whatever mode.
            ("a service's own", &one_map, below("f"), file(WWW, 0o600), None),
            (
                "nobody's",
                &one_map,
                below("f"),
                file(HostIds::ROOT, 0o600),
                change(Some(OWNER), Some(0o664)),
            ),
            ("nobody's group", &one_map, below("f"), file(half, 0o664), change(Some(OWNER), None)),
            ("nobody's link", &one_map, below("l"), link(HostIds::ROOT), change(Some(OWNER), None)),
            (
                "of the second container, unknown to the first",
                &one_map,
                below("f"),
                file(OTHER, 0o664),
                change(Some(OWNER), None),
            ),
            ("of the second container, known", &two_maps, below("f"), file(OTHER, 0o600), None),
            (
                "a bit of both containers is neither's",
                &two_maps,
                below("f"),
                file(HostIds::new(100_033, 200_033), 0o664),
                change(Some(OWNER), None),
            ),
            (
                "the root is held to it all the same",
                &one_map,
                ROOT,
                dir(WWW, 0o775),
                change(Some(OWNER), None),
            ),
            ("the root only", &root_only, below("f"), file(HostIds::ROOT, 0o600), None),
            (
                "the root only, at the root",
                &root_only,
                ROOT,
                dir(HostIds::ROOT, 0o700),
                change(Some(OWNER), Some(0o775)),
            ),
        ];
        for (name, rule, place, stat, expected) in cases {
            assert_eq!(rule.decide(place, &stat), expected, "{name}");
        }
    }

    /// A group of the host that no container has, and one that the first has.
    const OF_HOST: u32 = 1005;
    const OF_BOTH: u32 = 110_000;

    fn grouped(group: u32, rule: OwnershipRule) -> OwnershipRule {
        let owner = rule.owner.map(|owner| HostIds { gid: group, ..owner });
        OwnershipRule { owner, group: Some(group), ..rule }
    }

    #[test]
    fn a_group_is_set_and_handed_on_and_owners_are_kept() {
        let kept = |dir_mode: &str, file_mode: &str| {
            grouped(OF_HOST, OwnershipRule { owner: None, ..all(dir_mode, file_mode) })
        };
        let with = |uid, gid| HostIds::new(uid, gid);
        let adopt = |group| grouped(group, foreign(&[IdMap::default_unprivileged()]));
        let service = with(100_033, OF_HOST);
        let link = EntryStat { kind: EntryKind::Symlink, ids: WWW, mode: 0o777 };
        for (name, rule, place, stat, expected) in [
            (
                "a directory",
                kept("0775", "0664"),
                below("d"),
                dir(WWW, 0o755),
                change(Some(service), Some(0o2775)),
            ),
            ("one as declared", kept("0775", "0664"), ROOT, dir(service, 0o2775), None),
            (
                "one that hands nothing on",
                kept("keep", "keep"),
                below("d"),
                dir(service, 0o750),
                change(None, Some(0o2750)),
            ),
            (
                "a file",
                kept("0775", "0664"),
                below("f"),
                file(WWW, 0o644),
                change(Some(service), Some(0o664)),
            ),
            ("a link", kept("0775", "0664"), below("l"), link, change(Some(service), None)),
            ("modes are kept", kept("keep", "keep"), below("f"), file(service, 0o600), None),
            (
                "the root, with an owner",
                adopt(OF_BOTH),
                ROOT,
                dir(HostIds::ROOT, 0o2775),
                change(Some(with(100_000, OF_BOTH)), Some(0o2775)),
            ),
            (
                "what a service made where the group is handed on",
                adopt(OF_HOST),
                below("f"),
                file(service, 0o600),
                None,
            ),
            ("what a service made elsewhere", adopt(OF_HOST), below("f"), file(WWW, 0o600), None),
            (
                "what the host made",
                adopt(OF_HOST),
                below("f"),
                file(with(1000, OF_HOST), 0o600),
                change(Some(with(100_000, OF_HOST)), Some(0o664)),
            ),
            (
                "another group of the host",
                adopt(OF_HOST),
                below("f"),
                file(with(100_033, 7), 0o600),
                change(Some(with(100_000, OF_HOST)), Some(0o664)),
            ),
        ] {
            assert_eq!(rule.decide(place, &stat), expected, "{name}");
        }
    }

    #[test]
    fn a_default_acl_is_for_directories_that_are_held_to_the_rule() {
        let acl = Acl::from_bytes(&2_u32.to_le_bytes());
        let with = |rule| OwnershipRule { default_acl: acl.clone(), ..rule };
        let adopt = with(foreign(&[IdMap::default_unprivileged()]));
        let everywhere = with(all("keep", "keep"));
        for (name, rule, place, stat, is_for) in [
            ("the root", &adopt, ROOT, dir(WWW, 0o755), true),
            ("a service's", &adopt, below("d"), dir(WWW, 0o755), false),
            ("nobody's", &adopt, below("d"), dir(HostIds::ROOT, 0o755), true),
            ("any", &everywhere, below("d"), dir(WWW, 0o755), true),
            ("a file", &everywhere, below("f"), file(WWW, 0o644), false),
            ("undeclared", &all("0775", "0664"), ROOT, dir(WWW, 0o755), false),
        ] {
            assert_eq!(rule.default_acl_for(place, &stat).is_some(), is_for, "{name}");
        }
    }

    #[test]
    fn what_has_the_declared_owner_is_no_longer_foreign() {
        // A host owner lies outside every map; a service may have chosen the mode since.
        let rule = OwnershipRule { owner: Some(HostIds::ROOT), ..foreign(&[shifted()]) };
        assert_eq!(rule.decide(below("f"), &file(HostIds::ROOT, 0o600)), None);
        assert_eq!(rule.decide(ROOT, &dir(HostIds::ROOT, 0o700)), change(None, Some(0o775)));
    }

    #[test]
    fn without_recursion_or_scope_nothing_below_is_looked_at() {
        assert!(all("0775", "0664").looks_below());
        assert!(foreign(&[]).looks_below());
        assert!(!rule(Scope::RootOnly, "0775", "0664").looks_below());
        assert!(!OwnershipRule { recurse: false, ..all("0775", "0664") }.looks_below());
    }

    #[test]
    fn what_was_decided_and_done_needs_no_more() {
        let rules = [
            all("2775", "4755"),
            all("u=rwX,g=rX,o=", "g+X,u+x"),
            all("keep", "keep"),
            foreign(&[IdMap::default_unprivileged()]),
            rule(Scope::RootOnly, "0755", "0644"),
            modes_only("a-w"),
            grouped(OF_HOST, all("0775", "2755")),
            grouped(OF_HOST, modes_only("keep")),
            grouped(OF_BOTH, foreign(&[IdMap::default_unprivileged()])),
        ];
        let kinds = [EntryKind::Directory, EntryKind::File, EntryKind::Symlink, EntryKind::Special];
        let ids = [HostIds::ROOT, OWNER, WWW, OTHER];
        let stats = kinds.iter().flat_map(|kind| ids.iter().map(move |ids| (*kind, *ids)));
        for (kind, ids) in stats {
            for (rule, mode) in
                rules.iter().flat_map(|r| [0, 0o644, 0o4711, 0o7777].map(|m| (r, m)))
            {
                for place in [ROOT, below("x")] {
                    let before = EntryStat { kind, ids, mode };
                    let Some(change) = rule.decide(place, &before) else { continue };
                    // As the kernel does it: a chown of a file clears both bits.
                    let cleared = change.owner.is_some() && kind != EntryKind::Directory;
                    let mode = if cleared { mode & !0o6000 } else { mode };
                    let after = EntryStat {
                        kind,
                        ids: change.owner.unwrap_or(ids),
                        mode: change.mode.unwrap_or(mode),
                    };
                    assert_eq!(rule.decide(place, &after), None, "{before:?} {change:?}");
                }
            }
        }
    }
}
