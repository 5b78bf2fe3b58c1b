//! Steps that write a conf, and the restarts they wait for.

use super::*;

impl Node {
    /// The container a step may edit now.
    pub(super) fn editable(&mut self, ctid: Ctid) -> &mut ObservedContainer {
        let container = self.editable_if_protected(ctid);
        assert!(!container.conf.is_protected(), "{ctid} is protected");
        container
    }

    /// The same for what protection does not keep from being edited.
    pub(super) fn editable_if_protected(&mut self, ctid: Ctid) -> &mut ObservedContainer {
        let Some(Guest::Here(container)) = self.guests.get_mut(&ctid) else {
            panic!("{ctid} is not here");
        };
        let NodeState::Up(cluster) = &self.state else { panic!("the node is unknown") };
        assert!(cluster.quorate, "no quorum");
        assert!(container.conf.lock().is_none(), "{ctid} is locked");
        assert!(!container.flock_held, "{ctid} is busy");
        container
    }

    pub(super) fn set_mount(&mut self, ctid: Ctid, set: &SetMount, crash: Option<Crash>) {
        let ledger = self.ledger.clone();
        let desired = Arc::clone(&self.desired);
        let volume = &desired.volumes[&set.volume];
        let target = &volume.mounts[&ctid].target;
        let ready = matches!(self.sources[&set.volume], Source::Directory { .. });
        assert!(ready, "a source that is not there is not mounted");
        let container = self.editable(ctid);
        let adopt = volume.mounts[&ctid].adopt;
        assert_may_write(&container.conf, set, &volume.host_path, target, |entry, waits| {
            let is_bind = entry.parsed.as_ref().is_ok_and(|mp| mp.class == MountClass::Bind);
            ledger.is_own_mount(ctid, set.key, &entry.raw) || (adopt && is_bind && !waits)
        });
        let running = container.running != Running::No;
        let mount = MountPoint::parse(set.value.as_bytes()).unwrap();
        assert_eq!(mount.render(), set.value, "Proxmox would store another value");
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            let conf = &mut container.conf;
            let (name, value) = (set.key.to_string(), set.value.as_str());
            let current = conf.current.get(&name).map(ToOwned::to_owned);
            // Stopped, or new and so hot-plugged, or back to what is in force: current at once.
            if !running || current.as_deref().is_none_or(|current| current == value.as_bytes()) {
                conf.current.set(&name, value);
                conf.pending.section.remove(&name);
            } else {
                conf.pending.section.set(&name, value);
            }
            conf.pending.remove_delete(&name);
            rewrite(ctid, conf);
        }
        let (key, value) = (set.key, set.value.clone());
        // A crash leaves only what was written ahead.
        self.ledger.enter(match crash {
            Some(_) => LedgerEntry::MountIntended { ctid, key, value },
            None => LedgerEntry::MountWritten { ctid, key, value },
        });
    }

    /// Edits the text as it would stand in the file: whatever is not named stays as it is.
    pub(super) fn edit_conf(&mut self, ctid: Ctid, edit: &EditConf, crash: Option<Crash>) {
        let ledger = self.ledger.clone();
        let is_fresh = ledger.making.contains_key(&ctid);
        let desired = Arc::clone(&self.desired);
        let pruned = edit.add.is_empty();
        assert!(!pruned || is_fresh || desired.settings.prune, "prune is off");
        assert!(
            !pruned || is_fresh || self.removal == Removal::Allowed,
            "nothing may be concluded"
        );
        let sources = self.sources.iter();
        let directories: BTreeSet<VolumeName> = sources
            .filter(|(_, source)| matches!(source, Source::Directory { .. }))
            .map(|(name, _)| name.clone())
            .collect();
        let container = self.editable(ctid);
        let running = container.running != Running::No;
        assert_eq!(edit.after_restart, running);
        let mounts: Vec<(&Volume, &Mount)> = desired.mounts_of(ctid).collect();
        let declared = |line: &MountLine| {
            mounts.iter().find(|(_, mount)| line.target == mount.target.as_str())
        };
        let mount_of = |line: &RawLine| {
            MountLine::parse(line.value().as_bytes()).filter(|_| line.key() == RawLine::MOUNT_ENTRY)
        };
        for line in edit.add.iter().filter_map(mount_of) {
            let (volume, mount) = declared(&line).expect("a mount that nobody declared");
            assert!(matches!(mount.mechanism, Mechanism::Lxc { .. }), "made by pct");
            assert_eq!(line.source, volume.host_path.as_str());
            let ready = directories.contains(&volume.name);
            assert!(ready, "a source that is not there keeps the container from starting");
            let may_map = container.conf.is_effectively_unprivileged() || !line.is_mapped();
            assert!(may_map, "a map keeps a privileged container from starting");
        }
        for line in &edit.remove {
            let adopted =
                mount_of(line).is_some_and(|m| declared(&m).is_some_and(|(_, m)| m.adopt));
            let own = ledger.is_own_line(ctid, line) || adopted;
            assert!(own || is_fresh && !running, "`{line}` is somebody else's");
        }
        let maps = |lines: &[RawLine]| lines.iter().any(|line| line.key() == RawLine::IDMAP);
        let before = container.conf.effective_idmap();
        let mut lines: Vec<_> = container.conf.current.lxc().to_vec();
        for line in &edit.remove {
            let is_it =
                |(key, value): &(String, BString)| *key == line.key() && *value == line.value();
            let at = lines.iter().position(is_it);
            lines.remove(at.unwrap_or_else(|| panic!("`{line}` is not there")));
        }
        lines.extend(edit.add.iter().map(|line| (line.key().to_owned(), line.value().into())));
        let mut after = container.conf.current.clone();
        after.set_lxc(lines);
        if maps(&edit.add) || maps(&edit.remove) {
            let (before, after) = (before.unwrap(), after.effective_idmap().unwrap());
            let moved = before.moved(&after);
            let root = moved.iter().any(|ids| ids.first == 0);
            assert!(moved.is_empty() || is_fresh && !running && !root, "files of {moved:?}");
        }
        let text = container.conf.rewritten().unwrap();
        let edited = edit.edit().apply(ctid, &text).unwrap();
        let init = match container.running {
            Running::Yes { init, .. } => init,
            Running::No => None,
        };
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            container.conf = Conf::parse(ctid, &edited).unwrap();
            assert_eq!(container.conf.current, after, "another conf than was meant");
        }
        self.ledger.enter(LedgerEntry::LinesIntended { ctid, lines: edit.add.clone() });
        if running {
            let (added, removed) = (edit.add.clone(), edit.remove.clone());
            let edited = Edited { boot: BOOT.to_owned(), init, added, removed };
            let edited = match ledger.edited.get(&ctid).cloned() {
                Some(before) => before.then(edited),
                None => edited,
            };
            self.ledger.enter(LedgerEntry::EditWaits { ctid, edited: Some(edited) });
        }
    }

    pub(super) fn remove_mount(&mut self, ctid: Ctid, remove: &RemoveMount, crash: Option<Crash>) {
        let RemoveMount { key, value, pending, .. } = remove;
        assert!(self.desired.settings.prune, "prune is off");
        assert_eq!(self.removal, Removal::Allowed, "nothing may be concluded");
        let ledger = self.ledger.clone();
        assert!(ledger.is_own_mount(ctid, *key, value.as_bytes()), "{key} is somebody else's");
        assert!(!ledger.is_borrowed(ctid, *key), "{key} is somebody else's");
        let by_pct = |(_, mount): &(&Volume, &Mount)| mount.mechanism == Mechanism::Pct;
        let mounts = self.desired.mounts_of(ctid).filter(by_pct);
        let targets: BTreeSet<String> = mounts.map(|(_, mount)| mount.target.clone()).collect();
        let container = self.editable(ctid);
        let running = container.running != Running::No;
        let conf = &mut container.conf;
        let of = if *pending { conf.pending_mounts() } else { conf.mounts() };
        let entry = &of[key];
        assert_eq!(entry.raw, value.as_str(), "another value than was planned on");
        let class = entry.parsed.as_ref().unwrap().class;
        assert_eq!(class, MountClass::Bind, "a disk of a storage is never removed");
        let target = normalise_path(&entry.parsed.as_ref().unwrap().target).to_string();
        assert!(!targets.contains(&target), "{key} is desired");
        let name = key.to_string();
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            if *pending {
                conf.pending.section.remove(&name);
                conf.pending.remove_delete(&name);
            } else {
                assert!(!conf.pending_mounts().contains_key(key), "it would become current");
                if running {
                    conf.pending.add_delete(&name, Force::No);
                } else {
                    conf.current.remove(&name);
                    conf.pending.remove_delete(&name);
                }
            }
            rewrite(ctid, conf);
        }
        if crash.is_none() && !conf.mount_keys_in_use().contains(key) {
            self.ledger.enter(LedgerEntry::MountForgotten { ctid, key: *key });
        }
    }

    pub(super) fn reboot(
        &mut self,
        ctid: Ctid,
        (keys, lines): (&[MpKey], &[RawLine]),
        others: &[String],
        crash: Option<Crash>,
    ) {
        let (now, ledger) = (self.now.as_secs(), self.ledger.clone());
        // The daemon looks first: a start without a source would leave the guest stopped.
        assert_eq!(self.missing_source(ctid), None, "{ctid} would not start again");
        let edited = ledger.edited.get(&ctid);
        for line in lines {
            let ours = edited.is_some_and(|e| e.added.contains(line) || e.removed.contains(line));
            assert!(ours, "restarted for a line of others");
        }
        assert!(!keys.is_empty() || !lines.is_empty(), "restarted for nothing");
        let container = self.editable(ctid);
        let conf = &mut container.conf;
        let own: BTreeSet<String> = keys.iter().map(ToString::to_string).collect();
        for key in keys {
            let waits = conf.pending_mounts().get(key).or_else(|| conf.mounts().get(key));
            let ours = waits.is_some_and(|mount| ledger.is_own_mount(ctid, *key, &mount.raw));
            assert!(ours, "restarted for others");
        }
        let named: BTreeSet<String> = others.iter().cloned().chain(own).collect();
        assert_eq!(named, conf.pending_names(), "every change that takes effect is named");
        if crash != Some(Crash::BeforeStep) {
            apply_pending(conf);
            rewrite(ctid, conf);
            container.running = match container.running {
                Running::No => panic!("a stopped container is not restarted"),
                // Its start failed, or never came.
                Running::Yes { .. } if crash == Some(Crash::Midway) => Running::No,
                Running::Yes { init, .. } => {
                    let init = init.map(|pid| pid + 1);
                    Running::Yes { init, map: container.conf.effective_idmap().ok() }
                }
            };
        }
        self.ledger.enter(LedgerEntry::Restarted { ctid, at: now });
        self.ledger.enter(LedgerEntry::StartOwed(ctid));
        if crash.is_none() {
            self.ledger.enter(LedgerEntry::EditWaits { ctid, edited: None });
        }
    }

    /// A source of the container, as it would be started, that is not there.
    pub(super) fn missing_source(&self, ctid: Ctid) -> Option<String> {
        let conf = self.conf(ctid)?;
        let missing: BTreeSet<&str> = (self.desired.volumes.values())
            .filter(|v| !matches!(self.sources[&v.name], Source::Directory { .. }))
            .map(|v| v.host_path.as_str())
            .collect();
        let after =
            conf.mounts().iter().filter(|(key, _)| !conf.pending_mounts().contains_key(key));
        let after = after.filter(|(key, _)| !conf.pending_delete(**key));
        let source = |(_, entry): (&MpKey, &MountEntry)| {
            let mount = entry.parsed.as_ref().ok().filter(|mp| mp.class == MountClass::Bind)?;
            String::from_utf8(normalise_path(&mount.volume).to_vec()).ok()
        };
        let mut sources = after.chain(conf.pending_mounts()).filter_map(source);
        sources.find(|source| missing.contains(source.as_str()))
    }

    pub(super) fn start(&mut self, ctid: Ctid) {
        assert!(self.ledger.start_owed.contains(&ctid), "{ctid} was not stopped by pctd");
        assert_eq!(self.missing_source(ctid), None, "{ctid} would not start");
        let Some(Guest::Here(container)) = self.guests.get_mut(&ctid) else {
            panic!("{ctid} is not here");
        };
        assert_eq!(container.running, Running::No, "{ctid} runs");
        assert!(container.conf.lock().is_none() && !container.flock_held, "{ctid} is locked");
        container.running = running(&container.conf, None);
    }
}

/// Panics where the mount to be written is not pctd's to write.
fn assert_may_write(
    conf: &Conf,
    set: &SetMount,
    path: &str,
    target: &str,
    is_own: impl Fn(&MountEntry, bool) -> bool,
) {
    assert!(!conf.pending_delete(set.key), "{} is being deleted by somebody", set.key);
    let at_target = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| normalise_path(&mp.target) == target)
    };
    let same_source = |entry: &MountEntry| {
        entry
            .parsed
            .as_ref()
            .is_ok_and(|mp| mp.class == MountClass::Bind && normalise_path(&mp.volume) == path)
    };
    match (conf.mounts().get(&set.key), conf.pending_mounts().get(&set.key)) {
        (_, Some(pending)) => {
            assert!(is_own(pending, true), "{} is pending of somebody else", set.key);
        }
        (Some(now), None) => {
            assert!(at_target(now), "{} is another mount", set.key);
            assert!(same_source(now) || is_own(now, false), "{} is somebody else's", set.key);
        }
        (None, None) => {}
    }
    let all = conf.mounts().iter().chain(conf.pending_mounts());
    let twice = all.filter(|(key, entry)| **key != set.key && at_target(entry)).count();
    assert_eq!(twice, 0, "{target} would be mounted twice");
}
