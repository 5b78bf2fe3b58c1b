//! A plan, or what `apply` did: it reads like a diff.

use pctd_core::plan::{
    CloneContainer, ConfigureContainer, ConvertContainer, ConvertPhase, CreateCertificate,
    CreateContainer, EditConf, Effective, RemoveMount, SetMount, SetOwnership, Step,
};
use pctd_core::report::{KeyReport, PlanReport};

use super::{count, count_u64, line};
use crate::cli::style::{Palette, Tone};

/// What the steps of a report are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tense {
    /// What would be done.
    Plan,
    /// What was done.
    Done,
}

/// Returns a plan, or what `apply` did, as text.
pub(crate) fn plan(report: &PlanReport, tense: Tense, palette: Palette) -> String {
    let mut text = String::new();
    let mut quiet = 0;
    let volumes = report.volumes.iter().map(|(name, entry)| (format!("volume {name}"), entry));
    let containers =
        report.containers.iter().map(|(ctid, entry)| (format!("container {ctid}"), entry));
    for (title, entry) in volumes.chain(containers) {
        if *entry == KeyReport::default() {
            quiet += 1;
        } else {
            key(&mut text, &title, entry, palette);
        }
    }
    let summary = report.summary;
    if summary.steps + summary.holds + summary.errors == 0 {
        let keys = report.volumes.len() + report.containers.len();
        line(&mut text, format_args!("In sync: {}.", count(keys, "key")));
        return text;
    }
    let mut parts = vec![match tense {
        Tense::Plan => count(summary.steps, "step"),
        Tense::Done => format!("{} taken", count(summary.steps, "step")),
    }];
    if summary.holds > 0 {
        parts.push(count(summary.holds, "hold"));
    }
    if summary.errors > 0 {
        parts.push(format!("{} failed", summary.errors));
    }
    if quiet > 0 {
        parts.push(format!("{quiet} in sync"));
    }
    line(&mut text, format_args!("{}.", parts.join(", ")));
    text
}

fn key(text: &mut String, title: &str, entry: &KeyReport, palette: Palette) {
    line(text, format_args!("{}", palette.paint(Tone::Heading, title)));
    for step in &entry.steps {
        match step {
            Step::CreateContainer(container) => created(text, container, palette),
            Step::CloneContainer(clone) => cloned(text, clone, palette),
            Step::ConfigureContainer(configure) => configured(text, configure, palette),
            Step::EditConf(edit) => edited(text, edit, palette),
            Step::CreateDirectory { path } => {
                let sign = palette.paint(Tone::Add, "+");
                line(text, format_args!("  {sign} directory {path}"));
            }
            Step::SetOwnership(set) => {
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} {}", ownership(set)));
            }
            Step::CreateCertificate(create) => {
                let (tone, sign) =
                    if create.renew { (Tone::Change, "~") } else { (Tone::Add, "+") };
                let sign = palette.paint(tone, sign);
                let CreateCertificate { path, domain, days, .. } = create;
                let line_text =
                    format_args!("  {sign} {path}/{domain}.key and .crt, for {days} days");
                line(text, line_text);
            }
            Step::SetMount(set) => mount(text, set, palette),
            Step::StartContainer {} => {
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} start, because a restart left it stopped"));
            }
            Step::ConvertContainer(convert) => conversion(text, convert, palette),
            Step::RemoveMount(remove) => removal(text, remove, palette),
            Step::RebootContainer { keys, lines, others } => {
                let keys = keys.iter().map(ToString::to_string);
                let names: Vec<String> =
                    keys.chain(lines.iter().map(|l| format!("`{l}`"))).collect();
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} restart, for {}", names.join(", ")));
                if !others.is_empty() {
                    let also = format!("    also takes effect: {}", others.join(", "));
                    line(text, format_args!("{}", palette.paint(Tone::Dim, also)));
                }
            }
        }
    }
    if let Some(error) = &entry.error {
        line(text, format_args!("  {} {error}", palette.paint(Tone::Bad, "failed:")));
    }
    for hold in &entry.holds {
        let reason = palette.paint(Tone::Hold, format!("! {}", hold.reason));
        line(text, format_args!("  {reason}: {}", hold.message));
    }
    for notice in &entry.notices {
        let reason = palette.paint(Tone::Dim, format!("i {}", notice.reason));
        line(text, format_args!("  {reason}: {}", notice.message));
    }
    for drift in &entry.unmanaged {
        let what = palette.paint(Tone::Dim, format!("i {} is not managed", drift.field));
        let found = drift.found.as_deref().unwrap_or("nothing");
        line(text, format_args!("  {what}: declared {}, found {found}", drift.declared));
    }
    text.push('\n');
}

fn created(text: &mut String, container: &CreateContainer, palette: Palette) {
    let CreateContainer { template, unprivileged, rootfs, storage, set } = container;
    let plus = palette.paint(Tone::Add, "+");
    let kind = if *unprivileged { "unprivileged" } else { "privileged" };
    let disk = rootfs.as_ref().or(storage.as_ref());
    let disk = disk.map_or_else(String::new, |disk| format!(", root disk {disk}"));
    line(text, format_args!("  {plus} {kind} container from {template}{disk}"));
    for (name, value) in set {
        line(text, format_args!("    {plus} {name}: {value}"));
    }
}

fn cloned(text: &mut String, clone: &CloneContainer, palette: Palette) {
    let CloneContainer { from, snapshot, hostname, storage } = clone;
    let plus = palette.paint(Tone::Add, "+");
    let word = |before: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!("{before}{value}"))
    };
    let (of, name, on) =
        (word(", snapshot ", snapshot), word(", named ", hostname), word(", on ", storage));
    line(text, format_args!("  {plus} clone of {from}{of}{name}{on}"));
}

fn configured(text: &mut String, configure: &ConfigureContainer, palette: Palette) {
    for (name, value) in &configure.set {
        let sign = palette.paint(Tone::Change, "~");
        line(text, format_args!("  {sign} {name}: {value}"));
    }
    for name in &configure.delete {
        let sign = palette.paint(Tone::Bad, "-");
        line(text, format_args!("  {sign} {name}"));
    }
}

fn edited(text: &mut String, edit: &EditConf, palette: Palette) {
    for raw in &edit.remove {
        line(text, format_args!("  {} {raw}", palette.paint(Tone::Bad, "-")));
    }
    for raw in &edit.add {
        line(text, format_args!("  {} {raw}", palette.paint(Tone::Add, "+")));
    }
    let when = if edit.after_restart { "seen after a restart" } else { "seen at the next start" };
    let after = if edit.after_volume { ", once the volume is ready" } else { "" };
    let note = format!("    raw lines of the conf; {when}{after}");
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
    ids_on_disk(text, edit.ids.as_ref(), palette);
}

fn ids_on_disk(text: &mut String, ids: Option<&String>, palette: Palette) {
    if let Some(ids) = ids {
        line(text, format_args!("{}", palette.paint(Tone::Dim, format!("    {ids}"))));
    }
}

fn mount(text: &mut String, set: &SetMount, palette: Palette) {
    if let Some(was) = &set.was {
        let (minus, plus) = (palette.paint(Tone::Bad, "-"), palette.paint(Tone::Add, "+"));
        line(text, format_args!("  {minus} {}: {was}", set.key));
        line(text, format_args!("  {plus} {}: {}", set.key, set.value));
    } else {
        let plus = palette.paint(Tone::Add, "+");
        line(text, format_args!("  {plus} {}: {}", set.key, set.value));
    }
    let when = match set.effective {
        Effective::Now => "plugged in at once",
        Effective::NextStart => "seen at the next start",
        Effective::AfterRestart => "seen after a restart",
    };
    let after = if set.after_volume { ", once the volume is ready" } else { "" };
    let note = format!("    volume {}; {when}{after}", set.volume);
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
    ids_on_disk(text, set.ids.as_ref(), palette);
}

fn removal(text: &mut String, remove: &RemoveMount, palette: Palette) {
    let minus = palette.paint(Tone::Bad, "-");
    line(text, format_args!("  {minus} {}: {}", remove.key, remove.value));
    let what = if remove.pending { "pending, " } else { "" };
    let until = match remove.effective {
        Effective::Now | Effective::NextStart => "",
        Effective::AfterRestart => "; in force until a restart",
    };
    let note = format!("    {what}added by pctd and no longer declared{until}");
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
}

fn conversion(text: &mut String, convert: &ConvertContainer, palette: Palette) {
    let sign = palette.paint(Tone::Change, "~");
    let kind = if convert.unprivileged { "unprivileged" } else { "privileged" };
    let word = |name: &Option<String>| name.clone().unwrap_or_default();
    let (storage, archive) = (word(&convert.storage), word(&convert.archive));
    let what = match convert.phase {
        ConvertPhase::Stop => "stop it".to_owned(),
        ConvertPhase::Replace => {
            format!("back it up to {storage}, check the backup, and restore it as {kind}")
        }
        ConvertPhase::Restore => format!("restore it as {kind} from {archive}"),
        ConvertPhase::RollBack => format!("restore it as it was from {archive}"),
        ConvertPhase::Start if convert.after_volume => {
            "start it, once its volumes are ready".to_owned()
        }
        ConvertPhase::Start => "start it".to_owned(),
    };
    line(text, format_args!("  {sign} conversion: {what}"));
}

fn ownership(set: &SetOwnership) -> String {
    let owner = set.owner.map_or_else(|| "owner kept".to_owned(), |ids| format!("owner {ids}"));
    let group = set.group.map_or_else(String::new, |gid| format!(", group {gid} (setgid)"));
    let acl =
        set.default_acl.as_ref().map_or_else(String::new, |acl| format!(", default ACL {acl}"));
    let mut what = Vec::new();
    if set.owners > 0 {
        what.push(count_u64(set.owners, "owner"));
    }
    if set.modes > 0 {
        what.push(count_u64(set.modes, "mode"));
    }
    if set.default_acls > 0 {
        what.push(count_u64(set.default_acls, "default ACL"));
    }
    format!(
        "{owner}{group}{acl} on {}: {} of {} ({})",
        set.path,
        set.changes,
        if set.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", set.entries) },
        what.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pctd_core::ids::{HostIds, MpKey};
    use pctd_core::plan::Reason;
    use pctd_core::report::FieldReport;

    use super::*;

    fn reason(reason: &str, message: &str) -> Reason {
        Reason { reason: reason.to_owned(), message: message.to_owned() }
    }

    fn set(key: u8, value: &str, was: Option<&str>, effective: Effective) -> Step {
        Step::SetMount(SetMount {
            key: MpKey::new(key),
            value: value.to_owned(),
            was: was.map(str::to_owned),
            volume: "data".parse().unwrap(),
            ids: (key == 2).then(|| "root inside is 5000:5000 on disk".to_owned()),
            effective,
            after_volume: effective == Effective::Now,
        })
    }

    fn remove(key: u8, pending: bool) -> Step {
        let effective = if pending { Effective::Now } else { Effective::AfterRestart };
        let value = "/srv/old,mp=/old".to_owned();
        Step::RemoveMount(RemoveMount { key: MpKey::new(key), value, pending, effective })
    }

    fn certificate(renew: bool) -> Step {
        Step::CreateCertificate(CreateCertificate {
            path: "/tank/data".to_owned(),
            domain: "a.example".to_owned(),
            alt_names: Vec::new(),
            days: 365,
            renew,
        })
    }

    fn convert(phase: ConvertPhase) -> Step {
        Step::ConvertContainer(ConvertContainer {
            phase,
            unprivileged: true,
            storage: Some("bulk".to_owned()),
            archive: Some("/bulk/dump/100.tar.zst".to_owned()),
            disks: None,
            after_volume: phase == ConvertPhase::Start,
        })
    }

    fn own(owner: Option<HostIds>, entries: u64, owners: u64, modes: u64) -> Step {
        let (path, changes) = ("/tank/data".to_owned(), owners.max(modes));
        let (group, default_acl, default_acls) = (None, None, 0);
        Step::SetOwnership(SetOwnership {
            path,
            owner,
            group,
            default_acl,
            entries,
            changes,
            owners,
            modes,
            default_acls,
        })
    }

    #[test]
    fn a_group_and_a_default_acl_are_part_of_what_is_set() {
        let Step::SetOwnership(set) = own(None, 9, 5, 2) else { unreachable!() };
        let acl = Some("u::rwx,g::rwx,o::r-x".to_owned());
        let set = SetOwnership { group: Some(110_000), default_acl: acl, default_acls: 3, ..set };
        assert_eq!(
            ownership(&set),
            "owner kept, group 110000 (setgid), default ACL u::rwx,g::rwx,o::r-x on /tank/data: \
             5 of 9 entries (5 owners, 2 modes, 3 default ACLs)"
        );
    }

    /// A report in which every kind of step and every part of an entry occurs.
    fn full() -> PlanReport {
        let root = Some(HostIds::new(100_000, 100_000));
        let volume = KeyReport {
            steps: vec![
                Step::CreateDirectory { path: "/tank/data".to_owned() },
                own(root, 1, 1, 1),
                own(None, 12, 0, 3),
                certificate(false),
                certificate(true),
            ],
            notices: vec![reason("HardLinks", "2 entries have more than one name")],
            ..KeyReport::default()
        };
        let container = KeyReport {
            steps: vec![
                Step::CreateContainer(CreateContainer {
                    template: "local:vztmpl/a.tar.zst".to_owned(),
                    unprivileged: true,
                    rootfs: Some("quick:8".to_owned()),
                    storage: None,
                    set: BTreeMap::from([("cores".to_owned(), "2".to_owned())]),
                }),
                Step::CloneContainer(CloneContainer {
                    from: "900".parse().unwrap(),
                    snapshot: Some("ready".to_owned()),
                    hostname: Some("web".to_owned()),
                    storage: Some("quick".to_owned()),
                }),
                Step::ConfigureContainer(ConfigureContainer {
                    set: BTreeMap::from([("memory".to_owned(), "512".to_owned())]),
                    delete: vec!["onboot".to_owned()],
                    finishes: None,
                }),
                Step::EditConf(EditConf {
                    remove: vec!["lxc.idmap: u 0 100000 65536".parse().unwrap()],
                    add: vec!["lxc.idmap: u 0 100000 1000".parse().unwrap()],
                    after_restart: true,
                    ..EditConf::default()
                }),
                Step::EditConf(EditConf {
                    add: vec!["lxc.cap.drop: x".parse().unwrap()],
                    ids: Some("every id inside is the same on disk".to_owned()),
                    ..EditConf::default()
                }),
                set(0, "/tank/data,mp=/data", None, Effective::Now),
                set(1, "/tank/data,mp=/b,ro=1", Some("/tank/data,mp=/b"), Effective::AfterRestart),
                set(2, "/tank/data,mp=/c", None, Effective::NextStart),
                remove(4, true),
                remove(5, false),
                Step::RebootContainer {
                    keys: vec![MpKey::new(1)],
                    lines: vec!["lxc.cap.drop: x".parse().unwrap()],
                    others: Vec::new(),
                },
                Step::RebootContainer {
                    keys: vec![MpKey::new(1), MpKey::new(3)],
                    lines: Vec::new(),
                    others: vec!["cores".to_owned(), "swap".to_owned()],
                },
                Step::StartContainer {},
                convert(ConvertPhase::Stop),
                convert(ConvertPhase::Replace),
                convert(ConvertPhase::Restore),
                convert(ConvertPhase::RollBack),
                convert(ConvertPhase::Start),
            ],
            holds: vec![reason("Locked", "container 100 is locked (backup)")],
            unmanaged: vec![FieldReport {
                field: "cores".to_owned(),
                declared: "cores: 2".to_owned(),
                found: None,
            }],
            error: Some("pct exited with 255".to_owned()),
            ..KeyReport::default()
        };
        let mut report = PlanReport::empty();
        report.insert("data".parse().unwrap(), volume);
        report.insert("100".parse().unwrap(), container);
        report.insert("101".parse().unwrap(), KeyReport::default());
        report.count();
        report
    }

    #[test]
    fn a_plan_reads_like_a_diff() {
        let expected = "\
volume data
  + directory /tank/data
  ~ owner 100000:100000 on /tank/data: 1 of 1 entry (1 owner, 1 mode)
  ~ owner kept on /tank/data: 3 of 12 entries (3 modes)
  + /tank/data/a.example.key and .crt, for 365 days
  ~ /tank/data/a.example.key and .crt, for 365 days
  i HardLinks: 2 entries have more than one name

container 100
  + unprivileged container from local:vztmpl/a.tar.zst, root disk quick:8
    + cores: 2
  + clone of 900, snapshot ready, named web, on quick
  ~ memory: 512
  - onboot
  - lxc.idmap: u 0 100000 65536
  + lxc.idmap: u 0 100000 1000
    raw lines of the conf; seen after a restart
  + lxc.cap.drop: x
    raw lines of the conf; seen at the next start
    every id inside is the same on disk
  + mp0: /tank/data,mp=/data
    volume data; plugged in at once, once the volume is ready
  - mp1: /tank/data,mp=/b
  + mp1: /tank/data,mp=/b,ro=1
    volume data; seen after a restart
  + mp2: /tank/data,mp=/c
    volume data; seen at the next start
    root inside is 5000:5000 on disk
  - mp4: /srv/old,mp=/old
    pending, added by pctd and no longer declared
  - mp5: /srv/old,mp=/old
    added by pctd and no longer declared; in force until a restart
  ~ restart, for mp1, `lxc.cap.drop: x`
  ~ restart, for mp1, mp3
    also takes effect: cores, swap
  ~ start, because a restart left it stopped
  ~ conversion: stop it
  ~ conversion: back it up to bulk, check the backup, and restore it as unprivileged
  ~ conversion: restore it as unprivileged from /bulk/dump/100.tar.zst
  ~ conversion: restore it as it was from /bulk/dump/100.tar.zst
  ~ conversion: start it, once its volumes are ready
  failed: pct exited with 255
  ! Locked: container 100 is locked (backup)
  i cores is not managed: declared cores: 2, found nothing

";
        let text = plan(&full(), Tense::Plan, Palette::none());
        assert_eq!(text, format!("{expected}23 steps, 1 hold, 1 failed, 1 in sync.\n"));
        let text = plan(&full(), Tense::Done, Palette::none());
        assert_eq!(text, format!("{expected}23 steps taken, 1 hold, 1 failed, 1 in sync.\n"));
    }

    #[test]
    fn every_kind_of_step_is_in_the_plan_that_is_tested() {
        let report = full();
        let entries = report.containers.values().chain(report.volumes.values());
        let names: std::collections::BTreeSet<_> =
            entries.flat_map(|entry| &entry.steps).map(Step::name).collect();
        assert_eq!(names, Step::NAMES.iter().copied().collect());
    }

    #[test]
    fn a_plan_of_nothing_is_one_line() {
        let mut report = PlanReport::empty();
        assert_eq!(plan(&report, Tense::Plan, Palette::none()), "In sync: 0 keys.\n");
        report.insert("100".parse().unwrap(), KeyReport::default());
        report.count();
        assert_eq!(plan(&report, Tense::Done, Palette::none()), "In sync: 1 key.\n");
    }

    #[test]
    fn a_notice_alone_is_shown_and_is_in_sync() {
        let notices = vec![reason("KeepAttrs", "mp0 has keepattrs=1")];
        let mut report = PlanReport::empty();
        report.insert("100".parse().unwrap(), KeyReport { notices, ..KeyReport::default() });
        report.count();
        let expected = "container 100\n  i KeepAttrs: mp0 has keepattrs=1\n\nIn sync: 1 key.\n";
        assert_eq!(plan(&report, Tense::Plan, Palette::none()), expected);
    }
}
