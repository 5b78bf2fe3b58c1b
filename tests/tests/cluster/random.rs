//! Whatever happens to a cluster, in the end everything is in place, and nobody has acted on what was
//! not there.

use super::*;

/// How many seeds the ordinary test run takes; `PCTD_SEEDS` asks for others.
const SEEDS: u64 = 4;

/// How much happens to a cluster.
const EVENTS: u64 = 14;

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];
const IDS: std::ops::Range<u32> = 100..106;

/// What the containers mount: a directory of each node, one of two nodes only, one that all see.
fn config(read_only: bool) -> String {
    let mounts = |ids: &[u32], target: &str| {
        let each: Vec<String> = ids.iter().map(|id| format!(r#""{id}": {target}"#)).collect();
        each.join(",")
    };
    let all: Vec<u32> = IDS.collect();
    let some = [101, 103, 104];
    let data = format!(r#"{{"path": "/data", "read_only": {read_only}}}"#);
    format!(
        r#""data": {{"host_path": "/tank/data", "owner": "container_root", "mounts": {{{}}}}},
        "site": {{"host_path": "/tank/site", "owner": "container:33", "nodes": ["pve1", "pve2"], "mounts": {{{}}}}},
        "media": {{"host_path": "{STORAGE}/media", "owner": "container_root", "shared": true, "mounts": {{{}}}}}"#,
        mounts(&all, &data),
        mounts(&[100, 101, 102], r#""/site""#),
        mounts(&some, r#""/media""#),
    )
}

/// A node's daemon, and what can be wrong with the node.
struct State {
    daemons: Vec<Option<Daemon>>,
    is_up: [bool; 3],
    /// The node that is cut off.
    cut: Option<usize>,
    read_only: bool,
}

impl State {
    fn is_well(&self, node: usize) -> bool {
        self.is_up[node] && self.cut != Some(node)
    }

    /// Some node that is well.
    fn any_well(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let well: Vec<usize> = (0..NODES.len()).filter(|node| self.is_well(*node)).collect();
        (!well.is_empty()).then(|| well[random.usize(..well.len())])
    }
}

fn where_is(town: &Town, id: u32) -> Option<usize> {
    let place = town.cluster.place(ctid(id)).unwrap();
    NODES.iter().position(|node| place.as_deref() == Some(node))
}

fn disturb(town: &Town, state: &mut State, random: &mut fastrand::Rng) {
    let id = random.u32(IDS);
    let Some(well) = state.any_well(random) else { return };
    match random.u32(..10) {
        0..=2 => {
            let Some(from) = where_is(town, id) else { return };
            let to = random.usize(..NODES.len());
            if from != to && state.is_well(from) && state.is_well(to) {
                let copy = Duration::from_millis(random.u64(..60));
                town.cluster.migrate(ctid(id), NODES[to], copy).unwrap();
            }
        }
        3 => {
            let node = random.usize(..NODES.len());
            if state.cut.take().is_some() {
                town.cluster.heal().unwrap();
            } else if state.is_up.iter().all(|up| *up) {
                town.cluster.cut(&[NODES[node]]).unwrap();
                std::thread::sleep(Duration::from_millis(random.u64(..150)));
                town.cluster.notice().unwrap();
                state.cut = Some(node);
            }
        }
        4 => {
            let node = random.usize(..NODES.len());
            if state.is_up[node] && state.cut.is_none() && state.is_up.iter().all(|up| *up) {
                town.cluster.stop_pmxcfs(NODES[node]).unwrap();
                state.is_up[node] = false;
            } else if let Some(down) = state.is_up.iter().position(|up| !up) {
                town.cluster.start_pmxcfs(NODES[down]).unwrap();
                state.is_up[down] = true;
            }
        }
        5 => {
            let node = random.usize(..NODES.len());
            let daemon = state.daemons[node].take();
            if let Some(mut daemon) = daemon {
                daemon.signal(Signal::KILL);
                daemon.wait();
            }
            state.daemons[node] = Some(town.pctd(NODES[node]).spawn(&[]));
        }
        6 => {
            let Some(node) = where_is(town, id).filter(|node| state.is_well(*node)) else {
                return;
            };
            // It may be busy; then it is for another time.
            let _refused = town.node(NODES[node]).pct(["set", &id.to_string(), "--delete", "mp0"]);
        }
        7 => {
            state.read_only = !state.read_only;
            town.volumes(NODES[well], "", &config(state.read_only));
        }
        _ => {
            let name = random.u32(..1000);
            let node = NODES[random.usize(..NODES.len())];
            town.file(node, &format!("{STORAGE}/media/{name}"), 0);
            town.file(node, &format!("/tank/data/{name}"), 0);
        }
    }
}

/// Expects of every container and directory that it is as declared where it is.
fn is_in_place(town: &Town, read_only: bool, context: &str) {
    let mut counts = [0; 3];
    for id in IDS {
        let node = where_is(town, id).unwrap();
        counts[node] += 1;
        let mounts = town.mounts("pve1", id);
        let at = |target: &str| {
            let ends =
                |mount: &&String| mount.split(',').any(|word| word == format!("mp={target}"));
            mounts.iter().filter(ends).cloned().collect::<Vec<_>>()
        };
        let context = format!("{context}, {id} on {}: {mounts:?}", NODES[node]);
        let flag = if read_only { "ro=1" } else { "ro=0" };
        let data = at("/data");
        assert!(data.len() == 1 && data[0].contains("/tank/data,"), "{context}");
        assert_eq!(data[0].contains("ro=1"), flag == "ro=1", "{context}");
        assert!(at("/site").len() <= 1, "{context}");
        assert_eq!(at("/media").len(), usize::from([101, 103, 104].contains(&id)), "{context}");
        if [100, 101, 102].contains(&id) && node < 2 {
            assert_eq!(at("/site").len(), 1, "{context}");
        }
    }
    for (node, count) in NODES.iter().zip(counts) {
        if count > 0 {
            let wrong = wrong_below(town, node, "/tank/data");
            assert!(wrong.is_empty(), "{context}: {node} {wrong}");
        }
    }
    let wrong = wrong_below(town, "pve1", &format!("{STORAGE}/media"));
    assert!(wrong.is_empty(), "{context}: {wrong}");
}

fn wrong_below(town: &Town, node: &str, path: &str) -> String {
    let found = std::process::Command::new("find")
        .arg(town.host(node, path))
        .args(["-not", "-uid", "100000"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

fn survive(seed: u64) -> Option<()> {
    let town = Town::new(PROGRAM, &NODES)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let context = format!("seed {seed} (PCTD_SEED={seed} runs it alone)");
    for id in IDS {
        town.container(NODES[random.usize(..NODES.len())], id, &[UNPRIVILEGED]);
    }
    town.volumes("pve1", "", &config(false));
    let daemons = NODES.map(|name| Some(town.pctd(name).spawn(&[]))).into();
    let mut state = State { daemons, is_up: [true; 3], cut: None, read_only: false };
    for _ in 0..EVENTS {
        disturb(&town, &mut state, &mut random);
        std::thread::sleep(Duration::from_millis(random.u64(..100)));
    }
    for (name, is_up) in NODES.iter().zip(state.is_up) {
        if !is_up {
            town.cluster.start_pmxcfs(name).unwrap();
        }
    }
    town.cluster.heal().unwrap();
    let begun = Instant::now();
    // What was found by one poll may be undone by what the next one finds.
    let all_converged = || {
        let is_converged = |name: &str| {
            let ran = town.pctd(name).run(&["status", "--output-format", "json"]);
            let status: Option<Value> = serde_json::from_str(&ran.stdout).ok();
            status.is_some_and(|status| {
                status["config"]["valid"] == true
                    && states(&status).all(|(_, state)| state == "Converged")
            })
        };
        NODES.iter().all(|name| is_converged(name))
    };
    let mut calm = 0;
    while calm < 3 {
        assert!(begun.elapsed() < Duration::from_mins(1), "{context}:\n{}", told(&town, &state));
        calm = if all_converged() { calm + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(250));
    }
    is_in_place(&town, state.read_only, &format!("{context}\n{}", told(&town, &state)));
    town.nobody_acted_elsewhere();
    Some(())
}

fn told(town: &Town, state: &State) -> String {
    let each = NODES.iter().zip(&state.daemons).map(|(name, daemon)| {
        let status = town.pctd(name).run(&["status"]).stdout;
        let log = daemon.as_ref().map(Daemon::log).unwrap_or_default();
        format!("== {name}\n{status}\n{log}")
    });
    each.collect::<Vec<_>>().join("\n")
}

#[test]
fn whatever_happens_to_a_cluster_everything_is_in_place_in_the_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PCTD_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PCTD_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(seed) = seeds.get(at) else { return };
                    let begun = Instant::now();
                    match std::panic::catch_unwind(|| survive(*seed)) {
                        Ok(_) => eprintln!("seed {seed} in {:?}", begun.elapsed()),
                        Err(_) => failed.lock().unwrap().push(*seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let sequences = seeds.len().try_into().unwrap();
    counted(&[
        (sequences, "random sequences"),
        (EVENTS * sequences, "events in them"),
        (failed.len().try_into().unwrap(), "sequences in which something was lost or wrong"),
    ]);
    assert_eq!(failed, Vec::<u64>::new(), "these seeds failed");
}
