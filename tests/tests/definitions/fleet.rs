//! Thirty containers of the author's shape, made while whatever works on them is killed at random.

use super::*;

/// How many seeds the ordinary test run takes; `PCTD_SEEDS` asks for others.
const SEEDS: u64 = 6;

/// One container of the fleet, as it is to come out.
struct Member {
    id: u32,
    from: Option<u32>,
    /// The snapshot of it that its clones are made from.
    snapshot: Option<&'static str>,
}

/// Thirty containers of the author's shape: templates, clones of them, clones of clones, some of
/// them from snapshots that somebody takes once a container is there.
fn fleet() -> Vec<Member> {
    let member = |id, from, snapshot| Member { id, from, snapshot };
    let mut fleet = vec![
        member(900, None, Some("base-snapshot")),
        member(901, Some(900), Some("docker-snapshot")),
        member(902, Some(900), None),
        member(903, None, None),
    ];
    for (id, from) in (910..920).zip([903, 900, 901, 902].into_iter().cycle()) {
        fleet.push(member(id, Some(from), None));
    }
    // 910 and 911 are clones themselves.
    for (id, from) in (920..936).zip([901, 910, 911, 903, 902].into_iter().cycle()) {
        fleet.push(member(id, Some(from), None));
    }
    assert_eq!(fleet.len(), 30);
    fleet
}

/// Every third of the last ones mounts a directory; nothing is cloned from those.
fn mounts(id: u32) -> bool {
    id >= 920 && id.is_multiple_of(3)
}

fn fleet_config(fleet: &[Member]) -> String {
    let definition = |member: &Member| {
        let id = member.id;
        let source = match member.from {
            Some(from) => format!(r#""clone_from_ctid": "{from}""#),
            None => {
                format!(r#""template": "{TEMPLATE}", "storage_pool": "bt", "storage_size_gb": 1"#)
            }
        };
        let snapshot = member
            .snapshot
            .map_or_else(String::new, |name| format!(r#""template_snapshot_name": "{name}","#));
        format!(
            r#""{id}": {{"name": "ct{id}", "memory_mb": {}, "swap_mb": {}, "cores": 2, "unprivileged": true,
            "start_at_boot": {}, "boot_order": {}, {snapshot} {}, {source}}}"#,
            512 + id,
            id % 2 * 256,
            id.is_multiple_of(2),
            id % 7,
            network(id - 890),
        )
    };
    let definitions: Vec<String> = fleet.iter().map(definition).collect();
    let targets = fleet.iter().filter(|member| mounts(member.id));
    let targets: Vec<String> = targets.map(|m| format!(r#""{}": "/data""#, m.id)).collect();
    format!(
        r#"{{"settings": {{{HURRIED}}}, "lxc_configs": {{{}}}, "shared_volumes": {{"data": {{
        "host_path": "/tank/data", "owner": "container:33", "mounts": {{{}}}}}}}}}"#,
        definitions.join(","),
        targets.join(",")
    )
}

/// Expects a container to be exactly what its definition says.
fn is_as_defined(world: &World, member: &Member, context: &str) {
    let id = member.id;
    let conf = world.conf(id);
    let own = |name| property(world, id, name).unwrap_or_default();
    let context = format!("{context}, {id}:\n{conf}");
    assert_eq!(own("hostname"), format!("ct{id}"), "{context}");
    assert_eq!(own("memory"), (512 + id).to_string(), "{context}");
    assert_eq!(own("swap"), (id % 2 * 256).to_string(), "{context}");
    assert_eq!(own("onboot") == "1", id.is_multiple_of(2), "{context}");
    assert_eq!(own("startup"), format!("order={}", id % 7), "{context}");
    assert_eq!((own("unprivileged"), own("lock")), ("1".to_owned(), String::new()), "{context}");
    let net = net0(world, id);
    assert!(net.contains(&format!("ip=10.0.0.{}/24", id - 890)), "{context}");
    assert!(own("rootfs").starts_with(&format!("bt:{id}/vm-{id}-disk-")), "{context}");
    let mounted: Vec<&str> = conf.lines().filter(|line| line.starts_with("mp")).collect();
    let expected: &[&str] = if mounts(id) { &["mp0: /tank/data,mp=/data"] } else { &[] };
    assert_eq!(mounted, expected, "{context}");
}

/// Says what is wrong with a clone that anybody could start now: one that has an address which is
/// not its own, and that nobody knows to be unfinished.
fn foreign_address(world: &World, id: u32) -> Option<String> {
    let conf = world.conf(id);
    let own = format!("ip=10.0.0.{}/24", id - 890);
    if conf.is_empty() || conf.contains("lock: ") || net0(world, id).contains(&own) {
        return None;
    }
    let ledger =
        std::fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap_or_default();
    let ledger: Value = serde_json::from_str(&ledger).unwrap_or_default();
    let is_marked = !ledger["making"][id.to_string()].is_null();
    (!is_marked && world.conf(id) == conf)
        .then(|| format!("{id} is nobody's to finish:\n{conf}\n{ledger:#}"))
}

/// Returns whether a `pct` with such arguments is at work.
fn is_at_work(world: &World, is_it: impl Fn(&[String]) -> bool) -> bool {
    world.node.pct_calls().unwrap().iter().any(|call| {
        call.ended.is_none()
            && std::path::Path::new(&format!("/proc/{}", call.pid)).exists()
            && is_it(&call.argv)
    })
}

/// Returns whether a container is still what a killed `pct` left: a report may be older than its
/// clean-up, and one that was made again since is nobody's to destroy.
fn is_cut_off(world: &World, id: u32) -> bool {
    let conf = world.conf(id);
    let is_whole = conf.contains("swap: ") && !conf.contains("lock: ");
    let id = id.to_string();
    let makes_it = |argv: &[String]| match argv[0].as_str() {
        "create" => argv[1] == id,
        "clone" => argv[2] == id,
        _ => false,
    };
    !conf.is_empty() && !is_whole && !is_at_work(world, makes_it)
}

/// What the admin and the other tools of the author do: take snapshots of what is finished, and
/// clean up what is reported as cut off.
fn attend(world: &World, fleet: &[Member], status: &Value) {
    for member in fleet {
        let id = member.id.to_string();
        let state = &status["containers"][&id];
        if let Some(name) = member.snapshot
            && state["state"] == "Converged"
            && !world.conf(member.id).contains(&format!("[{name}]"))
        {
            // Somebody else's task may be at work with it; then it is for the next time.
            let _busy = world.node.pct(["snapshot", &id, name]);
        }
        if holds(status, "containers", &id).contains(&"CreateInterrupted".to_owned())
            && is_cut_off(world, member.id)
        {
            let _not_locked = world.node.pct(["unlock", &id]);
            let _destroyed = world.node.pct(["destroy", &id]);
        }
        let message = state["holds"][0]["message"].as_str().unwrap_or_default();
        if let (Some(from), true) = (member.from, message.contains("it is locked (disk)"))
            && !is_at_work(world, |argv| argv[0] == "clone" && argv[1] == from.to_string())
        {
            let _unlocked = world.node.pct(["unlock", &from.to_string()]);
        }
    }
}

/// Lets the fleet come about while pctd and pct are killed, and returns how many kills there were.
fn converge_under_fire(seed: u64) -> Option<(u32, u32)> {
    let timings = Timings {
        create_unpack_ms: 15,
        create_setup_ms: 15,
        clone_copy_ms: 10,
        ..Timings::default()
    };
    let world = World::with_timings(PROGRAM, timings)?;
    let fleet = fleet();
    world.config(&fleet_config(&fleet));
    let mut random = fastrand::Rng::with_seed(seed);
    let context = format!("seed {seed} (PCTD_SEED={seed} runs it alone)");
    let (mut of_pctd, mut of_pct) = (0, 0);
    let mut daemon = world.pctd.spawn(&[]);
    let begun = Instant::now();
    let kills = 6 + random.u64(..6);
    let mut made = 0;
    let mut next_kill = begun + Duration::from_millis(random.u64(..150));
    loop {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "{context}:\n{:#}\n{}",
            daemon.status(),
            daemon.log()
        );
        for member in &fleet {
            if let Some(wrong) = foreign_address(&world, member.id) {
                panic!("{context}: {wrong}\n{}", daemon.log());
            }
        }
        if made < kills && Instant::now() >= next_kill {
            made += 1;
            next_kill = Instant::now() + Duration::from_millis(20 + random.u64(..250));
            let calls = world.node.pct_calls().unwrap();
            let open: Vec<_> = calls.iter().filter(|call| call.ended.is_none()).collect();
            if !open.is_empty() && random.u64(..2) == 0 {
                let among = u64::try_from(open.len()).unwrap();
                let call = open[usize::try_from(random.u64(..among)).unwrap()];
                let signal = if random.u64(..4) == 0 { Signal::TERM } else { Signal::KILL };
                world.signal_pct(call.pid, signal);
                of_pct += 1;
            } else {
                kill(daemon);
                daemon = world.pctd.spawn(&[]);
                of_pctd += 1;
            }
        }
        let ran = world.pctd.run(&["status", "--output-format", "json"]);
        // Not there yet, or not any more.
        let Ok(status) = serde_json::from_str::<Value>(&ran.stdout) else { continue };
        attend(&world, &fleet, &status);
        let all =
            fleet.iter().all(|m| status["containers"][m.id.to_string()]["state"] == "Converged");
        if all && made == kills && status["volumes"]["data"]["state"] == "Converged" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.stop();
    let mut addresses = std::collections::BTreeSet::new();
    for member in &fleet {
        is_as_defined(&world, member, &context);
        let net = net0(&world, member.id);
        let hwaddr = net.iter().find(|option| option.starts_with("hwaddr=")).cloned();
        assert!(addresses.insert(hwaddr), "{context}: two with one hardware address");
    }
    assert_eq!(world.owner("/tank/data"), "100033:100033 0755", "{context}");
    assert_eq!(world.plan().0, 0, "{context}");
    Some((of_pctd, of_pct))
}

#[test]
fn thirty_containers_of_the_authors_shape_come_about_whatever_is_killed_on_the_way() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PCTD_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PCTD_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    let killed = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(seed) = seeds.get(at) else { return };
                    let begun = Instant::now();
                    match std::panic::catch_unwind(|| converge_under_fire(*seed)) {
                        Ok(kills) => {
                            eprintln!("seed {seed}: {kills:?} in {:?}", begun.elapsed());
                            let (of_pctd, of_pct) = kills.unwrap_or_default();
                            killed.fetch_add(
                                u64::from(of_pctd + of_pct),
                                std::sync::atomic::Ordering::Relaxed,
                            );
                        }
                        Err(_) => failed.lock().unwrap().push(*seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    counted(&[
        (seeds.len().try_into().unwrap(), "random sequences"),
        (killed.into_inner(), "faults injected"),
        (failed.len().try_into().unwrap(), "sequences in which something was lost or wrong"),
    ]);
    assert_eq!(failed, Vec::<u64>::new(), "these seeds failed");
}
