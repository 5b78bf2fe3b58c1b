//! The reader of a conf, line by line (`PVE::LXC::Config::parse_pct_config`).
//!
//! Every line is taken by the first of its patterns that matches, in Proxmox's order; the
//! functions below are those patterns.

use bstr::{BString, ByteSlice};

use crate::conf::lxc_key::{self, Verdict};
use crate::conf::schema;
use crate::conf::section::Section;
use crate::conf::text::{
    NotAReference, decode_text, is_space, is_true, trim, trim_end, trim_start,
};
use crate::conf::{Conf, ConfError, Digest};
use crate::ids::Ctid;

/// The key of the raw lines that are kept as the property `env`.
pub(crate) const RUNTIME_ENVIRONMENT: &str = "lxc.environment.runtime";

/// A name that only stands for waiting deletions in `[pve:pending]`.
const DELETE: &str = "delete";

/// The snapshot in which Proxmox takes a `delete` line, for it confuses it with `[pve:pending]`.
const SNAPSHOT_LIKE_PENDING: &str = "pending";

/// Properties of the current section under which Proxmox keeps its own tables.
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const PENDING: &str = "pending";

/// The property under which Proxmox keeps the digest.
const DIGEST: &str = "digest";

/// The state of a snapshot being made or removed; without meaning in the current section.
const SNAPSTATE: &str = "snapstate";

/// Where the lines being read belong.
pub(crate) enum Place {
    Current,
    Pending,
    Snapshot(String),
}

struct Reader {
    ctid: Ctid,
    conf: Conf,
    place: Place,
    description: BString,
}

/// Reads a conf.
pub(crate) fn parse(ctid: Ctid, bytes: &[u8]) -> Result<Conf, ConfError> {
    let conf = Conf::empty(Digest::of(bytes));
    let mut reader = Reader { ctid, conf, place: Place::Current, description: BString::default() };
    for line in bytes.split(|b| *b == b'\n') {
        if let Err(cause) = reader.line(line) {
            let Conf { warnings, digest, .. } = reader.conf;
            return Err(ConfError { cause, warnings, digest });
        }
    }
    reader.end_section();
    reader.conf.current.remove(SNAPSTATE);
    Ok(reader.conf)
}

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), NotAReference> {
        if line.iter().all(|b| is_space(*b)) {
            return Ok(());
        }
        if let Some(place) = header(line) {
            return self.start_section(place);
        }
        if let Some(comment) = line.strip_prefix(b"#") {
            self.description.extend_from_slice(&decode_text(comment));
            self.description.push(b'\n');
        } else if let Some((key, value)) = raw_line(line) {
            return self.raw_line(line, key, value);
        } else if let Some(text) = named(line, "description") {
            self.description.extend_from_slice(&decode_text(text));
        } else if let Some(state) = snapstate(line) {
            self.section().set(SNAPSTATE, state);
        } else if let Some(list) = named(line, DELETE) {
            self.delete(list);
        } else if let Some((name, value)) = property(line) {
            self.property(name, value);
        } else {
            self.warn("unable to parse config: ", line);
        }
        Ok(())
    }

    fn start_section(&mut self, place: Place) -> Result<(), NotAReference> {
        self.end_section();
        match &place {
            Place::Current => {}
            Place::Pending => {
                self.conf.current.remove(PENDING);
                self.conf.pending = super::Pending::default();
            }
            Place::Snapshot(name) => {
                if let Some(text) = self.conf.current.get(SNAPSHOTS) {
                    return Err(NotAReference::hash(text));
                }
                self.conf.snapshots.insert(name.clone(), Section::default());
            }
        }
        self.place = place;
        Ok(())
    }

    fn end_section(&mut self) {
        let description = std::mem::take(&mut self.description);
        if is_true(&description) {
            self.section().set("description", description);
        }
    }

    fn section(&mut self) -> &mut Section {
        match &self.place {
            Place::Current => &mut self.conf.current,
            Place::Pending => &mut self.conf.pending.section,
            Place::Snapshot(name) => self.conf.snapshots.entry(name.clone()).or_default(),
        }
    }

    fn raw_line(&mut self, line: &[u8], key: &str, value: &[u8]) -> Result<(), NotAReference> {
        let warning = match lxc_key::verdict(key) {
            Verdict::Valid if key == RUNTIME_ENVIRONMENT => {
                self.section().push_env(value);
                return Ok(());
            }
            Verdict::Valid => None,
            Verdict::Renamed(name) => {
                Some(format!("{key} is deprecated and was renamed to {name}"))
            }
            Verdict::OldLimit => Some(format!("{key}: lxc.limit.* was renamed to lxc.prlimit.*")),
            Verdict::OldCgroup => {
                Some(format!("{key} is deprecated, this will be a hard error in the future!"))
            }
            Verdict::Refused(why) => {
                self.warn(&format!("{key}: {why}"), b"");
                return Ok(());
            }
            Verdict::Unknown => {
                self.warn("unable to parse config: ", line);
                return Ok(());
            }
        };
        if let Some(text) = warning {
            self.warn(&text, b"");
        }
        self.section().push_lxc(key, value)
    }

    fn delete(&mut self, list: &[u8]) {
        match &self.place {
            Place::Pending => self.conf.pending.set_delete_line(Some(list.into())),
            Place::Snapshot(name) if name == SNAPSHOT_LIKE_PENDING => {
                self.section().set(DELETE, list);
            }
            Place::Current | Place::Snapshot(_) => {
                self.warn("property 'delete' is only allowed in [pve:pending]", b"");
            }
        }
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let value = match schema::check(name, value) {
            Ok(value) => value,
            Err(complaint) => {
                let vm = self.ctid;
                let before = format!("vm {vm} - unable to parse value of '{name}' - ");
                self.conf.warnings.push([before.as_bytes(), &complaint.0].concat().into());
                value.into()
            }
        };
        match (&self.place, name) {
            (Place::Current, DIGEST) => self.conf.digest_overridden = Some(value),
            (Place::Pending, DELETE) => self.conf.pending.set_delete_line(Some(value)),
            _ => self.section().set(name, value),
        }
    }

    fn warn(&mut self, text: &str, line: &[u8]) {
        let before = format!("vm {} - {text}", self.ctid);
        self.conf.warnings.push([before.as_bytes(), line, b"\n"].concat().into());
    }
}

/// `[pve:pending]` or `[<name>]`, with blanks after it or without.
pub(crate) fn header(line: &[u8]) -> Option<Place> {
    let name = trim_end(line).strip_prefix(b"[")?.strip_suffix(b"]")?;
    if name.eq_ignore_ascii_case(b"pve:pending") {
        return Some(Place::Pending);
    }
    let name = schema::is_config_id(name).then(|| name.to_str().ok()).flatten()?;
    Some(Place::Snapshot(name.to_owned()))
}

/// `lxc.<key>` with a colon right behind it, or an equal sign with blanks before it or without.
pub(crate) fn raw_line(line: &[u8]) -> Option<(&str, &[u8])> {
    let is_key = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(b);
    let length = line.iter().take_while(|b| is_key(b)).count();
    let (key, rest) = line.split_at(length);
    let value = rest.strip_prefix(b":").or_else(|| trim_start(rest).strip_prefix(b"="))?;
    let key = key.to_str().ok().filter(|key| key.len() > 4 && key.starts_with("lxc."))?;
    Some((key, trim(value)))
}

/// A line of a name with a colon right behind it and some text.
fn named<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    let value = trim(line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?);
    (!value.is_empty()).then_some(value)
}

/// `snapstate: prepare` or `delete` at the end of a line, whatever is before it.
fn snapstate(line: &[u8]) -> Option<&'static str> {
    let line = trim_end(line);
    ["prepare", "delete"].into_iter().find(|state| {
        let before = line.strip_suffix(state.as_bytes());
        before.is_some_and(|before| trim_end(before).ends_with(b"snapstate:"))
    })
}

/// `[a-z][a-z_]*` and digits, a colon right behind it, and a value.
fn property(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let digits = name.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let word = &name[..name.len() - digits];
    let is_name = word.first().is_some_and(u8::is_ascii_lowercase)
        && word.iter().all(|b| b.is_ascii_lowercase() || *b == b'_');
    let name = is_name.then(|| name.to_str().ok()).flatten()?;
    // The pattern `\s*(.+?)\s*$` gives back one blank where there is nothing else.
    let value = match trim(value) {
        [] => value.get(value.len().checked_sub(1)?..)?,
        value => value,
    };
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Conf {
        parse(Ctid::new(100).unwrap(), text.as_bytes()).unwrap()
    }

    /// Which of the patterns takes a line, seen by what becomes of it.
    #[test]
    fn a_line_is_taken_by_the_first_pattern_that_matches() {
        for (line, written) in [
            ("onboot: yes", "onboot: 1\n"),
            ("onboot:yes\t\r", "onboot: 1\n"),
            ("foo_bar2: x: y", "foo_bar2: x: y\n"),
            ("x:  \t", "x: \t\n"),
            ("lxc.idmap = u 0 1 2", "lxc.idmap: u 0 1 2\n"),
            ("lxc.idmap:", "lxc.idmap: \n"),
            ("lxc.idmap:= x", "lxc.idmap: = x\n"),
            ("lxc.environment.runtime=A=1", "lxc.environment.runtime: A=1\n"),
            ("#a: b", "#a%3A b\n"),
            ("description: a%3A", "#a%3A\n"),
            ("description: 0", ""),
            ("description: ", "# \n"),
            ("# a snapstate: delete", "# a snapstate%3A delete\n"),
            ("xy snapstate: delete", ""),
            ("snapstate: other", ""),
            ("snapname: x", ""),
            ("digest: x", ""),
        ] {
            let conf = read(line);
            let text = BString::from(conf.rewritten().unwrap());
            assert_eq!(text, written, "{line:?}");
            assert!(!conf.warnings.iter().any(|w| w.contains_str("parse config")), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_no_pattern_takes_is_warned_about() {
        for line in [
            "onboot : 1",
            " onboot: 1",
            "onboot = 1",
            "Onboot: 1",
            "a1b: c",
            "_a: b",
            "a:",
            "lxc.idmap : u",
            "lxc.idmap u",
            "lxc.bogus: 1",
            "lxc.: 1",
            "[a]",
            "[1abc]",
            "[a b]",
            "[pve:pending",
            " [snap]",
            "\u{feff}a: b",
        ] {
            let conf = read(line);
            assert_eq!(conf.warnings, [format!("vm 100 - unable to parse config: {line}\n")]);
            assert!(conf.current.is_empty() && conf.snapshots.is_empty(), "{line}");
        }
    }

    #[test]
    fn later_lines_and_sections_replace_earlier_ones() {
        let conf =
            read("a: 1\na: 2\n[s1]\nb: 1\n[PVE:pending] \nc: 1\n[s1]\nd: 1\n[pve:pending]\ne: 1");
        assert_eq!(conf.current.get("a").unwrap(), "2");
        assert_eq!(conf.pending.section.properties().keys().collect::<Vec<_>>(), ["e"]);
        assert_eq!(conf.snapshots["s1"].properties().keys().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn deletions_belong_to_the_pending_section_or_what_looks_like_it() {
        let warning = "vm 100 - property 'delete' is only allowed in [pve:pending]\n";
        let conf = read(
            "delete: mp0\n[pve:pending]\ndelete: mp1\n[s1]\ndelete: mp2\n[pending]\ndelete: mp3",
        );
        assert_eq!(conf.warnings, [warning, warning]);
        assert!(conf.pending.is_deleted("mp1") && conf.pending.deletes().len() == 1);
        assert_eq!(conf.snapshots["pending"].get("delete").unwrap(), "mp3");
    }

    #[test]
    fn a_property_in_place_of_a_table_is_deadly_once_the_table_is_needed() {
        let dies = |text: &str| {
            let error = parse(Ctid::new(100).unwrap(), text.as_bytes()).unwrap_err();
            (error.cause, error.warnings.len())
        };
        assert_eq!(dies("lxc: foo\nlxc.idmap: u 0 1 2"), (NotAReference::array(b"foo"), 1));
        assert_eq!(dies("snapshots: foo\n[s1]"), (NotAReference::hash(b"foo"), 1));
        let conf = read("lxc.idmap: u 0 1 2\nlxc: foo");
        assert!(conf.current.lxc().is_empty() && !conf.has_custom_idmap());
        assert!(conf.effective_idmap().is_err() && conf.rewritten().is_err());
        assert!(read("pending: foo").rewritten().is_err());
        assert!(read("pending: foo\n[pve:pending]\na: 1").rewritten().is_ok());
    }
}
