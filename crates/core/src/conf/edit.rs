//! A direct edit of a conf: raw lines of the current section come and go, and every other byte
//! stays where it is.
//!
//! `pct set` cannot touch raw lines (PROXMOX.md 3), and what it writes it writes anew as a whole.
//! So the text is changed here, line by line, and what came of it is read again and compared before
//! anybody writes it.

use bstr::ByteSlice as _;

use crate::conf::parse::{header, raw_line};
use crate::conf::raw_line::RawLine;
use crate::conf::text::is_space;
use crate::conf::{Conf, ConfError};
use crate::ids::Ctid;

/// The most bytes that a file on pmxcfs may have; of one byte more a truncated file stays.
const MOST_BYTES: usize = 1 << 20;

/// Raw lines to go and to come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawEdit {
    /// Lines that go, each once.
    pub remove: Vec<RawLine>,
    /// Lines that come, in this order behind all others of the section.
    pub add: Vec<RawLine>,
}

/// Why a conf is not edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A line that is to go is not there.
    #[error("`{0}` is not there any more")]
    Missing(RawLine),
    /// Proxmox could not read the conf.
    #[error("the conf cannot be read: {0}")]
    Unreadable(#[from] ConfError),
    /// Something else than the lines would change.
    #[error("the conf has a property `lxc`, which stands in the way of raw lines; remove that")]
    InTheWay,
    /// It would be longer than pmxcfs takes.
    #[error("the conf would have {0} bytes, more than pmxcfs takes")]
    TooLong(usize),
}

impl RawEdit {
    /// Returns the conf with the edit made.
    ///
    /// # Errors
    ///
    /// [`EditError`]; the edit is made as a whole or not at all.
    pub fn apply(&self, ctid: Ctid, bytes: &[u8]) -> Result<Vec<u8>, EditError> {
        let mut going: Vec<&RawLine> = self.remove.iter().collect();
        let mut edited = Vec::with_capacity(bytes.len() + 64 * self.add.len());
        // Where the last line of the current section ends that is not blank.
        let mut end = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.find_byte(b'\n').map_or(rest.len(), |at| at + 1);
            let (whole, after) = rest.split_at(length);
            let line = whole.strip_suffix(b"\n").unwrap_or(whole);
            if header(line).is_some() {
                break;
            }
            rest = after;
            if going_at(&going, line).map(|at| going.remove(at)).is_some() {
                continue;
            }
            edited.extend_from_slice(whole);
            if !line.iter().all(|byte| is_space(*byte)) {
                end = edited.len();
            }
        }
        if let Some(missing) = going.first() {
            return Err(EditError::Missing((*missing).clone()));
        }
        let blank = edited.split_off(end);
        if !self.add.is_empty() && edited.last().is_some_and(|byte| *byte != b'\n') {
            edited.push(b'\n');
        }
        for line in &self.add {
            edited.extend_from_slice(line.to_string().as_bytes());
            edited.push(b'\n');
        }
        edited.extend_from_slice(&blank);
        edited.extend_from_slice(rest);
        if edited.len() > MOST_BYTES {
            return Err(EditError::TooLong(edited.len()));
        }
        self.check(ctid, bytes, &edited)?;
        Ok(edited)
    }

    /// Reads both as Proxmox does: nothing but the lines may differ.
    fn check(&self, ctid: Ctid, before: &[u8], after: &[u8]) -> Result<(), EditError> {
        let after = Conf::parse(ctid, after)?;
        let mut expected = Conf::parse(ctid, before)?;
        expected.digest = after.digest;
        let mut lines = expected.current.lxc().to_vec();
        for line in &self.remove {
            if let Some(at) = lines.iter().position(|(key, value)| line.is(key, value.as_ref())) {
                lines.remove(at);
            }
        }
        lines.extend(self.add.iter().map(|line| (line.key().to_owned(), line.value().into())));
        expected.current.set_lxc(lines);
        if expected == after { Ok(()) } else { Err(EditError::InTheWay) }
    }
}

/// Returns which of the lines that go this is.
fn going_at(going: &[&RawLine], line: &[u8]) -> Option<usize> {
    let (key, value) = raw_line(line)?;
    going.iter().position(|going| going.is(key, value.as_bstr()))
}

#[cfg(test)]
mod tests {
    use bstr::{BStr, ByteSlice as _};
    use proptest::prelude::*;

    use super::*;

    fn lines(texts: &[&str]) -> Vec<RawLine> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn edited(text: &str, remove: &[&str], add: &[&str]) -> Result<String, String> {
        let edit = RawEdit { remove: lines(remove), add: lines(add) };
        let bytes = edit.apply(Ctid::new(100).unwrap(), text.as_bytes());
        bytes.map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_come_behind_the_current_section_and_nothing_else_moves() {
        let text = "#note %\nmp10: b\nlxc.cap.drop =  x \n\ngarbage\r\nmp2: a\n\n[pve:pending]\nlxc.cap.drop: x\n\n[snap]\nlxc.idmap: u 0 1 2\n";
        let expected = "#note %\nmp10: b\n\ngarbage\r\nmp2: a\nlxc.idmap: u 0 5 6\nlxc.idmap: g 0 5 6\n\n[pve:pending]\nlxc.cap.drop: x\n\n[snap]\nlxc.idmap: u 0 1 2\n";
        let add = ["lxc.idmap: u 0 5 6", "lxc.idmap = g 0 5 6"];
        assert_eq!(edited(text, &["lxc.cap.drop: x"], &add).unwrap(), expected);
    }

    #[test]
    fn a_conf_without_an_end_of_line_gets_one() {
        let add = ["lxc.cap.drop: x"];
        assert_eq!(edited("arch: amd64", &[], &add).unwrap(), "arch: amd64\nlxc.cap.drop: x\n");
        assert_eq!(edited("a: 1\n\n", &[], &add).unwrap(), "a: 1\nlxc.cap.drop: x\n\n");
        assert_eq!(edited("", &[], &add).unwrap(), "lxc.cap.drop: x\n");
    }

    #[test]
    fn of_equal_lines_as_many_go_as_are_named() {
        let text = "lxc.cap.drop: x\nlxc.cap.drop=x\n[s1]\nlxc.cap.drop: x\n";
        let x = "lxc.cap.drop: x";
        assert_eq!(edited(text, &[x], &[]).unwrap(), "lxc.cap.drop=x\n[s1]\nlxc.cap.drop: x\n");
        assert_eq!(edited(text, &[x, x], &[]).unwrap(), "[s1]\nlxc.cap.drop: x\n");
        // Those of a snapshot do not count.
        assert_eq!(
            edited(text, &[x, x, x], &[]).unwrap_err(),
            "`lxc.cap.drop: x` is not there any more"
        );
    }

    #[test]
    fn a_line_in_a_comment_is_no_line() {
        let text = "#lxc.cap.drop: x\n lxc.cap.drop: x\n";
        assert!(edited(text, &["lxc.cap.drop: x"], &[]).is_err());
    }

    #[test]
    fn what_would_change_more_than_the_lines_is_refused() {
        // The property takes the place of Proxmox's table of raw lines.
        assert!(edited("lxc: foo\n", &[], &["lxc.cap.drop: x"]).is_err());
        assert!(edited("arch: a\nlxc: foo\n", &[], &["lxc.cap.drop: x"]).is_err());
        let long = "x".repeat(MOST_BYTES);
        assert!(
            edited(&format!("#{long}"), &[], &["lxc.cap.drop: x"]).unwrap_err().contains("bytes")
        );
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "mp0: /srv/a,mp=/a,ro=1",
            "lxc.idmap = u 0 100000 65536",
            "lxc.cap.drop: x",
            " lxc.cap.drop: x",
            "lxc.cap.drop=x",
            "#lxc.cap.drop: x",
            "snapstate: delete",
            "[pve:pending]",
            "[snap]",
            "[other] ",
            "delete: mp0",
            "garbage",
            "",
            "  ",
            "\r",
        ]);
        let odd = prop::collection::vec(
            prop::sample::select(b"[]:=#%, \t\ra0lxc./mp\xff".to_vec()),
            0..8,
        );
        prop_oneof![4 => known.prop_map(|line| line.as_bytes().to_vec()), 1 => odd]
    }

    fn any_text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any_line(), 0..14).prop_map(|lines| lines.join(&b'\n'))
    }

    proptest! {
        /// What was added and is removed again leaves the bytes that were there, up to the end of
        /// a last line that had none.
        #[test]
        fn an_edit_and_its_reverse_leave_every_byte(text in any_text(), twice in any::<bool>()) {
            let ctid = Ctid::new(100).unwrap();
            let mut add = lines(&["lxc.idmap: u 0 5 6"]);
            if twice {
                add.extend(lines(&["lxc.mount.entry: /a b none bind 0 0"]));
            }
            let there = RawEdit { remove: Vec::new(), add: add.clone() }.apply(ctid, &text).unwrap();
            let back = RawEdit { remove: add, add: Vec::new() }.apply(ctid, &there).unwrap();
            let mut whole = text.clone();
            if back.len() > text.len() {
                whole.push(b'\n');
            }
            prop_assert_eq!(back.as_bstr(), whole.as_bstr());
        }

        /// Every line but those of the edit is there as before, in the same order.
        #[test]
        fn other_lines_stay_in_order(text in any_text()) {
            let ctid = Ctid::new(100).unwrap();
            let remove = lines(&["lxc.cap.drop: x"]);
            let edit = RawEdit { remove, add: lines(&["lxc.idmap: u 0 5 6"]) };
            let Ok(after) = edit.apply(ctid, &text) else { return Ok(()) };
            let is_x = |line: &&[u8]| raw_line(line) == Some(("lxc.cap.drop", &b"x"[..]));
            let mut before: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
            let at = before.iter().position(is_x).unwrap();
            before.remove(at);
            let mut now: Vec<&[u8]> = after.split(|b| *b == b'\n').collect();
            let added = now.iter().position(|line| *line == b"lxc.idmap: u 0 5 6").unwrap();
            now.remove(added);
            let filled = |lines: Vec<&[u8]>| -> Vec<Vec<u8>> {
                lines.into_iter().filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect()
            };
            let show = |lines: &Vec<Vec<u8>>| format!("{:?}", lines.iter().map(BStr::new).collect::<Vec<_>>());
            let (before, now) = (filled(before), filled(now));
            prop_assert_eq!(show(&before), show(&now));
        }
    }
}
