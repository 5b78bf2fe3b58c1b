//! The sandbox's `pct` against recordings of the real one.
//!
//! `tests/recorded/pct-transcripts.jsonl` has one command per line: the confs before and after,
//! what was printed, what ran and what was mounted. In every case success or failure, the confs,
//! the running containers with their mounts and the volumes must agree; what was printed too,
//! for all that is to be relied upon (the README beside the recordings says what is not).
//!
//! `PCT_TRANSCRIPTS` names another file of the same form; arguments are ids of cases to run.

#![expect(
    clippy::unwrap_used,
    reason = "a recording of another form than expected is a broken test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use pctd_core::ids::Ctid;
use pctd_sandbox::{Node, NodeOptions, Output, Timings, program};
use serde_json::{Value, json};

/// Cases that cannot agree, with the reason.
const OUT_OF_SCOPE: &[(&str, &str)] = &[];

/// What the recordings put for texts that differ from run to run.
const PLACEHOLDERS: &[&str] = &[
    "<HWADDR>",
    "<TIME>",
    "<UUID>",
    "<FINGERPRINT>",
    "<PID>",
    "<UPID>",
    "<RATE>",
    "<SECONDS>",
    "<N>",
    "<RATIO>",
    "<SHA1>",
    "<FILE>",
    "<LINE>",
];

/// Commands whose stdout is not to be relied upon.
const UNRELIABLE_STDOUT: &[&str] = &["create", "clone", "start"];

/// Images that exist in every case, with their sizes.
const IMAGES: [(&str, u64); 2] =
    [("local:100/vm-100-disk-0.raw", 102 << 20), ("local:120/vm-120-disk-0.raw", 1 << 30)];

const WORKERS: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = program::internal(&arguments) {
        return code;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        // What a runner asks of a test program that brings its own harness.
        println!("pct_transcripts: test");
        return ExitCode::SUCCESS;
    }
    let wanted: BTreeSet<String> = words
        .into_iter()
        .filter(|word| !word.starts_with('-') && word != "pct_transcripts")
        .collect();
    let began = Instant::now();
    let cases = cases().into_iter().filter(|case| wanted.is_empty() || wanted.contains(id(case)));
    let (skipped, cases): (Vec<Value>, Vec<Value>) =
        cases.partition(|case| reason_out_of_scope(id(case)).is_some());
    let differing = run_all(&cases);
    for (id, differences) in &differing {
        println!("{id}:\n{}", differences.join("\n"));
    }
    for case in &skipped {
        println!(
            "{}: out of scope: {}",
            id(case),
            reason_out_of_scope(id(case)).unwrap_or_default()
        );
    }
    println!(
        "pct transcripts: {} agree, {} differ, {} out of scope ({:.1} s)",
        cases.len() - differing.len(),
        differing.len(),
        skipped.len(),
        began.elapsed().as_secs_f64()
    );
    if differing.is_empty() && !cases.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cases() -> Vec<Value> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/pct-transcripts.jsonl");
    let path = std::env::var_os("PCT_TRANSCRIPTS").map_or_else(default, PathBuf::from);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn id(case: &Value) -> &str {
    case["id"].as_str().unwrap_or_default()
}

fn reason_out_of_scope(id: &str) -> Option<&'static str> {
    OUT_OF_SCOPE.iter().find(|(case, _)| *case == id).map(|(_, reason)| *reason)
}

/// Runs all cases and returns the differences of those that have any.
fn run_all(cases: &[Value]) -> BTreeMap<String, Vec<String>> {
    let next = Mutex::new(cases.iter());
    let differing = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { return };
                    let differences = run(case);
                    if !differences.is_empty() {
                        differing.lock().unwrap().insert(id(case).to_owned(), differences);
                    }
                }
            });
        }
    });
    differing.into_inner().unwrap()
}

fn run(case: &Value) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let node = prepare(dir.path(), case);
    let held = case.get("flock_held").map(|id| node.hold_flock(ctid(id)).unwrap());
    let arguments: Vec<OsString> = strings(&case["argv"]).into_iter().map(OsString::from).collect();
    let locale = case["env"]["LC_ALL"].as_str().unwrap_or("C");
    let output = node.pct_in_locale(arguments, locale).unwrap();
    drop(held);
    let differences = compare(case, &node, &output);
    for running in node.running() {
        node.pct(["stop", &running.to_string(), "--skiplock", "1"]).unwrap();
    }
    differences
}

/// Makes a node as it was before the command.
fn prepare(dir: &Path, case: &Value) -> Node {
    // Nothing is learnt from waiting longer.
    let timings = Timings { lock_ms: 50, reserve_lock_ms: 50, second_ms: 20, ..Timings::default() };
    let program = std::env::current_exe().ok();
    let node =
        Node::create(dir, NodeOptions { timings, program, ..NodeOptions::default() }).unwrap();
    for (volume, bytes) in IMAGES {
        node.create_volume(volume, bytes).unwrap();
    }
    for volume in strings(&case["volumes_before"]).iter().filter(|volume| volume.starts_with("bt:"))
    {
        node.create_volume(&format!("{volume}.raw"), 102 << 20).unwrap();
    }
    for path in strings(&case["host_paths"]) {
        node.create_host_dir(&path).unwrap();
    }
    for path in strings(&case["host_files"]) {
        fs::write(node.paths().host(&path), "").unwrap();
    }
    for (path, target) in case["host_symlinks"].as_object().into_iter().flatten() {
        symlink(target.as_str().unwrap(), node.paths().host(path)).unwrap();
    }
    let confs: Vec<(&String, Vec<u8>)> = case["conf_before"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, conf)| (name, bytes(conf)))
        .collect();
    let write = |with_pending: bool| {
        for (name, conf) in &confs {
            let path = node.paths().etc_pve().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if with_pending { conf.clone() } else { without_pending(conf) })
                .unwrap();
        }
        node.pmxcfs().refresh().unwrap();
    };
    let running = case["running"].as_array().cloned().unwrap_or_default();
    if !running.is_empty() {
        // What runs was started with what is in force now.
        write(false);
        for id in &running {
            let output = node.pct(["start", &ctid(id).to_string(), "--skiplock", "1"]).unwrap();
            assert!(output.is_success(), "{}: {}", case["id"], output.stderr_text());
        }
    }
    write(true);
    node
}

fn without_pending(conf: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(conf).into_owned();
    let mut kept = String::new();
    let mut pending = false;
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            pending = line.to_lowercase().starts_with("[pve:pending]");
        }
        if !pending {
            kept.push_str(line);
        }
    }
    kept.into_bytes()
}

fn compare(case: &Value, node: &Node, output: &Output) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
        differences.push(format!("  {what}: expected {expected:?}\n  {what}:    found {found:?}"));
    };
    if output.is_success() != (case["exit"] == 0) {
        differ("exit", &case["exit"], &output.exit);
    }
    let confs: BTreeMap<String, Vec<u8>> = case["conf_after"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, conf)| (name.clone(), bytes(conf)))
        .collect();
    let found = confs_of(node);
    let matches = |name: &String, conf: &Vec<u8>| {
        found.get(name).is_some_and(|found| {
            found == conf
                || matches_text(&String::from_utf8_lossy(conf), &String::from_utf8_lossy(found))
        })
    };
    if confs.len() != found.len() || !confs.iter().all(|(name, conf)| matches(name, conf)) {
        differ("confs", &readable(&confs), &readable(&found));
    }
    let running: BTreeSet<Ctid> =
        case["running_after"].as_array().into_iter().flatten().map(ctid).collect();
    if running != node.running() {
        differ("running", &running, &node.running());
    }
    for (id, mounts) in case["ct_mounts_after"].as_object().into_iter().flatten() {
        let found = mounts_of(node, id.parse().unwrap());
        if *mounts != found {
            differ("mounts", mounts, &found);
        }
    }
    if let Some(volumes) = case.get("volumes_after") {
        let expected: BTreeSet<String> = strings(volumes).into_iter().collect();
        let found: BTreeSet<String> = node.volumes().unwrap().into_iter().collect();
        if expected != found {
            differ("volumes", &expected, &found);
        }
    }
    let command = case["argv"][0].as_str().unwrap_or_default();
    let streams = [("stdout", output.stdout_text()), ("stderr", output.stderr_text())];
    for (name, found) in streams {
        let expected = String::from_utf8_lossy(&bytes(&case[name])).into_owned();
        let ignored = name == "stdout" && UNRELIABLE_STDOUT.contains(&command);
        if !ignored && !same_lines(&expected, &found) {
            differ(name, &expected, &found);
        }
    }
    differences
}

fn readable(confs: &BTreeMap<String, Vec<u8>>) -> BTreeMap<&String, String> {
    confs.iter().map(|(name, conf)| (name, String::from_utf8_lossy(conf).into_owned())).collect()
}

fn confs_of(node: &Node) -> BTreeMap<String, Vec<u8>> {
    let pve = node.paths().etc_pve();
    let mut confs = BTreeMap::new();
    for host in fs::read_dir(pve.join("nodes")).unwrap().flatten() {
        let dir = host.path().join("lxc");
        for conf in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = conf.path().strip_prefix(&pve).unwrap().to_string_lossy().into_owned();
            confs.insert(name, fs::read(conf.path()).unwrap());
        }
    }
    confs
}

/// Returns the mounts whose source the recordings show.
fn mounts_of(node: &Node, ctid: Ctid) -> Value {
    let mounts = node.mounts(ctid).into_iter().filter(|mount| mount.source.starts_with("/srv"));
    let mounts = mounts.map(|mount| {
        json!({ "source": mount.source, "target": mount.target, "ro": mount.ro, "options": mount.options })
    });
    mounts.collect()
}

/// Compares lines without regard to their order, which in a block of errors is a hash's.
fn same_lines(expected: &str, found: &str) -> bool {
    let mut found: Vec<String> = found.lines().map(without_index).collect();
    let all = expected.lines().map(without_index).all(|line| {
        let at = found.iter().position(|other| matches_text(&line, other));
        at.map(|at| found.swap_remove(at)).is_some()
    });
    all && found.is_empty()
}

/// Drops the index of an entry of a list, which Proxmox returns in the order of a hash.
fn without_index(line: &str) -> String {
    match line.split_once("].") {
        Some((index, rest)) if index.starts_with('[') => format!("[].{rest}"),
        _ => line.to_owned(),
    }
}

/// Compares a text with placeholders, each of which stands for something within a line.
fn matches_text(expected: &str, found: &str) -> bool {
    let first = PLACEHOLDERS
        .iter()
        .filter_map(|placeholder| Some((expected.find(placeholder)?, *placeholder)))
        .min();
    let Some((at, placeholder)) = first else { return expected == found };
    let (before, after) = (&expected[..at], &expected[at + placeholder.len()..]);
    let Some(rest) = found.strip_prefix(before) else { return false };
    let line = rest.find('\n').unwrap_or(rest.len());
    (1..=line)
        .filter(|end| rest.is_char_boundary(*end))
        .any(|end| matches_text(after, &rest[end..]))
}

fn ctid(id: &Value) -> Ctid {
    id.to_string().trim_matches('"').parse().unwrap()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// Returns the bytes of a text, or of one that is no UTF-8 and therefore in base 64.
fn bytes(text: &Value) -> Vec<u8> {
    match text["base64"].as_str() {
        Some(encoded) => decode(encoded),
        None => text.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn decode(encoded: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = encoded
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|other| *other == byte))
        .map(|digit| u32::try_from(digit).unwrap())
        .collect();
    let mut decoded = Vec::new();
    for group in digits.chunks(4) {
        let number =
            group.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - group.len()));
        let octets = number.to_be_bytes();
        decoded.extend_from_slice(&octets[1..group.len()]);
    }
    decoded
}
