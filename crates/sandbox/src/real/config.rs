//! The file that lxc-start reads for a real container: the id map, the mounts and the hooks of the
//! conf, and nothing of it that a guest of one busybox does not need.

use std::fmt::Write as _;
use std::path::Path;

use pctd_core::conf::{Conf, MountClass};
use pctd_core::ids::Ctid;

use crate::context::Context;
use crate::output::Die;
use crate::perl::{from_file, is_space};

use super::HOOK;

/// Returns its text.
pub(crate) fn text(cx: &Context, ctid: Ctid, conf: &Conf) -> Result<String, Die> {
    let program = cx.program.as_ref().ok_or("install the programs of the node first\n")?;
    let (root, program) = (cx.root.path().display(), program.display());
    let rootfs = cx.root.lxc(&ctid.to_string()).join("rootfs");
    let mut text = format!(
        "lxc.uts.name = ct{ctid}\n\
         lxc.rootfs.path = dir:{}\n\
         lxc.apparmor.profile = unconfined\n\
         lxc.net.0.type = empty\n\
         lxc.mount.auto = proc:mixed sys:ro\n\
         lxc.init.cmd = /sbin/init\n\
         lxc.signal.halt = SIGTERM\n\
         lxc.hook.pre-start = {program} {HOOK} {root} pre-start\n\
         lxc.hook.post-stop = {program} {HOOK} {root} post-stop\n",
        rootfs.display()
    );
    let mut line = |key: &str, value: &str| {
        let _written = writeln!(text, "{key} = {value}");
    };
    if conf.unprivileged_flag() && !conf.has_custom_idmap() {
        line("lxc.idmap", "u 0 100000 65536");
        line("lxc.idmap", "g 0 100000 65536");
    }
    for (key, value) in conf.current.lxc() {
        let value = from_file(value);
        if key == "lxc.mount.entry" {
            line(key, &raw_entry(cx, &value));
        } else {
            line(key, &value);
        }
    }
    for (_, mount) in conf.current.volumes() {
        if mount.class == MountClass::Bind {
            let source = escaped(&cx.root.host(&from_file(&mount.volume)));
            let target = from_file(&mount.target);
            let target = escaped(Path::new(target.trim_matches('/')));
            let ro = if mount.is_on("ro") { ",ro" } else { "" };
            line("lxc.mount.entry", &format!("{source} {target} none bind,create=dir{ro} 0 0"));
        }
    }
    Ok(text)
}

/// Returns a raw line whose source is where the host path really is.
fn raw_entry(cx: &Context, line: &str) -> String {
    let mut fields = line.split(is_space).filter(|field| !field.is_empty());
    match fields.next() {
        Some(source) if source.starts_with('/') => {
            let rest: Vec<&str> = fields.collect();
            format!("{} {}", escaped(&cx.root.host(source)), rest.join(" "))
        }
        _ => line.to_owned(),
    }
}

/// Returns a path as fstab(5) takes it.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011")
}
