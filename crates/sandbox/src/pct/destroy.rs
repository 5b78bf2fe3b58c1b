//! `pct destroy` (`PVE::API2::LXC`, `destroy_vm`; `PVE::LXC::destroy_lxc_container`).

use std::collections::BTreeSet;
use std::fs;

use pctd_core::conf::{Conf, MountClass, Section};
use pctd_core::ids::Ctid;

use crate::context::{Context, check_lock, check_protection, text};
use crate::output::Die;
use crate::pct::parameters::Parameters;
use crate::pct::power::{Manner, vm_stop};
use crate::pct::task::{Ended, task};
use crate::perl::from_file;
use crate::properties::is_numbered;
use crate::volumes::free_volume;

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    let force = parameters.is_on("force");
    let conf = cx.load(ctid)?;
    check(&conf, ctid)?;
    let running = || Die::new(format!("unable to destroy CT {ctid} - container is running\n"));
    if !force && cx.is_running(ctid) {
        return Err(running().into());
    }
    task(cx, |cx| {
        cx.locked(ctid, |cx| {
            let conf = cx.load(ctid)?;
            check(&conf, ctid)?;
            if cx.is_running(ctid) {
                if !force {
                    return Err(running());
                }
                cx.streams.warn(&format!("forced to stop CT {ctid} before destroying!\n"));
                vm_stop(cx, ctid, Manner::Kill)?;
            }
            // Nothing asks for a quorum before the volumes are gone.
            free_volumes(cx, ctid, &conf);
            let mut zombie =
                Conf::parse(ctid, b"").map_err(|error| Die::internal(&error.to_string()))?;
            zombie.current.set("lock", "destroyed");
            cx.write(ctid, &zombie)?;
            cx.remove_conf(ctid)
        })
    })
}

fn check(conf: &Conf, ctid: Ctid) -> Result<(), Die> {
    check_protection(conf, &format!("can't remove CT {ctid}"))?;
    check_lock(conf)
}

pub(super) fn free_volumes(cx: &mut Context, ctid: Ctid, conf: &Conf) {
    let mut volumes = BTreeSet::new();
    for section in [&conf.current, &conf.pending.section] {
        volumes.extend(volumes_of(section));
    }
    for volume in volumes {
        if let Err(error) = free_volume(cx, ctid, &volume) {
            cx.streams.warn(&format!("WARN: failed to delete mountpoint volume {volume}: {error}"));
        }
    }
    let dir = cx.root.lxc(&ctid.to_string());
    // A directory with anything else in it stays, as with rmdir in Proxmox.
    let _ = fs::remove_dir(dir.join("rootfs"));
    let _ = fs::remove_file(dir.join("config"));
    let _ = fs::remove_dir(dir);
}

fn volumes_of(section: &Section) -> Vec<String> {
    let mounted = section
        .volumes()
        .filter(|(_, mount)| mount.class == MountClass::Volume)
        .map(|(_, mount)| from_file(&mount.volume));
    let unused = section.properties().keys().filter(|name| is_numbered(name, "unused"));
    mounted.chain(unused.filter_map(|name| text(section, name))).collect()
}
