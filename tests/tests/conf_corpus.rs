//! The conf reader against what Proxmox itself made of the same files.
//!
//! The format is described with the recordings; every field of every case is compared.

#![expect(clippy::unwrap_used, reason = "a recording that is not as described fails the test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bstr::{BStr, BString, ByteSlice};
use pctd_core::conf::{
    Conf, Force, IdLine, IdMapError, MountEntry, MountIdMap, NotAReference, RewriteError, Section,
};
use pctd_core::ids::{Ctid, MpKey};
use serde_json::{Map, Value, json};

/// Numbers with more digits were recorded as text.
const LONGEST_NUMBER: usize = 18;

/// What comes first in messages of several lines, whose order is not certain.
const FORMAT_ERROR: &str = "format error\n";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/conf-corpus")
}

#[test]
fn confs_are_read_as_proxmox_reads_them() {
    let expected = fs::read(corpus().join("expected.json")).unwrap();
    let expected: Map<String, Value> = serde_json::from_slice(&expected).unwrap();
    let mut report = String::new();
    let mut agreed = 0;
    for (name, case) in &expected {
        let bytes = fs::read(corpus().join("confs").join(name)).unwrap();
        let differences = compare(name, &bytes, case.as_object().unwrap());
        if differences.is_empty() {
            agreed += 1;
            continue;
        }
        writeln!(report, "{name}: {}", case["about"]).unwrap();
        for (field, expected, found) in differences {
            writeln!(report, "  {field}\n    expected {expected}\n    found    {found}").unwrap();
        }
    }
    println!("{agreed} of {} cases agreed", expected.len());
    assert!(agreed == expected.len() && agreed > 0, "{agreed} of {}\n{report}", expected.len());
}

/// Every start of every conf must be read without a panic, and so must what is written of it.
#[test]
fn a_conf_cut_off_anywhere_is_read() {
    for entry in fs::read_dir(corpus().join("confs")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        // Two files are long and repeat themselves; both ends of them say it all.
        let (start, end) = (bytes.len().min(1000), bytes.len());
        for end in (0..start).chain(end.saturating_sub(200).max(start)..=end) {
            if let Ok(conf) = Conf::parse(Ctid::new(100).unwrap(), &bytes[..end]) {
                touch(&conf);
            }
        }
    }
}

/// Calls everything that has anything to compute.
fn touch(conf: &Conf) {
    let _ = conf.rewritten();
    let _ = (conf.effective_idmap(), conf.idmap_overlap(), conf.root_ids_as_proxmox());
    let _ = (conf.mount_keys_in_use(), conf.pending_names());
    for (_, mount_point) in conf.current.volumes() {
        let _ = (mount_point.render(), mount_point.size(), mount_point.idmap());
    }
}

type Difference = (String, Value, Value);

fn compare(name: &str, bytes: &[u8], expected: &Map<String, Value>) -> Vec<Difference> {
    let ctid: Ctid = name.strip_suffix(".conf").unwrap().parse().unwrap();
    let found = match Conf::parse(ctid, bytes) {
        Ok(conf) => whole(&conf),
        Err(error) => json!({
            "digest": error.digest.to_string(),
            "warnings": texts(&error.warnings),
            "parse_error": perl_error(&error.cause),
        }),
    };
    let mut expected = Value::Object(expected.clone());
    expected.as_object_mut().unwrap().remove("about");
    let (expected, found) = (normal(expected), normal(found));
    let (expected, found) = (expected.as_object().unwrap(), found.as_object().unwrap());
    let fields = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
    fields
        .map(|field| {
            let of =
                |map: &Map<String, Value>| map.get(field).cloned().unwrap_or(json!("(absent)"));
            (field.clone(), of(expected), of(found))
        })
        .filter(|(_, expected, found)| expected != found)
        .collect()
}

/// Returns what was recorded about a conf.
fn whole(conf: &Conf) -> Value {
    let mut fields = section(&conf.current);
    let value = |name: &str| conf.current.get(name).map_or(Value::Null, text);
    let flag = |name: &str| json!(conf.current.flag(name));
    let mut set = |field: &str, value: Value| fields.insert(field.to_owned(), value);
    set("digest", json!(conf.digest.to_string()));
    set("warnings", texts(&conf.warnings));
    for name in ["template", "protection", "onboot"] {
        set(name, flag(name));
    }
    for name in ["lock", "hostname", "startup", "memory", "cores"] {
        set(name, value(name));
    }
    let order: Vec<String> = conf.current.volumes().map(|(name, _)| name).collect();
    set("volume_order", json!(order));
    let pending = &conf.pending.section;
    set("pending", properties(pending));
    if !pending.lxc().is_empty() {
        set("pending_lxc", raw_lines(pending));
    }
    if let Some(description) = pending.description() {
        set("pending_description", decoded(description));
    }
    let deletes = conf.pending.deletes();
    set("pending_delete", deletes.keys().map(|name| text(name.as_bstr())).collect());
    let forced = deletes.iter().filter(|(_, force)| **force == Force::Yes);
    let forced: Vec<Value> = forced.map(|(name, _)| text(name.as_bstr())).collect();
    if !forced.is_empty() {
        set("pending_delete_force", json!(forced));
    }
    set("snapshots", conf.snapshots.keys().cloned().collect());
    if !conf.snapshots.is_empty() {
        let sections = conf.snapshots.iter();
        let sections = sections.map(|(name, of)| (name.clone(), Value::Object(section(of))));
        set("snapshot_sections", Value::Object(sections.collect()));
    }
    let rewritten = match conf.rewritten() {
        Ok(bytes) => text(bytes.as_bstr()),
        Err(RewriteError::NoTable(error)) => json!({ "error": perl_error(&error) }),
        Err(error) => json!({ "error": format!("{error}\n") }),
    };
    set("rewritten", rewritten);
    if let Some(digest) = &conf.digest_overridden {
        set("digest_overridden", text(digest.as_bstr()));
    }
    Value::Object(fields)
}

/// Returns what was recorded about the current section and about each snapshot.
fn section(section: &Section) -> Map<String, Value> {
    let lines = section.idmap_lines();
    let root = section.root_ids_as_proxmox().ok();
    let entries = |lines: Vec<IdLine>| lines.iter().map(id_line).collect::<Value>();
    let mounts = section.mounts().iter();
    let mounts = mounts.map(|(key, entry): (&MpKey, _)| (key.to_string(), mount(entry)));
    let fields = json!({
        "unprivileged": section.flag("unprivileged").unwrap_or(false),
        "properties": properties(section),
        "lxc": raw_lines(section),
        "has_custom_idmap": section.has_custom_idmap(),
        "idmap": lines.map_or_else(|error| json!({ "error": idmap_error(&error) }), entries),
        "root_uid": root.as_ref().map(|root| number(&root.uid)),
        "root_gid": root.as_ref().map(|root| number(&root.gid)),
        "idmap_overlap": section.idmap_overlap().map(|text| format!("{text}\n")),
        "mounts": Value::Object(mounts.collect()),
        "rootfs": section.rootfs().map(mount),
    });
    let Value::Object(mut fields) = fields else { unreachable!("an object was made") };
    if let Some(description) = section.description() {
        fields.insert("description".into(), decoded(description));
    }
    let env: Vec<Value> = section.env().into_iter().map(text).collect();
    if !env.is_empty() {
        fields.insert("env".into(), json!(env));
    }
    fields
}

fn properties(section: &Section) -> Value {
    let all = section.properties().iter();
    Value::Object(all.map(|(name, value)| (name.clone(), text(value.as_bstr()))).collect())
}

fn raw_lines(section: &Section) -> Value {
    section.lxc().iter().map(|(key, value)| json!([key, text(value.as_bstr())])).collect()
}

fn mount(entry: &MountEntry) -> Value {
    let mount_point = match &entry.parsed {
        Ok(mount_point) => mount_point,
        Err(error) => return json!({ "error": text(error.0.0.as_bstr()) }),
    };
    let mut fields = Map::new();
    for (name, value) in &mount_point.options {
        let value = match name.as_str() {
            "mountoptions" => json!(value),
            "idmap" => match mount_point.idmap().unwrap() {
                MountIdMap::Passthrough => json!("passthrough"),
                MountIdMap::Lines(lines) => lines.iter().map(id_line).collect(),
            },
            "size" => mount_point.size().unwrap().to_string().parse().unwrap(),
            _ => number(value),
        };
        fields.insert(name.clone(), value);
    }
    fields.insert("type".into(), json!(mount_point.class.as_str()));
    fields.insert("volume".into(), text(mount_point.volume.as_bstr()));
    fields.insert("mp".into(), text(mount_point.target.as_bstr()));
    Value::Object(fields)
}

fn id_line(line: &IdLine) -> Value {
    let kind = line.kind.letter().to_string();
    json!([kind, number(&line.container), number(&line.host), number(&line.count)])
}

/// Returns digits as they were recorded: as a number unless that would lose something.
fn number(digits: &str) -> Value {
    let is_number = digits == "0" || !digits.starts_with('0') && digits.len() <= LONGEST_NUMBER;
    if is_number { digits.parse().unwrap() } else { json!(digits) }
}

fn idmap_error(error: &IdMapError) -> Value {
    match error {
        IdMapError::BadLine(line) => {
            text([b"failed to parse idmap: ", line.as_slice(), b"\n"].concat().as_bstr())
        }
        IdMapError::NoLines(error) => perl_error(error),
    }
}

fn perl_error(error: &NotAReference) -> Value {
    let place = " at <FILE> line <LINE>.\n";
    text([error.text().as_slice(), place.as_bytes()].concat().as_bstr())
}

/// Returns bytes as they were recorded: text where they are UTF-8, in base 64 where not.
fn text(bytes: &BStr) -> Value {
    match bytes.to_str() {
        Ok(text) => json!(text),
        Err(_) => json!({ "bytes": bytes.as_bytes() }),
    }
}

fn texts(all: &[BString]) -> Value {
    all.iter().map(|bytes| text(bytes.as_bstr())).collect()
}

/// A description was recorded as characters.
fn decoded(description: &BStr) -> Value {
    json!(description.to_str_lossy())
}

/// Returns a value with base 64 decoded, and the lines sorted of messages whose order is not
/// certain.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key("base64") => {
            json!({ "bytes": base64(map["base64"].as_str().unwrap()) })
        }
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, normal(value))).collect())
        }
        Value::Array(all) => all.into_iter().map(normal).collect(),
        Value::String(text) if text.contains(FORMAT_ERROR) => {
            let (before, lines) = text.split_once(FORMAT_ERROR).unwrap();
            let mut lines: Vec<&str> = lines.split('\n').collect();
            lines.sort_unstable();
            json!([before, FORMAT_ERROR, lines])
        }
        other => other,
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} in base 64"),
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0_u32, |bits, b| bits << 6 | u32::from(digit(*b)));
        let all = (bits << (6 * (4 - group.len()) + 8)).to_be_bytes();
        bytes.extend_from_slice(&all[..group.len() - 1]);
    }
    bytes
}

#[test]
fn base_64_is_decoded() {
    assert_eq!(base64("L+Q="), b"/\xe4");
    assert_eq!(base64("L3Nydi9o/A=="), b"/srv/h\xfc");
    assert_eq!(base64("QUJD"), b"ABC");
}
