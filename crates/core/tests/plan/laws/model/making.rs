//! Steps that make a container, or make it anew.

use super::*;

impl Node {
    /// Enters a container that pctd makes under an id that is nobody's and never was anybody's.
    pub(super) fn make(&mut self, ctid: Ctid, how: Making, text: &str, crash: Option<Crash>) {
        let absent = matches!(self.guests.get(&ctid), Some(Guest::Away(Presence::Absent)) | None);
        assert!(absent, "{ctid} is somebody's");
        assert!(!self.ledger.seen.contains(&ctid), "{ctid} was here before");
        self.ledger.enter(LedgerEntry::MakeIntended { ctid, how });
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            let conf = Conf::parse(ctid, text.as_bytes()).unwrap();
            let made = ObservedContainer { conf, flock_held: false, running: Running::No };
            self.guests.insert(ctid, Guest::Here(Box::new(made)));
        }
    }

    pub(super) fn create(&mut self, ctid: Ctid, create: &CreateContainer, crash: Option<Crash>) {
        let mut text = "arch: amd64\nrootfs: local:1/x.raw\nswap: 512\n".to_owned();
        if create.unprivileged {
            text += "unprivileged: 1\n";
        }
        for (name, value) in &create.set {
            text = text + name + ": " + value + "\n";
        }
        self.make(ctid, Making::Create, &text, crash);
    }

    pub(super) fn clone_container(
        &mut self,
        ctid: Ctid,
        clone: &CloneContainer,
        crash: Option<Crash>,
    ) {
        let Some(Guest::Here(source)) = self.guests.get(&clone.from) else {
            panic!("{} is not here", clone.from);
        };
        assert!(source.conf.lock().is_none() && !source.flock_held, "the source is busy");
        let named = clone.snapshot.as_ref();
        let section = named.map_or(&source.conf.current, |name| &source.conf.snapshots[name]);
        assert!(named.is_some() || source.running == Running::No, "the source runs");
        let bound = section.volumes().any(|(_, mount)| mount.class != MountClass::Volume);
        assert!(!bound, "a bind mount is never cloned");
        let mut copy = source.conf.clone();
        copy.current = section.clone();
        copy.pending = pctd_core::conf::Pending::default();
        copy.snapshots.clear();
        for name in ["lock", "template", "parent", "snaptime"] {
            copy.current.remove(name);
        }
        if let Some(name) = &clone.hostname {
            copy.current.set("hostname", name.as_str());
        }
        let text = String::from_utf8(copy.rewritten().unwrap()).unwrap();
        self.make(ctid, Making::Clone, &text, crash);
    }

    pub(super) fn configure(
        &mut self,
        ctid: Ctid,
        configure: &ConfigureContainer,
        crash: Option<Crash>,
    ) {
        let container = self.editable_if_protected(ctid);
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            for (name, value) in &configure.set {
                container.conf.current.set(name, value.as_str());
            }
            for name in &configure.delete {
                assert!(container.conf.current.remove(name).is_some(), "{name} is not there");
            }
            rewrite(ctid, &mut container.conf);
        }
    }

    pub(super) fn converting(&mut self, ctid: Ctid, was_running: bool, phase: ConversionPhase) {
        let unprivileged = self.desired.containers[&ctid].unprivileged.unwrap();
        let conversion = Conversion { unprivileged, was_running, phase };
        self.ledger.enter(LedgerEntry::Converting { ctid, conversion });
    }

    /// Goes through a phase of a conversion. A crash midway through a restore loses the container,
    /// and only its backup is left.
    pub(super) fn convert(&mut self, ctid: Ctid, convert: &ConvertContainer, crash: Option<Crash>) {
        let is_done = crash.is_none_or(|crash| crash == Crash::AfterStep);
        let was_running = self.ledger.converting.get(&ctid).is_some_and(|now| now.was_running);
        match convert.phase {
            ConvertPhase::Stop => {
                assert_eq!(self.desired.settings.restart, Restart::IfPending, "not to be stopped");
                self.converting(ctid, true, ConversionPhase::Stopping);
                let container = self.editable(ctid);
                assert_ne!(container.running, Running::No, "{ctid} does not run");
                if is_done {
                    apply_pending(&mut container.conf);
                    rewrite(ctid, &mut container.conf);
                    container.running = Running::No;
                }
            }
            ConvertPhase::Replace => {
                let begun = self.ledger.converting.get(&ctid);
                let earlier = begun.and_then(Conversion::cut_off).cloned();
                self.converting(ctid, was_running, ConversionPhase::BackingUp { earlier });
                let container = self.editable(ctid);
                assert_eq!(container.running, Running::No, "a running container is backed up");
                let conf = container.conf.clone();
                assert_nothing_is_lost(&conf);
                if crash == Some(Crash::BeforeStep) {
                    return;
                }
                let archive = format!("archive {}", self.taken.len());
                self.archives.insert(archive.clone(), conf);
                let disks = convert.disks.clone().unwrap();
                let backup = Backup { archive: archive.clone(), disks };
                let phase = ConversionPhase::Restoring { backup: backup.clone() };
                self.converting(ctid, was_running, phase);
                if crash == Some(Crash::Midway) {
                    self.guests.insert(ctid, Guest::Away(Presence::Absent));
                    return;
                }
                self.restore(ctid, &archive, convert.unprivileged);
                if crash.is_none() {
                    self.converting(ctid, was_running, ConversionPhase::Restored { backup });
                }
            }
            ConvertPhase::Restore | ConvertPhase::RollBack => {
                let archive = convert.archive.clone().unwrap();
                assert!(
                    matches!(self.guests[&ctid], Guest::Away(Presence::Absent)),
                    "an old backup is restored over {ctid}"
                );
                if is_done {
                    self.restore(ctid, &archive, convert.unprivileged);
                }
            }
            ConvertPhase::Start => {
                let is_unprivileged = self.conf(ctid).unwrap().is_effectively_unprivileged();
                let end = self.ledger.converting[&ctid].end(ctid, is_unprivileged);
                let at = self.now.as_secs();
                for entry in
                    [end, LedgerEntry::Restarted { ctid, at }, LedgerEntry::StartOwed(ctid)]
                {
                    self.ledger.enter(entry);
                }
                // What is missing is told by the plan of the start that is owed from now on.
                if is_done && self.missing_source(ctid).is_none() {
                    self.start(ctid);
                }
            }
        }
    }

    pub(super) fn restore(&mut self, ctid: Ctid, archive: &str, unprivileged: bool) {
        let mut conf = self.archives[archive].clone();
        if unprivileged {
            conf.current.set("unprivileged", "1");
        } else {
            conf.current.remove("unprivileged");
        }
        rewrite(ctid, &mut conf);
        let container = ObservedContainer { conf, flock_held: false, running: Running::No };
        self.guests.insert(ctid, Guest::Here(Box::new(container)));
    }
}

/// Panics where a backup does not have everything of a container.
fn assert_nothing_is_lost(conf: &Conf) {
    assert!(conf.snapshots.is_empty(), "snapshots are lost");
    assert!(conf.pending.is_empty(), "what is pending is lost");
    assert!(!conf.is_template(), "a template is converted");
    for entry in conf.mounts().values() {
        let mount = entry.parsed.as_ref().unwrap();
        let is_kept = match mount.class {
            MountClass::Bind => true,
            MountClass::Device => false,
            MountClass::Volume => mount.is_on("backup"),
        };
        assert!(is_kept, "{} is lost", entry.raw);
    }
}
