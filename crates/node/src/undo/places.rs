//! Where the records are that are to be taken back, in the order in which that is done.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;

use pctd_core::undo::{Block, Entries};

use super::store::{self, Frames, Kept};

/// What is to be taken back, the newest first.
pub(super) struct Plan<'k> {
    kept: Vec<(&'k Kept, u64)>,
    pub(super) places: Vec<Place>,
}

/// Where a record is.
pub(super) struct Place {
    time: u64,
    /// Which of the files.
    file: usize,
    at: u64,
}

impl<'k> Plan<'k> {
    /// Finds everything that was recorded at `from` or later.
    pub(super) fn read(all: &'k [Kept], from: u64) -> io::Result<Self> {
        let mut plan = Self { kept: Vec::new(), places: Vec::new() };
        for kept in all {
            let mut frames = Frames::open(&kept.path)?;
            let mut first = None;
            let file = plan.kept.len();
            while let Some((at, block)) = frames.next()? {
                if let Block::Entries(Entries { time, .. }) = block
                    && time >= from
                {
                    first.get_or_insert(at);
                    plan.places.push(Place { time, file, at });
                }
            }
            // One that began then goes as a whole; of an earlier one what came later.
            let is_whole = kept.header.begun >= from;
            if let Some(cut) = if is_whole { Some(0) } else { first } {
                plan.kept.push((kept, cut));
            }
        }
        plan.places.sort_by_key(|place| std::cmp::Reverse((place.time, place.file, place.at)));
        Ok(plan)
    }

    pub(super) fn passes(&self) -> impl Iterator<Item = &'k Kept> {
        self.kept.iter().map(|(kept, _)| *kept)
    }

    /// Removes the records.
    pub(super) fn forget(&self) -> io::Result<()> {
        for (kept, cut) in &self.kept {
            let file = OpenOptions::new().write(true).open(&kept.path)?;
            if !store::lock(&file)? {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            match cut {
                0 => fs::remove_file(&kept.path)?,
                cut => file.set_len(*cut)?,
            }
        }
        Ok(())
    }
}

impl Place {
    pub(super) fn read(
        &self,
        plan: &Plan<'_>,
        files: &mut BTreeMap<usize, Frames<fs::File>>,
    ) -> io::Result<Entries> {
        let frames = match files.entry(self.file) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                none.insert(Frames::open_at_random(&plan.kept[self.file].0.path)?)
            }
        };
        frames.go_to(self.at)?;
        match frames.next()? {
            Some((_, Block::Entries(entries))) => Ok(entries),
            // It was whole a moment ago.
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
