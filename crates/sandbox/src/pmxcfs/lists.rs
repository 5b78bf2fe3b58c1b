//! The texts of `.vmlist`, `.version` and `.members`, as `pmxcfs` words them.

use std::collections::BTreeSet;

/// One guest as `.vmlist` has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    pub(super) id: u32,
    pub(super) node: &'a str,
    pub(super) kind: &'a str,
    pub(super) version: u64,
}

/// Returns `.vmlist`.
pub(super) fn vmlist<'a>(version: u64, guests: impl Iterator<Item = Listed<'a>>) -> String {
    let entry = |guest: Listed<'_>| {
        let Listed { id, node, kind, version } = guest;
        format!(
            "\"{id}\": {{ \"node\": \"{node}\", \"type\": \"{kind}\", \"version\": {version} }}"
        )
    };
    let entries: Vec<String> = guests.map(entry).collect();
    format!("{{\n\"version\": {version},\n\"ids\": {{\n{}}}\n\n}}\n", entries.join(",\n"))
}

/// Returns `.version`; `files` are the counters of the files that Proxmox knows.
pub(super) fn version<'a>(
    starttime: u64,
    clinfo: u64,
    vmlist: u64,
    files: impl Iterator<Item = (&'a str, u64)>,
) -> String {
    let own = [("starttime", starttime), ("clinfo", clinfo), ("vmlist", vmlist)];
    let lines: Vec<String> =
        own.into_iter().chain(files).map(|(name, count)| format!("\"{name}\": {count}")).collect();
    format!("{{\n{},\n\"kvstore\": {{ }}\n}}\n", lines.join(",\n"))
}

/// Returns `.members`: a standalone node has no `cluster` object and always a quorum.
pub(super) fn members(
    node: &str,
    peers: &[String],
    quorate: bool,
    offline: &BTreeSet<String>,
) -> String {
    if peers.is_empty() && quorate {
        return format!("{{\n\"nodename\": \"{node}\",\n\"version\": 0\n}}\n");
    }
    let own = std::iter::once(node);
    let members: Vec<String> = own
        .chain(peers.iter().map(String::as_str))
        .enumerate()
        .map(|(index, name)| {
            let online = u8::from(!offline.contains(name));
            let id = index + 1;
            format!("\"{name}\": {{ \"id\": {id}, \"online\": {online}, \"ip\": \"10.0.0.{id}\"}}")
        })
        .collect();
    format!(
        "{{\n\"nodename\": \"{node}\",\n\"version\": 3,\n\"cluster\": {{ \"name\": \"sandbox\", \"version\": 2, \"nodes\": {}, \"quorate\": {} }},\n\"nodelist\": {{\n{}\n}}\n}}\n",
        members.len().max(2),
        u8::from(quorate),
        members.join(",\n")
    )
}
