//! Edits on every recorded conf: lines that are not ours stay byte for byte, apart from what Proxmox
//! itself makes of them when it writes the file.

#![expect(clippy::unwrap_used, reason = "a recording that is not as described fails the test")]

use std::fs;
use std::path::Path;

use bstr::ByteSlice as _;
use pctd_core::conf::{Conf, Digest, RawEdit, RawLine};
use pctd_core::ids::{Ctid, MpKey};
use pctd_node::{ConfEditError, NodePaths};
use pctd_sandbox::{Node, NodeOptions};

fn confs() -> Vec<(Ctid, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/conf-corpus/confs");
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        let ctid = name.strip_suffix(".conf").unwrap().parse().unwrap();
        (ctid, fs::read(entry.path()).unwrap())
    };
    let mut confs: Vec<_> = fs::read_dir(corpus).unwrap().map(|e| read(e.unwrap())).collect();
    confs.sort();
    assert!(confs.len() > 50, "{}", confs.len());
    confs
}

fn lines(texts: &[&str]) -> Vec<RawLine> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The lines of a text without those that are only blank, whatever the last one ends with.
fn filled(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.lines_with_terminator().map(|l| l.trim_end_with(|c| c == '\n')).collect()
}

#[test]
fn an_id_map_and_a_mount_leave_every_other_line_of_every_recorded_conf() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Node::create(dir.path().join("n"), NodeOptions::default()).unwrap();
    let paths = NodePaths::new(Some(sandbox.root().to_owned())).unwrap();
    let node = pctd_node::Node::open(paths, pctd_node::NodeOptions::default());
    let map = lines(&["lxc.idmap: u 0 300000 65536", "lxc.idmap: g 0 300000 65536"]);
    let (there, back) = (
        RawEdit { remove: Vec::new(), add: map.clone() },
        RawEdit { remove: map.clone(), add: Vec::new() },
    );
    let (mut edited, mut mounted) = (0, 0);
    for (ctid, original) in confs() {
        sandbox.write_conf(ctid, &original).unwrap();
        let read = || sandbox.read_conf(ctid).unwrap().unwrap();
        let edit = |edit: &RawEdit| node.edit_conf(ctid, Digest::of(&read()), edit);

        // The edit, and its reverse.
        match edit(&there) {
            Ok(()) => {}
            Err(ConfEditError::Locked { .. } | ConfEditError::Edit { .. }) => {
                assert_eq!(read().as_bstr(), original.as_bstr(), "{ctid}: refused, and changed");
                continue;
            }
            Err(error) => panic!("{ctid}: {error}"),
        }
        edited += 1;
        let with_map = read();
        let text: Vec<String> = map.iter().map(ToString::to_string).collect();
        let mut rest = filled(&with_map);
        let at = rest.windows(2).position(|pair| pair == [text[0].as_bytes(), text[1].as_bytes()]);
        rest.drain(at.unwrap()..at.unwrap() + 2);
        assert_eq!(rest, filled(&original), "{ctid}");
        edit(&back).unwrap();
        let whole = read();
        assert!(
            whole == original || whole == [&original[..], b"\n"].concat(),
            "{ctid}: {:?}",
            whole.as_bstr()
        );

        // A mount through `pct`, without the lines and with them: what it makes of the conf is the
        // same, and the lines are there.
        let parsed = Conf::parse(ctid, &original).unwrap();
        let in_use = parsed.mount_keys_in_use();
        let Some(key) = MpKey::all().find(|key| !in_use.contains(key)) else { continue };
        let set = || {
            let option = format!("--{key}");
            drop(sandbox.pct(["set", &ctid.to_string(), &option, "/srv,mp=/round"]).unwrap());
            read()
        };
        sandbox.write_conf(ctid, &original).unwrap();
        let alone = set();
        sandbox.write_conf(ctid, &original).unwrap();
        edit(&there).unwrap();
        let together = set();
        if alone == original {
            // Protected, or a conf of which Proxmox can write nothing.
            assert_eq!(together.as_bstr(), with_map.as_bstr(), "{ctid}: refused, and changed");
        } else {
            mounted += 1;
            let after = Conf::parse(ctid, &together).unwrap();
            assert!(map.iter().all(|line| line.is_in(&after.current)), "{ctid}");
            edit(&back).unwrap();
            assert_eq!(read().as_bstr(), alone.as_bstr(), "{ctid}");
        }
    }
    println!("{edited} confs edited, {mounted} with a mount");
    assert!(edited > 50 && mounted > 30, "{edited} edited, {mounted} mounted");
}
