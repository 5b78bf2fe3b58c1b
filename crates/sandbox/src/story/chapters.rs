//! What happens, in order, and what has to hold each time.

use std::fs;
use std::time::{Duration, Instant};

use super::scene::{Daemon, Scene, ctid, until};
use super::stage::{Broken, Stage, expect};

type Told = Result<(), Broken>;

/// How soon an edit has to have converged ("well under a second").
const SOON: Duration = Duration::from_secs(2);

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

pub(super) fn the_node_as_it_is(scene: &Scene, stage: &Stage) -> Told {
    stage.chapter("1  The node as it is");
    for id in [910, 950, 951, 953] {
        let running = if scene.node.is_running(ctid(id)?) { "running" } else { "stopped" };
        let mounts = scene.conf(id)?.lines().filter(|line| line.starts_with("mp")).count();
        stage.row(
            &format!("container {id}"),
            &format!("unprivileged, {running}, bind mounts: {mounts}"),
        );
    }
    for path in ["ssl/phoenix.local.key", "nginx/sites/default.conf", "portainer/portainer.db"] {
        let path = format!("/tank/shared/{path}");
        stage.row(path.trim_start_matches("/tank/shared/"), &scene.owner(&path)?);
    }
    stage.say("  Host ids that no container maps: inside, all of it is nobody:nogroup.");
    Ok(())
}

pub(super) fn the_plan(scene: &Scene, stage: &Stage) -> Told {
    stage.chapter("2  pctd plan: what would be done, and nothing is");
    let before = snapshot(scene)?;
    let (code, text) = scene.pctd(&["plan"])?;
    stage.quote(text.trim_end());
    expect(code == Some(3), || format!("plan exits with 3 where something differs, not {code:?}"))?;
    expect(scene.calls()? == 0, || "plan calls no pct".into())?;
    expect(snapshot(scene)? == before, || "plan writes nothing".into())?;
    stage.holds("exit code 3 (something differs), no pct call, nothing written");
    Ok(())
}

pub(super) fn the_daemon_converges(scene: &Scene, stage: &Stage) -> Result<Daemon, Broken> {
    stage.chapter("3  The daemon starts");
    let begun = Instant::now();
    let daemon = scene.start()?;
    until("the node converges", || {
        show(stage, &daemon, begun);
        let (code, status) = scene.pctd(&["status", "--output-format", "json"])?;
        let busy = status.contains("\"state\":\"Progressing\"")
            || status.contains("\"state\":\"Unknown\"");
        Ok(code.is_some_and(|code| code != 1) && !busy)
    })?;
    let took = begun.elapsed();
    show(stage, &daemon, begun);
    let key = scene.owner("/tank/shared/ssl/phoenix.local.key")?;
    expect(key == "100000:100000 0640", || format!("the key is container root's alone: {key}"))?;
    let service = scene.owner("/tank/shared/portainer/tls/key.pem")?;
    expect(service == "101000:101000 0600", || format!("a service's own file is left: {service}"))?;
    let nginx = scene.conf(953)?;
    expect(nginx.contains("mp0: /tank/shared/nginx/sites,mp=/etc/nginx/sites-enabled"), || {
        nginx.clone()
    })?;
    expect(scene.conf(950)?.contains("mp2: /srv/cache,mp=/models2"), || {
        "foreign mounts stay".into()
    })?;
    stage.holds(&format!("converged in {}, with {} pct calls", seconds(took), scene.calls()?));
    stage.row("ssl/phoenix.local.key", &format!("{key}: root:root, 0640 inside"));
    stage.row("portainer/tls/key.pem", &format!("{service}: what a service owns is its own"));
    Ok(daemon)
}

pub(super) fn a_container_appears_late(scene: &Scene, stage: &Stage, daemon: &Daemon) -> Told {
    stage.chapter("4  Container 960 is created, and its id map appears late");
    let begun = Instant::now();
    let pct = scene.host("/usr/sbin/pct");
    let arguments =
        ["create", "960", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:0.1", "--arch", "amd64"];
    let mut create = std::process::Command::new(pct)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let data = "/tank/shared/late";
    let mut seen: Vec<(String, Duration)> = Vec::new();
    let mut created = None;
    until("the volume of 960 is owned", || {
        show(stage, daemon, begun);
        if created.is_none() && create.try_wait()?.is_some() {
            created = Some(begun.elapsed());
        }
        let owner = scene.owner(data).unwrap_or_else(|_| "not there".into());
        if seen.last().map(|(last, _)| last) != Some(&owner) {
            seen.push((owner.clone(), begun.elapsed()));
        }
        Ok(owner.starts_with("100000:100000") && created.is_some())
    })?;
    until("960 has its mount", || {
        Ok(scene.conf(960)?.contains("mp0: /tank/shared/late,mp=/data"))
    })?;
    show_until_converged(stage, daemon, begun, 960)?;
    let created = created.unwrap_or_default();
    let owned = seen.last().map_or(Duration::ZERO, |(_, at)| *at);
    let wrong = seen.iter().find(|(owner, _)| {
        !owner.starts_with("100000:") && !owner.starts_with("0:0 ") && owner != "not there"
    });
    expect(wrong.is_none(), || format!("no wrong owner in between: {wrong:?}"))?;
    let after = owned.saturating_sub(created);
    expect(after < SOON, || format!("owned {} after the create ended", seconds(after)))?;
    stage.holds(&format!(
        "created after {}, owned {} ms later; never a wrong owner in between",
        seconds(created),
        after.as_millis()
    ));
    Ok(())
}

pub(super) fn an_edit(scene: &Scene, stage: &Stage, daemon: &Daemon) -> Told {
    stage.chapter("5  An edit of the JSON: the models go to 953, too");
    daemon.log();
    let begun = Instant::now();
    scene.edit(|text| {
        text.replace(
            "\"951\": { \"path\": \"/models\",",
            "\"953\": { \"path\": \"/models\", \"read_only\": true },\n                \"951\": { \"path\": \"/models\",",
        )
    })?;
    let took = until("953 mounts the models", || Ok(scene.conf(953)?.contains("mp=/models,ro=1")))?;
    show_until_converged(stage, daemon, begun, 953)?;
    let inside = scene.node.mounts(ctid(953)?);
    expect(inside.iter().any(|mount| mount.target == "/models"), || "it is plugged in".into())?;
    expect(took < SOON, || {
        format!("an edit converges in well under a second, not {}", seconds(took))
    })?;
    stage
        .holds(&format!("converged {} after the file was saved, without a restart", seconds(took)));
    Ok(())
}

pub(super) fn drift(scene: &Scene, stage: &Stage, daemon: &Daemon) -> Told {
    stage.chapter("6  Drift: somebody deletes a mount, somebody chowns a key");
    daemon.log();
    let begun = Instant::now();
    let key = conf_key(scene, 950, "mp=/models,")?;
    let deleted = scene.node.pct(["set", "950", "--delete", &key])?;
    expect(deleted.is_success(), || deleted.stderr_text())?;
    stage.row("pct set 950", &format!("--delete {key}"));
    let took = until("950 has its mount back", || {
        Ok(scene.conf(950)?.contains("/tank/shared/models,mp=/models,"))
    })?;
    show_until_converged(stage, daemon, begun, 950)?;
    stage.holds(&format!("the mount is back after {}", seconds(took)));
    let file = scene.host("/tank/shared/ssl/ca/root.pem");
    let open = fs::File::open(&file)?;
    stage.row("chown root:root", "/tank/shared/ssl/ca/root.pem");
    let begun_wrong = Instant::now();
    rustix::fs::fchown(&open, Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT))?;
    let right = || -> Result<bool, Broken> {
        Ok(scene.owner("/tank/shared/ssl/ca/root.pem")?.starts_with("100000:100000"))
    };
    while !right()? && begun_wrong.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_micros(20));
    }
    if right()? {
        let took = begun_wrong.elapsed().as_secs_f64() * 1000.0;
        show(stage, daemon, begun);
        stage.holds(&format!("put right as it happened: seen {took:.1} ms later, without a walk"));
    } else {
        let (code, text) = scene.pctd(&["apply", "ssl_certs"])?;
        stage.quote(text.trim_end());
        expect(code == Some(0) && right()?, || "apply puts it right".into())?;
        show(stage, daemon, begun);
        stage.holds("put right by `apply`: this file system tells of no changes as they happen");
    }
    Ok(())
}

pub(super) fn a_bad_edit(scene: &Scene, stage: &Stage, daemon: &Daemon) -> Told {
    stage.chapter("7  A bad edit is refused, and the last good configuration stays");
    daemon.log();
    let good = fs::read_to_string(scene.host("/etc/pctd/config.json"))?;
    scene.edit(|text| {
        text.replace("\"dir_mode\": \"0755\"", "\"dir_mod\": \"0755\"")
            .replace("\"root:adm\"", "\"root:adm:x\"")
    })?;
    let mut lines = Vec::new();
    until("the daemon refuses it", || {
        lines.extend(daemon.log());
        Ok(lines.iter().any(|line| line.contains("dir_mod")))
    })?;
    std::thread::sleep(Duration::from_millis(50));
    lines.extend(daemon.log());
    stage.quote(&lines.join("\n").replace(&format!("{}/", scene.node.root().display()), "/"));
    let (_, status) = scene.pctd(&["status", "--output-format", "json"])?;
    expect(status.contains("\"valid\":false"), || "the status says so".into())?;
    scene.edit(|_| good)?;
    until("the good one is accepted", || {
        let (_, status) = scene.pctd(&["status", "--output-format", "json"])?;
        Ok(status.contains("\"valid\":true"))
    })?;
    stage.holds("put right again: accepted");
    Ok(())
}

pub(super) fn the_end(scene: &Scene, stage: &Stage, daemon: Daemon) -> Told {
    stage.chapter("8  The end: everything in place, and a second apply does nothing");
    daemon.log();
    let calls = scene.calls()?;
    let before = snapshot(scene)?;
    let (code, text) = scene.pctd(&["apply"])?;
    stage.quote(text.trim_end());
    expect(code == Some(0), || format!("a converged node is in sync, not {code:?}"))?;
    expect(scene.calls()? == calls, || "a second apply calls no pct".into())?;
    expect(snapshot(scene)? == before, || "a second apply changes no ctime".into())?;
    expect(daemon.log().is_empty(), || "a converged node logs nothing".into())?;
    let (code, text) = scene.pctd(&["status"])?;
    stage
        .quote(text.trim_end().replace(&format!("{}/", scene.node.root().display()), "/").as_str());
    expect(code == Some(0), || {
        format!("status exits with 0 where all is converged, not {code:?}")
    })?;
    stage.holds("no pct call, no ctime changed, nothing logged");
    let code = daemon.stop()?;
    expect(code == Some(0), || format!("SIGTERM ends it cleanly, not with {code:?}"))?;
    for running in scene.node.running() {
        scene.node.stop_ct(running)?;
    }
    Ok(())
}

/// Prints what the daemon logged, with the time since `begun`.
fn show(stage: &Stage, daemon: &Daemon, begun: Instant) {
    say(stage, &daemon.log(), begun);
}

fn say(stage: &Stage, lines: &[String], begun: Instant) {
    for line in lines {
        stage.say(&format!("  {:>6.2} s  {line}", begun.elapsed().as_secs_f64()));
    }
}

/// Prints the log until it says that a container has converged, which ends what was done.
fn show_until_converged(stage: &Stage, daemon: &Daemon, begun: Instant, id: u32) -> Told {
    let end = format!("{id}: converged");
    until(&format!("the log says \"{end}\""), || {
        let lines = daemon.log();
        say(stage, &lines, begun);
        Ok(lines.contains(&end))
    })?;
    Ok(())
}

fn conf_key(scene: &Scene, id: u32, with: &str) -> Result<String, Broken> {
    let conf = scene.conf(id)?;
    let line = conf.lines().find(|line| line.starts_with("mp") && line.contains(with));
    let key = line.and_then(|line| line.split(':').next());
    key.map(str::to_owned).ok_or_else(|| Broken(format!("{id} has no mount with {with}:\n{conf}")))
}

/// Returns every path below the volumes, the confs and the ledger with its ctime: what a command
/// that writes nothing must not change.
fn snapshot(scene: &Scene) -> Result<Vec<(String, i64, i64)>, Broken> {
    use std::os::unix::fs::MetadataExt as _;
    let mut open = ["/tank", "/etc/pve/nodes", "/var/lib/pctd/ledger.json"]
        .map(|path| scene.host(path))
        .to_vec();
    let mut all = Vec::new();
    while let Some(path) = open.pop() {
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        all.push((path.display().to_string(), stat.ctime(), stat.ctime_nsec()));
        if stat.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    all.sort();
    Ok(all)
}
