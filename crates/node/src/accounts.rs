//! The host's users and groups by name, for owners that are declared by name.
//!
//! Reads the files only: an answer that needs the network (LDAP) could hang a run.

use std::io;
use std::path::PathBuf;

use bstr::ByteSlice as _;
use pctd_core::ids::HostIds;
use pctd_core::observed::Accounts;

use crate::paths::NodePaths;

/// Reads `passwd` and `group` of the node, or the machine's where the node has none.
///
/// # Errors
///
/// A file is there and cannot be read, or neither is there.
pub fn read(paths: &NodePaths) -> io::Result<Accounts> {
    let read = |file: &str| match std::fs::read(paths.host(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::read(PathBuf::from(file)),
        result => result,
    };
    Ok(parse(&read("/etc/passwd")?, &read("/etc/group")?))
}

/// Reads the text of passwd(5) and group(5); of two lines for a name the first counts.
pub fn parse(passwd: &[u8], group: &[u8]) -> Accounts {
    let mut accounts = Accounts::default();
    for line in passwd.lines() {
        if let Some((name, [_password, uid, gid])) = fields(line)
            && let (Some(uid), Some(gid)) = (id(uid), id(gid))
        {
            accounts.users.entry(name).or_insert(HostIds::new(uid, gid));
        }
    }
    for line in group.lines() {
        if let Some((name, [_password, gid])) = fields(line)
            && let Some(gid) = id(gid)
        {
            accounts.groups.entry(name).or_insert(gid);
        }
    }
    accounts
}

fn fields<const N: usize>(line: &[u8]) -> Option<(String, [&[u8]; N])> {
    let mut fields = line.split(|b| *b == b':');
    let name = fields.next()?.to_str().ok()?;
    // `+` and `-` lines are NIS's, a `#` starts what some tools take for a comment.
    let plain = !name.is_empty() && !name.starts_with(['+', '-', '#']);
    let mut rest = [&[][..]; N];
    for slot in &mut rest {
        *slot = fields.next()?;
    }
    plain.then(|| (name.to_owned(), rest))
}

fn id(field: &[u8]) -> Option<u32> {
    let digits = field.iter().all(u8::is_ascii_digit);
    field.to_str().ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_the_ids_of_their_first_line() {
        let accounts = parse(
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nroot:x:7:7::/:\n\
              +nis::::::\n# comment\nbroken:x:abc:0::/:\nshort:x:1\n\xff\xfe:x:1:1::/:\n",
            b"root:x:0:\nnogroup:x:65534:\nmedia:x:1005:alice,bob\nno-gid:x\n",
        );
        let users = [("nobody", HostIds::new(65534, 65534)), ("root", HostIds::ROOT)];
        let groups = [("media", 1005), ("nogroup", 65534), ("root", 0)];
        assert_eq!(accounts.users, users.map(|(name, ids)| (name.to_owned(), ids)).into());
        assert_eq!(accounts.groups, groups.map(|(name, gid)| (name.to_owned(), gid)).into());
    }

    #[test]
    fn the_files_of_the_node_come_before_the_machines() {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        assert_eq!(read(&paths).unwrap().users.get("root"), Some(&HostIds::ROOT));
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "media:x:1005:1006::/:\n").unwrap();
        let accounts = read(&paths).unwrap();
        assert_eq!(accounts.users, [("media".to_owned(), HostIds::new(1005, 1006))].into());
        assert_eq!(accounts.groups.get("root"), Some(&0));
    }
}
