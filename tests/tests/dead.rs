//! Host paths that never answer, as on a dead NFS server: they hold up themselves and nothing else.
//!
//! A FUSE file system whose program never reads a request keeps everybody who asks it anything
//! waiting in the kernel, which is what a server that is down does.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pctd_tests::daemon::eventually;
use pctd_tests::world::{HURRIED, UNPRIVILEGED, World, ctid, holds};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A file system that never answers; it ends when this is dropped.
struct Dead {
    path: PathBuf,
    program: Option<File>,
}

impl Dead {
    /// Mounts one, where this machine lets us.
    fn mount(world: &World, path: &str) -> Option<Self> {
        let path = world.host(path);
        fs::create_dir_all(&path).unwrap();
        let mounted =
            File::options().read(true).write(true).open("/dev/fuse").and_then(|program| {
                let fd = program.as_raw_fd();
                let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
                let data = std::ffi::CString::new(data)?;
                mount("dead", &path, "fuse", MountFlags::empty(), data.as_c_str())?;
                Ok(program)
            });
        match mounted {
            Ok(program) => Some(Self { path, program: Some(program) }),
            Err(error) => {
                assert!(
                    std::env::var_os("PCTD_REQUIRE_REAL").is_none(),
                    "no FUSE on this machine: {error}"
                );
                eprintln!("skipped: no FUSE on this machine: {error}");
                None
            }
        }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Everybody who waits gets an error; only then can it be unmounted.
        drop(self.program.take());
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

fn volume(name: &str, ctid: u32) -> String {
    format!(
        r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
            "mounts": {{"{ctid}": "/{name}"}}}}"#
    )
}

#[test]
fn a_path_that_never_answers_holds_up_no_other_volume_and_no_end() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.container(101, &[UNPRIVILEGED]);
    world.dir("/tank/fine", 0, 0o755);
    let Some(dead) = Dead::mount(&world, "/tank/dead") else { return };
    world.volumes("", &[volume("dead", 100), volume("fine", 101)].join(","));
    // Starting waits for READY.
    let begun = Instant::now();
    let daemon = world.pctd.start();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    daemon.until("the other volume is served", |status| {
        status["volumes"]["fine"]["state"] == "Converged"
            && status["containers"]["101"]["state"] == "Converged"
            && holds(status, "volumes", "dead") == ["SourceUnreadable"]
            && holds(status, "containers", "100") == ["VolumeHeld"]
    });
    assert_eq!(world.owner("/tank/fine"), "100000:100000 0755");
    let message = || daemon.status()["volumes"]["dead"]["holds"][0]["message"].to_string();
    let first = message();
    assert!(first.contains("has not answered since"), "{first}");
    // It is looked at ten times a second, and still only one thread waits.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(message(), first);
    let waiting = |pid: u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        tasks.filter_map(|task| name(task.unwrap())).filter(|n| n.trim() == "host path").count()
    };
    assert_eq!(waiting(daemon.pid()), 1);
    // An edit of another container is served at once.
    world.node.write_conf(ctid(101), pctd_tests::world::conf(101, &[UNPRIVILEGED])).unwrap();
    daemon.until("the mount is back", |_| world.conf(101).contains("/tank/fine"));
    // A plan says so, too, and ends.
    let (code, plan) = world.plan();
    assert_eq!(
        (code, &plan["volumes"]["dead"]["holds"][0]["reason"]),
        (3, &"SourceUnreadable".into())
    );
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // The server is back while a daemon waits for it.
    let daemon = world.pctd.start();
    daemon.until("it waits", |status| holds(status, "volumes", "dead") == ["SourceUnreadable"]);
    drop(dead);
    daemon.until_all("Converged");
    assert_eq!(world.owner("/tank/dead"), "100000:100000 0755");
    eventually("nobody waits any more", || waiting(daemon.pid()) == 0);
    daemon.stop();
}

#[test]
fn a_mount_below_a_volume_that_never_answers_does_not_hold_up_its_walk() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/tank/a", 0, 0o755);
    world.file("/tank/a/file", 0, 0o644);
    let Some(_dead) = Dead::mount(&world, "/tank/a/below") else { return };
    world.volumes("", &volume("a", 100));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.owner("/tank/a/file"), "100000:100000 0644");
    assert_eq!(world.owner("/tank/a"), "100000:100000 0755");
    daemon.stop();
}

#[test]
fn a_template_that_never_answers_holds_up_only_what_is_made_from_it() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/tank/fine", 0, 0o755);
    let Some(dead) = Dead::mount(&world, "/mnt/pve/nas") else { return };
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}}}, "shared_volumes": {{{}}},
            "lxc_configs": {{"200": {{"template": "/mnt/pve/nas/tiny.tar.zst"}}}}}}"#,
        volume("fine", 100)
    ));
    let begun = Instant::now();
    let daemon = world.pctd.start();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    daemon.until("the other container is served", |status| {
        status["containers"]["100"]["state"] == "Converged"
            && holds(status, "containers", "200") == ["TemplateUnreadable"]
    });
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // The server is back while a daemon waits for it, and has no such file.
    let daemon = world.pctd.start();
    daemon.until("it waits", |status| holds(status, "containers", "200") == ["TemplateUnreadable"]);
    drop(dead);
    daemon.until("it was looked for", |status| {
        holds(status, "containers", "200") == ["TemplateMissing"]
    });
    daemon.stop();
}

#[test]
fn metrics_whose_directory_never_answers_hold_up_no_end() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let Some(_dead) = Dead::mount(&world, "/var/lib/node_exporter") else { return };
    world.volumes(r#""metrics_file": "/var/lib/node_exporter/pctd.prom""#, &volume("fine", 100));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    // A second for what is being written, for the last word, and for the threads that wait.
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_configuration_that_never_answers_holds_up_no_container_and_no_end() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/etc/pctd/conf.d", 0, 0o755);
    world.volumes("", &volume("fine", 100));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let Some(_dead) = Dead::mount(&world, "/etc/pctd/conf.d") else { return };
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("RELOADING=1");
    // What is in force is held to: an edit of a container is seen and put right.
    world.pct(&["set", "100", "--delete", "mp0"]);
    eventually("the mount is back", || world.conf(100).contains("mp0: /tank/fine"));
    // Asked again and again it still waits for the one answer, and then stops.
    for _ in 0..3 {
        daemon.signal(rustix::process::Signal::HUP);
    }
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_configuration_that_does_not_answer_from_the_start_holds_up_neither_guests_nor_the_end() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/tank/fine", 0, 0o755);
    world.volumes("", &volume("fine", 100));
    let Some(dead) = Dead::mount(&world, "/etc/pctd/conf.d") else { return };
    // Told while it waits for the first answer.
    let mut daemon = world.pctd.spawn(&[]);
    eventually("it has started", || daemon.log().contains("started"));
    let begun = Instant::now();
    daemon.signal(rustix::process::Signal::TERM);
    let status = daemon.wait();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Starting waits for READY, which guests wait for.
    let begun = Instant::now();
    let daemon = world.pctd.start();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let status = daemon.status();
    assert_eq!(status["config"]["valid"], false, "{status:#}");
    let error = status["config"]["error"].to_string();
    assert!(error.contains("conf.d") && error.contains("has not answered"), "{error}");
    assert_eq!((world.calls(), world.owner("/tank/fine")), (vec![], "0:0 0755".to_owned()));
    // It answers.
    drop(dead);
    daemon.until("it is in force", |status| {
        status["config"]["valid"] == true && status["containers"]["100"]["state"] == "Converged"
    });
    assert!(world.conf(100).contains("mp0: /tank/fine"));
    daemon.stop();
}
