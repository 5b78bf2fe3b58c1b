//! `pct start`, `stop`, `shutdown` and `reboot` (`PVE::API2::LXC::Status`, `PVE::LXC::vm_start`,
//! `vm_stop`), and the post-stop hook.

use std::time::Duration;

use pctd_core::conf::Conf;
use pctd_core::ids::Ctid;

use crate::context::{Context, check_lock};
use crate::launch;
use crate::lxc_config;
use crate::output::{Die, Errors};
use crate::pct::parameters::Parameters;
use crate::pct::task::{Ended, task};
use crate::real;
use crate::running::{self, Connection, Word};
use crate::update;

/// What `lxc-stop` waits without a `--timeout`.
const DEFAULT_TIMEOUT: u64 = 60;

/// What Proxmox waits longer than `lxc-stop` (`vm_stop`).
const GRACE: u64 = 5;

pub(super) fn start(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    if cx.is_running(ctid) {
        return Err(Die::new(format!("CT {ctid} already running\n")).into());
    }
    if !cx.pmxcfs.is_quorate(&cx.settings.node) {
        return Err(Die::new("cluster not ready - no quorum?\n").into());
    }
    let skiplock = parameters.is_on("skiplock");
    task(cx, |cx| cx.locked(ctid, |cx| checked_start(cx, ctid, skiplock)))
}

/// Starts a container after the checks of the API.
pub(crate) fn checked_start(cx: &mut Context, ctid: Ctid, skiplock: bool) -> Result<(), Die> {
    let conf = cx.load(ctid)?;
    if conf.is_template() {
        return Err("you can't start a CT if it's a template\n".into());
    }
    let mounted = conf.lock().is_some_and(|lock| lock == "mounted");
    if !skiplock && !mounted {
        check_lock(&conf)?;
    }
    if conf.unprivileged_flag() && conf.current.volumes().any(|(_, mount)| mount.is_on("quota")) {
        return Err("Quotas are not supported by unprivileged containers.\n".into());
    }
    vm_start(cx, ctid, conf, skiplock)
}

fn vm_start(cx: &mut Context, ctid: Ctid, mut conf: Conf, skiplock: bool) -> Result<(), Die> {
    if !conf.pending.is_empty() {
        // Errors are warnings here: the start goes on with what could be applied.
        update::apply(cx, ctid, &mut conf, None, &mut Errors::new());
        cx.write(ctid, &conf)?;
        conf = cx.load(ctid)?;
    }
    lxc_config::update(cx, ctid, &conf)?;
    match conf.current.idmap_lines() {
        Err(error) => cx.streams.warn(&format!("lxc.idmap: {error}\n")),
        Ok(_) => {
            if let Some(overlap) = conf.idmap_overlap() {
                cx.streams.warn(&format!("lxc.idmap: {overlap}\n"));
            }
        }
    }
    for (_, mount) in conf.current.volumes() {
        let volume = crate::perl::from_file(&mount.volume);
        if mount.class == pctd_core::conf::MountClass::Volume {
            cx.storages().split(&volume)?;
            if !cx.storages().exists(&volume) {
                return Err(Die::new(format!("volume '{volume}' does not exist\n")));
            }
        }
    }
    launch::launch(cx, ctid, &conf, skiplock)
}

pub(super) fn stop(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    must_run(cx, ctid, "CT")?;
    let skiplock = parameters.is_on("skiplock");
    task(cx, |cx| {
        cx.locked(ctid, |cx| {
            let conf = cx.load(ctid)?;
            let mounted = conf.lock().is_some_and(|lock| lock == "mounted");
            if !skiplock && !mounted {
                check_lock(&conf)?;
            }
            vm_stop(cx, ctid, Manner::Kill)
        })
    })
}

pub(super) fn shutdown(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    must_run(cx, ctid, "CT")?;
    let timeout = Some(parameters.seconds("timeout").unwrap_or(DEFAULT_TIMEOUT));
    let force = parameters.is_on("forceStop");
    task(cx, |cx| {
        cx.locked(ctid, |cx| {
            let conf = cx.load(ctid)?;
            check_lock(&conf)?;
            vm_stop(
                cx,
                ctid,
                if force { Manner::HaltThenKill(timeout) } else { Manner::Halt(timeout) },
            )
        })
    })
}

pub(super) fn reboot(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    must_run(cx, ctid, "VM")?;
    let timeout = parameters.seconds("timeout");
    task(cx, |cx| {
        cx.locked(ctid, |cx| {
            if !cx.is_running(ctid) {
                return Ok(());
            }
            vm_stop(cx, ctid, Manner::HaltThenKill(timeout))?;
            // No check of the lock here; the pre-start hook makes up for it.
            let conf = cx.load(ctid)?;
            vm_start(cx, ctid, conf, false)
        })
    })
}

fn must_run(cx: &Context, ctid: Ctid, kind: &str) -> Result<(), Die> {
    if cx.is_running(ctid) {
        return Ok(());
    }
    Err(Die::new(format!("{kind} {ctid} not running\n")))
}

/// How a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// At once.
    Kill,
    /// By its own doing, or not at all.
    Halt(Option<u64>),
    /// By its own doing, else killed.
    HaltThenKill(Option<u64>),
}

/// Stops a container and waits for its monitor to go (`vm_stop`, with `lxc-stop` inside).
pub(crate) fn vm_stop(cx: &mut Context, ctid: Ctid, manner: Manner) -> Result<(), Die> {
    let id = ctid.to_string();
    let failed = |error: std::io::Error| {
        Die::new(format!("failed to open container {id}'s command socket: {error}\n"))
    };
    let Some(mut socket) = running::connect(&cx.root, &id).map_err(failed)? else { return Ok(()) };
    if manner == Manner::Kill {
        tell(cx, &mut socket, &id, Word::Kill).map_err(failed)?;
        socket.wait_gone(None).map_err(failed)?;
        return Ok(());
    }
    let (timeout, kill) = match manner {
        Manner::HaltThenKill(timeout) => (timeout, true),
        Manner::Halt(timeout) => (timeout, false),
        Manner::Kill => (None, true),
    };
    tell(cx, &mut socket, &id, Word::Halt).map_err(failed)?;
    // 0 waits without a limit (lxc-stop(1)).
    let patience = match timeout {
        Some(0) => None,
        timeout => Some(cx.settings.timings.seconds(timeout.unwrap_or(DEFAULT_TIMEOUT))),
    };
    if socket.wait_gone(patience).map_err(failed)? {
        return Ok(());
    }
    if kill {
        tell(cx, &mut socket, &id, Word::Kill).map_err(failed)?;
        socket.wait_gone(None).map_err(failed)?;
        return Ok(());
    }
    let seconds = timeout.unwrap_or(DEFAULT_TIMEOUT);
    cx.streams.warn(&format!(
        "command 'lxc-stop -n {ctid} --nokill --timeout {seconds}' failed: exit code 1\n"
    ));
    let more: Duration = cx.settings.timings.seconds(seconds + GRACE);
    if socket.wait_gone(Some(more)).map_err(failed)? {
        return Ok(());
    }
    Err("container did not stop\n".into())
}

/// Tells a container to end: its monitor, or lxc.
fn tell(cx: &Context, socket: &mut Connection<'_>, id: &str, word: Word) -> std::io::Result<()> {
    if cx.settings.real_containers { real::tell(&cx.root, id, word) } else { socket.say(word) }
}

/// Applies what is pending and rewrites the conf, without taking the flock: what happens at
/// every stop, whatever its cause (lxc-pve-poststop-hook).
pub(crate) fn post_stop(cx: &mut Context, ctid: Ctid) -> Result<(), Die> {
    if !cx.root.conf(&cx.settings.node, &ctid.to_string()).exists() {
        return Ok(());
    }
    let mut conf = cx.load(ctid)?;
    update::apply(cx, ctid, &mut conf, None, &mut Errors::new());
    cx.write(ctid, &conf)
}
