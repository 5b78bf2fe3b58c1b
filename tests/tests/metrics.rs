//! Metrics for a textfile collector, read as strictly as it reads them.

#![expect(clippy::unwrap_used, reason = "a test whose node cannot be made ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use pctd_tests::daemon::{eventually, text};
use pctd_tests::world::{UNPRIVILEGED, World};

const DATA: &str =
    r#""data": {"host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}"#;
const FILE: &str = "/var/lib/node_exporter/pctd.prom";

/// Samples by name and labels as they are written.
type Samples = BTreeMap<String, f64>;

/// Reads Prometheus's text format 0.0.4 and accepts nothing that is only nearly right: every family
/// has its help and its type before its samples and stands in one piece, no series twice, counters
/// end in `_total`, names and labels are well formed, no sample has a time.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line is not ended");
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let (mut helped, mut family) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && !help.trim().is_empty(), "{line}");
            assert!(families.insert(name.to_owned()), "{name} is not in one piece");
            name.clone_into(&mut helped);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (series, ""),
            };
            assert_eq!(name, family, "a sample of another family: {line}");
            // No value here holds a comma, a quote or a backslash.
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap();
                assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
            }
            let value = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {series}");
        }
    }
    samples
}

#[test]
fn what_a_daemon_does_is_counted_and_its_end_is_said() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let path = world.host(FILE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    world.volumes("", DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert!(!path.exists(), "it is not asked for");

    world.volumes(&format!(r#""metrics_file": "{FILE}""#), DATA);
    let now = || parse(&text(&path));
    eventually("metrics are written", || path.exists());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    eventually("all is in place", || {
        now().get(r#"pctd_keys{kind="volume",state="converged"}"#) == Some(&1.0)
            && now().get("pctd_config_generation") == Some(&2.0)
    });
    let samples = now();
    for (series, value) in [
        ("pctd_up", 1.0),
        ("pctd_node_up", 1.0),
        ("pctd_config_valid", 1.0),
        (r#"pctd_keys{kind="container",state="converged"}"#, 1.0),
        (r#"pctd_keys{kind="container",state="failed"}"#, 0.0),
        (r#"pctd_conditions{kind="container",condition="Mounted",status="true"}"#, 1.0),
        (r#"pctd_holds{reason="Locked"}"#, 0.0),
        (r#"pctd_steps_total{step="create_directory"}"#, 1.0),
        (r#"pctd_steps_total{step="set_mount"}"#, 1.0),
        (r#"pctd_steps_total{step="reboot_container"}"#, 0.0),
        (r#"pctd_runs_total{verdict="failed"}"#, 0.0),
        ("pctd_failing_keys", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(samples[r#"pctd_runs_total{verdict="converged"}"#] >= 2.0);
    assert!(samples["pctd_walk_entries_total"] >= 1.0);
    assert!(samples[r#"pctd_last_reconcile_timestamp_seconds{kind="volume"}"#] > 1e9);
    assert!(samples["pctd_last_survey_timestamp_seconds"] > 1e9);

    world.pct(&["set", "100", "--protection", "1"]);
    world.volumes(&format!(r#""metrics_file": "{FILE}""#), &DATA.replace("/data\"}", "/other\"}"));
    eventually("the hold is counted", || now()[r#"pctd_holds{reason="Protected"}"#] > 0.0);
    world.config("{");
    eventually("a refused configuration is told", || now()["pctd_config_valid"] == 0.0);
    daemon.stop();
    assert_eq!(parse(&text(&path)), Samples::from([("pctd_up".to_owned(), 0.0)]));
    let others = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(others, 1, "nothing else is left in the directory");
}

#[test]
fn a_directory_that_is_not_there_is_said_once_and_holds_nothing_up() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.volumes(r#""metrics_file": "/nowhere/pctd.prom""#, DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    eventually("it is said", || daemon.log().contains("metrics cannot be written to "));
    let path = world.host("/nowhere/pctd.prom");
    fs::create_dir(path.parent().unwrap()).unwrap();
    eventually("they are written once it is there", || path.exists());
    assert_eq!(daemon.log().matches("metrics cannot be written to ").count(), 1);
    daemon.stop();
}
