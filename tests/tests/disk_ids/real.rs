//! What was planned, on real LXC containers: each gets the mount as Proxmox makes it, a detached
//! clone whose ids are mapped by the rule of `idmap=`, and looks at the files of the others.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pctd_core::conf::MountPoint;
use pctd_sys::idmapped::{detached_clone, map_ids, user_namespace};
use pctd_tests::world::{UNPRIVILEGED, World, own, skip};
use rustix::fs::{CWD, chmod};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde_json::Value;

use crate::{SHIFTED, world};

/// The ids that are looked at: root's, those of `www-data` and of the first user that is made.
const IDS: [u32; 3] = [0, 33, 1000];

/// A container and its map: first id inside, on the host, count.
struct Guest {
    id: u32,
    map: &'static [(u32, u32, u32)],
    conf: &'static [&'static str],
}

const GUESTS: [Guest; 3] = [
    Guest { id: 900, map: &[(0, 100_000, 65_536)], conf: &[UNPRIVILEGED] },
    Guest { id: 901, map: &[(0, 200_000, 65_536)], conf: &SHIFTED },
    Guest {
        id: 902,
        map: &[(0, 100_000, 1000), (1000, 1000, 1), (1001, 101_001, 64_535)],
        conf: &[
            UNPRIVILEGED,
            "lxc.idmap: u 0 100000 1000",
            "lxc.idmap: u 1000 1000 1",
            "lxc.idmap: u 1001 101001 64535",
            "lxc.idmap: g 0 100000 1000",
            "lxc.idmap: g 1000 1000 1",
            "lxc.idmap: g 1001 101001 64535",
        ],
    },
];

/// What the node may hand on, for the whole of the three.
const SUB_IDS: &str = "root:100000:65536\nroot:200000:65536\nroot:1000:1\n";

#[test]
fn real_containers_with_different_maps_work_on_each_others_files() {
    for tool in ["lxc-start", "lxc-attach", "newuidmap", "busybox", "mkfs.xfs", "mkfs.btrfs"] {
        if Command::new("which").arg(tool).output().is_ok_and(|found| !found.status.success()) {
            return skip("real containers on one volume", &format!("{tool} is not installed"));
        }
    }
    for kind in ["ext4", "tmpfs", "xfs", "btrfs"] {
        for space in ["0 100000 65536", "0 5000 65536", "passthrough"] {
            let Some(world) = world() else { return };
            let Some(disk) = Disk::mount(&world, kind) else { return };
            share(&world, &disk, space);
        }
    }
}

/// A file system of this kind at the place of the volume.
struct Disk {
    at: PathBuf,
    what: String,
}

impl Disk {
    fn mount(world: &World, kind: &str) -> Option<Self> {
        let (at, image) = (world.host("/tank/media"), world.host("/tank/image"));
        let at_text = at.to_str().unwrap();
        let mounted = if kind == "tmpfs" {
            run(&["mount", "-t", "tmpfs", "tmpfs", at_text])
        } else {
            fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
            let image = image.to_str().unwrap();
            let force = if kind == "ext4" { "-F" } else { "-f" };
            let made = run(&[&format!("mkfs.{kind}"), "-q", force, image]);
            assert!(made.status.success(), "{made:?}");
            run(&["mount", "-o", "loop", image, at_text])
        };
        if !mounted.status.success() {
            skip(&format!("real containers on {kind}"), &text(&mounted.stderr));
            return None;
        }
        Some(Self { at, what: kind.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn share(world: &World, disk: &Disk, space: &str) {
    // Everybody inside may make files, so that it is ids which decide.
    chmod(&disk.at, 0o777.into()).unwrap();
    let first =
        if space == "passthrough" { 0 } else { space.split(' ').nth(1).unwrap().parse().unwrap() };
    own(&disk.at, first, first);
    world.container(902, GUESTS[2].conf);
    let mounts: Vec<String> =
        GUESTS.iter().map(|guest| format!(r#""{}": "/media""#, guest.id)).collect();
    world.volumes(
        "",
        &format!(
            r#""media": {{"host_path": "/tank/media", "owner": "container_root",
                "disk_ids": "{space}", "mounts": {{{}}}}}"#,
            mounts.join(",")
        ),
    );
    let (_, plan) = world.plan();
    let running: Vec<Running> =
        GUESTS.iter().map(|guest| Running::start(world, disk, guest, &plan)).collect();
    let at = format!("{space} on {}", disk.what);
    for maker in &running {
        for id in IDS {
            let file = format!("{}.{id}", maker.id);
            maker.ok(id, &format!("umask 077; echo {} > {file}", maker.id));
            let stat = fs::metadata(disk.at.join(&file)).unwrap();
            // On disk it is where the plan said in words that it would be.
            assert_eq!((stat.uid(), stat.gid()), maker.told(id), "{file}, {at}");
            for other in &running {
                let seen = other.ok(id, &format!("stat -c '%u:%g %a' {file}; cat {file}"));
                assert_eq!(seen.lines().next(), Some(format!("{id}:{id} 600").as_str()), "{at}");
                assert_eq!(seen.lines().nth(1), Some(maker.id.to_string().as_str()), "{at}");
                other.ok(id, &format!("echo {} >> {file} && chmod 600 {file}", other.id));
            }
        }
    }
    // Each deletes what its neighbour made, as that user and as root.
    for (maker, other) in running.iter().zip(running.iter().cycle().skip(1)) {
        for id in IDS {
            let by = if id == 33 { 33 } else { 0 };
            other.ok(by, &format!("rm {}.{id}", maker.id));
        }
    }
    assert_eq!(
        fs::read_dir(&disk.at)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name() != "lost+found")
            .count(),
        0,
        "{at}"
    );
    // Whose file somebody outside of the space left there is nobody's, for all of them.
    let outside = disk.at.join("outside");
    fs::write(&outside, "").unwrap();
    own(&outside, 999_999, 999_999);
    for guest in &running {
        assert_eq!(guest.ok(0, "stat -c %u:%g outside").trim(), "65534:65534", "{at}");
    }
}

/// A container that runs, with the volume mounted at /mnt/vol.
struct Running {
    id: u32,
    dir: PathBuf,
    view: PathBuf,
    words: String,
}

impl Running {
    fn start(world: &World, disk: &Disk, guest: &Guest, plan: &Value) -> Self {
        let step = &plan["containers"][guest.id.to_string()]["steps"][0];
        let value = step["value"].as_str().unwrap_or_else(|| panic!("{plan:#}"));
        let words = step["ids"].as_str().unwrap().to_owned();
        let dir = world.host(&format!("/lxc/{}", guest.id));
        let view = dir.join("view");
        fs::create_dir_all(&view).unwrap();
        attach(&disk.at, &view, guest, value);
        let root = root_fs(&dir, guest.map[0].1);
        let of = |kind: &str| {
            guest.map.iter().fold(String::new(), |all, (inside, host, count)| {
                all + &format!("lxc.idmap = {kind} {inside} {host} {count}\n")
            })
        };
        let maps = of("u") + &of("g");
        let config = format!(
            "lxc.uts.name = c\nlxc.rootfs.path = dir:{}\n{maps}lxc.net.0.type = empty\n\
             lxc.mount.auto = proc:mixed\n\
             lxc.mount.entry = {} mnt/vol none bind,create=dir 0 0\n\
             lxc.init.cmd = /bin/sleep 600\n",
            root.display(),
            view.display()
        );
        fs::write(dir.join("config"), config).unwrap();
        let sub_ids = dir.join("subids");
        fs::write(&sub_ids, SUB_IDS).unwrap();
        let this = Self { id: guest.id, dir, view, words };
        // The machine's files may lack a range: it is there in a mount namespace of its own.
        let script = format!(
            "mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && \
             exec lxc-start -n {1} -P {2} -f {3}/config -l DEBUG -o {3}/log",
            sub_ids.display(),
            this.name(),
            world.host("/lxc").display(),
            this.dir.display(),
        );
        let started = run(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script]);
        let log = || fs::read_to_string(this.dir.join("log")).unwrap_or_default();
        assert!(started.status.success(), "{started:?}\n{}", log());
        this
    }

    /// Two tests at once have containers of the same number.
    fn name(&self) -> String {
        format!("{}-{}", std::process::id(), self.id)
    }

    fn lxc(&self, program: &str, arguments: &[&str]) -> Output {
        let (name, path) = (self.name(), self.dir.parent().unwrap().to_str().unwrap().to_owned());
        let mut all = vec![program, "-n", &name, "-P", &path];
        all.extend(arguments);
        run(&all)
    }

    /// Runs a script in the volume, as a user inside.
    fn ok(&self, uid: u32, script: &str) -> String {
        let (uid, script) = (uid.to_string(), format!("cd /mnt/vol && {{ {script}; }}"));
        let ran =
            self.lxc("lxc-attach", &["-u", &uid, "-g", &uid, "--", "/bin/sh", "-ec", &script]);
        assert!(ran.status.success(), "{} as {uid}: {script}\n{ran:?}", self.id);
        text(&ran.stdout)
    }

    /// Returns the ids on disk that the plan names for an id inside.
    fn told(&self, id: u32) -> (u32, u32) {
        if self.words == "every id inside is the same on disk" {
            return (id, id);
        }
        let inside = if id == 0 { "root inside is ".to_owned() } else { format!("{id} is ") };
        let named = self.words.split(", ").find_map(|part| part.strip_prefix(&inside)).unwrap();
        let ids = named.split(' ').next().unwrap().split_once(':').unwrap();
        (ids.0.parse().unwrap(), ids.1.parse().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _stopped = self.lxc("lxc-stop", &["-k"]);
        let _gone = unmount(&self.view, UnmountFlags::DETACH);
    }
}

/// Makes the mount as Proxmox does (`PVE::LXC::__mountpoint_mount`) and puts it at `view`.
fn attach(source: &Path, view: &Path, guest: &Guest, value: &str) {
    let mount = detached_clone(fs::File::open(source).unwrap()).unwrap();
    let option = MountPoint::parse(value.as_bytes()).unwrap().options.remove("idmap");
    if let Some(option) = option {
        let namespace = user_namespace(&lines(guest, &option, "u"), &lines(guest, &option, "g"));
        map_ids(&mount, namespace.unwrap()).unwrap();
    }
    move_mount(&mount, "", CWD, view, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
}

/// Returns the map from disk to host that an option stands for, made id by id from the rule: what is
/// named is where it says, everything else where the container has it.
fn lines(guest: &Guest, option: &str, kind: &str) -> String {
    let named: Vec<[u32; 3]> = option
        .split(';')
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(':'))
        .map(|line| line.split(':').map(|n| n.parse().unwrap()).collect::<Vec<u32>>())
        .map(|numbers| numbers.try_into().unwrap())
        .collect();
    let on_disk = |id: u32, host: u32| {
        let line = named.iter().find(|[first, _, count]| (*first..first + count).contains(&id));
        match line {
            _ if option == "passthrough" => id,
            Some([first, disk, _]) => disk + (id - first),
            None => host,
        }
    };
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for (inside, host, count) in guest.map {
        for at in 0..*count {
            let (disk, host) = (on_disk(inside + at, host + at), host + at);
            match runs.last_mut() {
                Some((d, h, n)) if *d + *n == disk && *h + *n == host => *n += 1,
                _ => runs.push((disk, host, 1)),
            }
        }
    }
    runs.iter().fold(String::new(), |all, (disk, host, n)| all + &format!("{disk} {host} {n}\n"))
}

/// Makes the smallest root file system that starts, for a root with this id.
fn root_fs(dir: &Path, root: u32) -> PathBuf {
    let at = dir.join("root");
    for name in ["bin", "proc", "sys", "dev", "mnt", "etc", "tmp"] {
        fs::create_dir_all(at.join(name)).unwrap();
        own(&at.join(name), root, root);
    }
    own(&at, root, root);
    fs::copy("/usr/bin/busybox", at.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "stat", "cat", "chmod", "rm"] {
        symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    at
}

fn run(arguments: &[&str]) -> Output {
    Command::new(arguments[0]).args(&arguments[1..]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
