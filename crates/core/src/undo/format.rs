//! The bytes of a record.
//!
//! A file is a row of frames, each of them written with one call before what it speaks of is done: the
//! length of the payload (4 bytes), the payload, and 8 bytes of its SHA-1. The first one has the
//! header, a last one says that the pass came to its end. A file that was cut off is good up to
//! there. Numbers are little-endian; in front of whatever varies in length stands its length.
//!
//! An entry of a million alike takes 25 bytes and its name: most are changed from the same owner and
//! mode to the same, which is noted once.

use super::{Directory, Entries, Entry, Header, Identity, PassKind, State};
use crate::conf::Digest;
use crate::ids::HostIds;

/// Changes with what follows.
const VERSION: u8 = 1;
const HEADER: u8 = b'H';
const ENTRIES: u8 = b'D';
const END: u8 = b'E';

/// Bytes of a frame before its payload.
pub const FRAME_BYTES: usize = 4;
const CHECK_BYTES: usize = 8;
/// The longest payload that is written or read.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The length of the frame at the end of a whole pass.
pub const END_BYTES: usize = FRAME_BYTES + 1 + 8 + CHECK_BYTES;

/// An entry is changed as the one before it.
const AS_BEFORE: u8 = 1;

/// One frame of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// What the pass was of.
    Header(Header),
    /// What it was about to change.
    Entries(Entries),
    /// It came to its end, at this time.
    End(u64),
}

/// The beginning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// How many bytes follow.
    pub len: usize,
}

impl Frame {
    /// Reads the beginning of a frame; none where it cannot be one.
    pub fn read(head: [u8; FRAME_BYTES]) -> Option<Self> {
        let payload = usize::try_from(u32::from_le_bytes(head)).ok()?;
        (payload > 0 && payload <= MAX_PAYLOAD).then_some(Self { len: payload + CHECK_BYTES })
    }
}

impl Block {
    /// Returns the block as a frame; none where it is too long for one.
    pub fn to_frame(&self) -> Option<Vec<u8>> {
        let mut out = Writer(vec![0; FRAME_BYTES]);
        match self {
            Self::Header(header) => out.header(header)?,
            Self::Entries(entries) => out.entries(entries)?,
            Self::End(time) => {
                out.byte(END);
                out.u64(*time);
            }
        }
        let mut bytes = out.0;
        let payload = bytes.len() - FRAME_BYTES;
        if payload > MAX_PAYLOAD {
            return None;
        }
        bytes[..FRAME_BYTES].copy_from_slice(&u32::try_from(payload).ok()?.to_le_bytes());
        let check = Digest::of(&bytes[FRAME_BYTES..]).prefix();
        bytes.extend(check.to_le_bytes());
        Some(bytes)
    }

    /// Reads what follows the beginning of a frame; none where it is not whole, or of another version.
    pub fn read(rest: &[u8]) -> Option<Self> {
        let (payload, check) = rest.split_last_chunk::<CHECK_BYTES>()?;
        if u64::from_le_bytes(*check) != Digest::of(payload).prefix() {
            return None;
        }
        let mut from = Reader(payload);
        let block = match from.byte()? {
            HEADER => Self::Header(from.header()?),
            ENTRIES => Self::Entries(from.entries()?),
            END => Self::End(from.u64()?),
            _ => return None,
        };
        from.0.is_empty().then_some(block)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) -> Option<()> {
        self.0.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        self.0.extend(value);
        Some(())
    }

    fn header(&mut self, header: &Header) -> Option<()> {
        let Header { kind, begun, rule, file_system, root } = header;
        self.byte(HEADER);
        self.byte(VERSION);
        self.byte(match kind {
            PassKind::Walk => 0,
            PassKind::Drift => 1,
            PassKind::Shift => 2,
        });
        self.u64(*begun);
        self.bytes(rule.as_bytes())?;
        self.bytes(file_system.as_bytes())?;
        self.u64(root.inode);
        self.u32(root.birth);
        self.bytes(&root.handle)
    }

    fn entries(&mut self, entries: &Entries) -> Option<()> {
        self.byte(ENTRIES);
        self.u64(entries.time);
        let (kind, directory) = match &entries.directory {
            Directory::Handle(handle) => (0, handle),
            Directory::Path(path) => (1, path),
        };
        self.byte(kind);
        self.bytes(directory)?;
        self.u32(u32::try_from(entries.entries.len()).ok()?);
        let mut last = None;
        for entry in &entries.entries {
            let change = (entry.before, entry.after);
            let flags = if last == Some(change) { AS_BEFORE } else { 0 };
            self.byte(flags);
            self.bytes(&entry.name)?;
            self.u64(entry.inode);
            self.u32(entry.birth);
            if flags & AS_BEFORE == 0 {
                self.state(entry.before);
                self.state(entry.after);
            }
            last = Some(change);
        }
        Some(())
    }

    fn state(&mut self, state: State) {
        self.u32(state.ids.uid);
        self.u32(state.ids.gid);
        self.u32(state.mode);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }

    fn byte(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(u16::from_le_bytes(self.chunk()?));
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn header(&mut self) -> Option<Header> {
        if self.byte()? != VERSION {
            return None;
        }
        let kind = match self.byte()? {
            0 => PassKind::Walk,
            1 => PassKind::Drift,
            2 => PassKind::Shift,
            _ => return None,
        };
        let (begun, rule, file_system) = (self.u64()?, self.text()?, self.text()?);
        let (inode, birth) = (self.u64()?, self.u32()?);
        let root = Identity { inode, birth, handle: self.bytes()?.to_vec() };
        Some(Header { kind, begun, rule, file_system, root })
    }

    fn entries(&mut self) -> Option<Entries> {
        let time = self.u64()?;
        let kind = self.byte()?;
        let directory = self.bytes()?.to_vec();
        let directory = match kind {
            0 => Directory::Handle(directory),
            1 => Directory::Path(directory),
            _ => return None,
        };
        // Not trusted for how much memory is taken: each entry has to be there.
        let count = self.u32()?;
        let mut entries = Vec::new();
        let mut last = None;
        for _ in 0..count {
            let flags = self.byte()?;
            let name = self.bytes()?.to_vec();
            let (inode, birth) = (self.u64()?, self.u32()?);
            let (before, after) = match (flags, last) {
                (0, _) => (self.state()?, self.state()?),
                (AS_BEFORE, Some(change)) => change,
                _ => return None,
            };
            last = Some((before, after));
            entries.push(Entry { name, inode, birth, before, after });
        }
        Some(Entries { time, directory, entries })
    }

    fn state(&mut self) -> Option<State> {
        let (uid, gid, mode) = (self.u32()?, self.u32()?, self.u32()?);
        // More than mode bits was never written, and must never be set.
        (mode <= crate::modes::MODE_BITS).then_some(State { ids: HostIds::new(uid, gid), mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> [Block; 4] {
        let state = |uid, mode| State { ids: HostIds::new(uid, uid), mode };
        let entry = |name: &[u8], uid| Entry {
            name: name.to_vec(),
            inode: 1 << 40,
            birth: 7,
            before: state(uid, 0o4755),
            after: state(100_000, 0o775),
        };
        let root = Identity { inode: 9, birth: 8, handle: vec![1, 2, 3] };
        let (rule, file_system) = ("rule".to_owned(), "ext4 8:1".to_owned());
        let entries = vec![entry(b"a", 0), entry(b"\xff\n", 0), entry(b"c", 33)];
        let path = Directory::Path(b"a/b".to_vec());
        [
            Block::Header(Header { kind: PassKind::Shift, begun: 5, rule, file_system, root }),
            Block::Entries(Entries { time: 6, directory: Directory::Handle(vec![4; 12]), entries }),
            Block::Entries(Entries { time: 7, directory: path, entries: vec![entry(b".", 1)] }),
            Block::End(8),
        ]
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for block in blocks() {
            let bytes = block.to_frame().unwrap();
            let (head, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(Frame::read(*head), Some(Frame { len: rest.len() }));
            assert_eq!(Block::read(rest), Some(block.clone()));
            if let Block::End(_) = block {
                assert_eq!(bytes.len(), END_BYTES);
            }
        }
    }

    #[test]
    fn what_is_spoilt_or_cut_off_is_not_read() {
        for block in blocks() {
            let bytes = block.to_frame().unwrap();
            let rest = &bytes[FRAME_BYTES..];
            for len in 0..rest.len() {
                assert_eq!(Block::read(&rest[..len]), None);
            }
            for at in 0..rest.len() {
                let mut spoilt = rest.to_vec();
                spoilt[at] ^= 0x10;
                assert_eq!(Block::read(&spoilt), None);
            }
        }
    }

    /// As if whoever wrote it had not known the format.
    #[test]
    fn a_payload_that_is_whole_and_makes_no_sense_is_not_read() {
        for block in blocks() {
            let bytes = block.to_frame().unwrap();
            let payload = &bytes[FRAME_BYTES..bytes.len() - CHECK_BYTES];
            let read = |payload: &[u8]| {
                let check = Digest::of(payload).prefix().to_le_bytes();
                Block::read(&[payload, &check].concat())
            };
            for len in 0..payload.len() {
                assert_eq!(read(&payload[..len]), None, "{len} bytes of {block:?}");
            }
            assert_eq!(read(&[payload, b"x"].concat()), None);
            for (at, byte) in (0..payload.len()).flat_map(|at| [0, 1, 0x7f, 0xff].map(|b| (at, b)))
            {
                let mut other = payload.to_vec();
                other[at] = byte;
                // Whatever it says, it ends and takes no more memory than there are bytes.
                let _ = read(&other);
            }
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_not_written() {
        let [_, Block::Entries(mut entries), ..] = blocks() else { panic!() };
        entries.entries[0].name = vec![b'x'; 1 << 16];
        assert_eq!(Block::Entries(entries).to_frame(), None);
        assert_eq!(Frame::read(0_u32.to_le_bytes()), None);
        assert_eq!(Frame::read(u32::MAX.to_le_bytes()), None);
    }
}
