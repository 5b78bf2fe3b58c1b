//! Where a fuzzer begins: what was recorded from Proxmox, what the project ships, and what a
//! fuzzer found before (`found/TARGET/*`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pctd_core::ids::HostIds;
use pctd_core::undo::{
    Block, Directory, Entries, Entry, FRAME_BYTES, Header, Identity, PassKind, State,
};
use serde_json::Value;

/// An input, and the law it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The name of the target.
    pub target: &'static str,
    /// Where it is from.
    pub name: String,
    /// What is read.
    pub bytes: Vec<u8>,
}

/// A law by the name of its target.
pub type Law = fn(&[u8]);

/// Every target.
pub const TARGETS: &[(&str, Law)] = &[
    ("conf", crate::conf),
    ("mount", crate::mount),
    ("config", crate::config),
    ("pmxcfs", crate::pmxcfs),
    ("ledger", crate::ledger),
    ("mode", crate::mode),
    ("idmap", crate::idmap),
    ("request", crate::request),
    ("undo", crate::undo),
];

/// Lists of pmxcfs as it writes them, blank lines and all.
const PMXCFS: &[&str] = &[
    "{\n\"version\": 138,\n\"ids\": {\n\"100\": { \"node\": \"vm\", \"type\": \"lxc\", \"version\": 127 },\n\
     \"105\": { \"node\": \"vm\", \"type\": \"qemu\", \"version\": 3 }}\n\n}\n",
    "{\n\"nodename\": \"pve1\",\n\"version\": 4,\n\"cluster\": { \"name\": \"c\", \"version\": 2, \"nodes\": 2, \
     \"quorate\": 1 },\n\"nodelist\": {\n  \"pve1\": { \"id\": 1, \"online\": 1, \"ip\": \"10.0.0.1\"}\n  }\n}\n",
    "{\n\"starttime\": 1763900000,\n\"clinfo\": 4,\n\"vmlist\": 138\n}\n",
];

const LEDGERS: &[&str] = &[
    "{\"version\":1}",
    "{\"version\":1,\"mounts\":{\"953\":{\"mp0\":\"/tank/a,mp=/a\"}},\"seen\":[950,953],\"restarted\":{\"953\":1763900000},\
     \"borrowed\":{\"950\":[\"mp1\"]},\"making\":{\"901\":\"clone\"}}",
    "{\"version\":1,\"converted\":{\"953\":\"/d/b.tar.zst\"},\"backups\":{\"953\":[\"/d/a.tar.zst\"]},\
     \"undone\":{\"media\":\"da39a3\"}}",
];

const MODES: &[&str] = &["0775", "2775", "keep", "u=rwX,g=rX,o=", "a+X,u+x", "g=u", "*.key"];

const ID_MAPS: &[&str] = &[
    "         0     100000      65536\n",
    "0 100000 1000\n1000 1000 1\n1001 101001 64535\n\0 0 100000 65536\n",
    "0 0 4294967295\n",
];

/// What `pctd` sends, and what would change something if it were believed.
const REQUESTS: &[&str] = &[
    "{\"version\":1,\"op\":\"status\",\"keys\":[],\"confirm\":false}\n",
    "{\"version\":1,\"op\":\"status\",\"keys\":[\"953\",\"ssl_certs\"],\"follow\":true,\"confirm\":false}\n",
    "{\"version\":1,\"op\":\"reconcile\"}",
    "{\"version\":1,\"op\":\"reconcile\",\"keys\":[\"953\"],\"confirm\":true,\"yes\":true,\
     \"config\":[\"/etc/pctd/config.json\"],\"read\":[{\"path\":\"/etc/pctd/config.json\",\
     \"sha1\":\"da39a3ee5e6b4b0d3255bfef95601890afd80709\"}]}\n",
    "{\"version\":1,\"op\":\"order\",\"order\":{\"undo\":{\"volume\":\"data\",\"back_to\":null,\"setuid\":true,\"dry_run\":false}}}\n",
    "{\"version\":1,\"op\":\"order\",\"order\":{\"shift\":{\"volume\":\"data\",\"shift\":{\"from\":200000,\"to\":100000,\"count\":65536},\
     \"dry_run\":false,\"live\":false}}}\n",
    "[1,\"reconcile\",[\"953\"],false,true,true,null,null]\n{\"version\":2}\n\n",
    "{\"version\":1,\"op\":\"status\",\"op\":\"reconcile\",\"yes\":null,\"k\\u0065ys\":[\"\\ud800\"]}\n",
];

/// Returns every seed.
///
/// # Errors
///
/// A file of the project cannot be read.
pub fn all() -> io::Result<Vec<Seed>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Vec::new();
    for path in files(&here.join("../recorded/conf-corpus/confs"))? {
        let bytes = fs::read(&path)?;
        let lines = bytes.split(|byte| *byte == b'\n');
        let values = lines.filter(|line| line.starts_with(b"mp")).filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some(line[colon + 1..].trim_ascii().to_vec())
        });
        seeds.extend(values.map(|bytes| seed("mount", &path, bytes)));
        seeds.push(seed("conf", &path, bytes));
    }
    let transcripts = here.join("../recorded/pct-transcripts.jsonl");
    for line in fs::read_to_string(&transcripts)?.lines() {
        let case: Value = serde_json::from_str(line)?;
        let confs = case["conf_after"].as_object().into_iter().flatten();
        let texts = confs.filter_map(|(_, text)| text.as_str());
        seeds.extend(texts.map(|text| seed("conf", &transcripts, text.into())));
    }
    for dir in ["../../config", "../data/author"] {
        for path in files(&here.join(dir))? {
            seeds.push(seed("config", &path, fs::read(&path)?));
        }
    }
    let texts: [(&'static str, &[&str]); 5] = [
        ("pmxcfs", PMXCFS),
        ("ledger", LEDGERS),
        ("mode", MODES),
        ("idmap", ID_MAPS),
        ("request", REQUESTS),
    ];
    for (target, texts) in texts {
        let own = |text: &&str| seed(target, Path::new("seeds.rs"), (*text).into());
        seeds.extend(texts.iter().map(own));
    }
    seeds.extend(records().map(|bytes| seed("undo", Path::new("seeds.rs"), bytes)));
    for (target, _) in TARGETS {
        for path in files(&here.join("found").join(target)).unwrap_or_default() {
            seeds.push(seed(target, &path, fs::read(&path)?));
        }
    }
    Ok(seeds)
}

/// Returns a record of a small pass, whole, cut off, and as single payloads.
fn records() -> impl Iterator<Item = Vec<u8>> {
    let state = |uid, mode| State { ids: HostIds::new(uid, uid), mode };
    let entry = |name: &[u8], before, after| Entry {
        name: name.to_vec(),
        inode: 12,
        birth: 34,
        before,
        after,
    };
    let changed = |name| entry(name, state(0, 0o4755), state(100_000, 0o755));
    let root = Identity { inode: 2, birth: 1, handle: vec![1, 0, 0, 0, 2, 0, 0, 0] };
    let (rule, file_system) = ("00ff".to_owned(), "ext4:1".to_owned());
    let header = Header { kind: PassKind::Walk, begun: 5, rule, file_system, root };
    let entries = vec![changed(b"a"), changed(b"b"), entry(b"c", state(1, 0), state(1, 0o7777))];
    let directory = Directory::Handle(vec![1; 12]);
    let own = vec![changed(b".")];
    let blocks = [
        Block::Header(header),
        Block::Entries(Entries { time: 6, directory, entries }),
        Block::Entries(Entries {
            time: 7,
            directory: Directory::Path(b"x/y".to_vec()),
            entries: own,
        }),
        Block::End(8),
    ];
    let frames: Vec<Vec<u8>> = blocks.iter().filter_map(Block::to_frame).collect();
    let whole = frames.concat();
    let payloads = frames.into_iter().map(|frame| frame[FRAME_BYTES..frame.len() - 8].to_vec());
    let cut = whole[..whole.len() / 2].to_vec();
    payloads.chain([whole, cut]).collect::<Vec<_>>().into_iter()
}

fn seed(target: &'static str, path: &Path, bytes: Vec<u8>) -> Seed {
    Seed { target, name: path.display().to_string(), bytes }
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}
