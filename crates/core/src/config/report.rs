//! Collects what is to be said about a set of files, and puts it in the order of the files.

use super::document::{Document, Spot};
use super::json::Fault;
use super::place::{Note, Place, Problem, Problems, Severity};

/// How mistakes count that have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// They are warnings.
    #[default]
    Lenient,
    /// They are problems.
    Strict,
}

/// What is wrong with a value, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) remedy: Option<String>,
}

impl Complaint {
    /// Returns a complaint that offers nothing better.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None }
    }

    /// Adds what to write.
    pub(super) fn or(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Returns both in one line.
    pub(super) fn into_line(self) -> String {
        match self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.message),
            None => self.message,
        }
    }
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Report<'d> {
    documents: &'d [Document],
    strictness: Strictness,
    problems: Vec<(Spot, Problem)>,
    notes: Vec<(Spot, Note)>,
}

impl<'d> Report<'d> {
    /// Returns an empty report on these files.
    pub(super) const fn new(documents: &'d [Document], strictness: Strictness) -> Self {
        Self { documents, strictness, problems: Vec::new(), notes: Vec::new() }
    }

    /// Returns the place for display.
    pub(super) fn place(&self, spot: &Spot) -> Place {
        self.documents[spot.file].place(spot.offset, &spot.json_path)
    }

    /// Adds a mistake.
    pub(super) fn problem(&mut self, spot: &Spot, complaint: Complaint) {
        let Complaint { message, remedy } = complaint;
        let place = self.place(spot);
        self.problems.push((spot.clone(), Problem { place, message, remedy }));
    }

    /// Returns whether nothing is wrong with these keys of the object at `spot`.
    ///
    /// What contradicts something else only because of a mistake reported already is not worth a
    /// second message.
    pub(super) fn is_sound(&self, spot: &Spot, keys: &[&str]) -> bool {
        let within = |problem: &Spot| {
            let rest = problem.json_path.strip_prefix(&spot.json_path)?.strip_prefix('.')?;
            Some(keys.contains(&rest.split('.').next().unwrap_or(rest)))
        };
        !self.problems.iter().any(|(at, _)| at.file == spot.file && within(at) == Some(true))
    }

    /// Adds a mistake that has no effect: a problem only for the strict.
    pub(super) fn slip(&mut self, spot: &Spot, complaint: Complaint) {
        match self.strictness {
            Strictness::Strict => self.problem(spot, complaint),
            Strictness::Lenient => {
                self.warn(spot, complaint.into_line());
            }
        }
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, spot: &Spot, message: impl Into<String>) {
        self.note(spot, Severity::Warning, message.into());
    }

    /// Adds something that pctd does nothing with.
    pub(super) fn ignored(&mut self, spot: &Spot, message: impl Into<String>) {
        self.note(spot, Severity::Ignored, message.into());
    }

    /// Adds what is no JSON in file number `file`.
    pub(super) fn fault(&mut self, file: usize, fault: Fault) {
        let Fault { offset, json_path, mut message, also, remedy } = fault;
        if let Some(also) = also {
            message.push_str(", first at ");
            message.push_str(&self.documents[file].place(also, "").position());
        }
        self.problem(&Spot { file, offset, json_path }, Complaint { message, remedy });
    }

    /// Returns the notes, or everything when something is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Note>, Problems> {
        self.problems.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.notes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let notes = self.notes.into_iter().map(|(_, note)| note).collect();
        if self.problems.is_empty() {
            return Ok(notes);
        }
        let problems = self.problems.into_iter().map(|(_, problem)| problem).collect();
        Err(Problems { problems, notes })
    }

    fn note(&mut self, spot: &Spot, severity: Severity, message: String) {
        let place = self.place(spot);
        self.notes.push((spot.clone(), Note { severity, place, message }));
    }
}
