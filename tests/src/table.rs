//! Tables of a benchmark, for a terminal or as Markdown, and targets that are met or missed.

use std::fmt;

/// How tables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Columns of equal width.
    Text,
    /// To be pasted into a document.
    Markdown,
}

/// Rows under headings; the first column is text, the others are figures.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table without rows.
    pub fn new(title: impl Into<String>, headings: &[&str]) -> Self {
        let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
        Self { title: title.into(), rows: vec![headings] }
    }

    /// Adds a row with a cell for each heading.
    ///
    /// # Panics
    ///
    /// It has more or fewer cells.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.rows[0].len(), "{cells:?}");
        self.rows.push(cells);
    }

    /// Prints it to standard output.
    pub fn print(&self, style: Style) {
        print!("{}", self.render(style));
    }

    fn render(&self, style: Style) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let padded = |row: &[String], column: usize| {
            let (cell, width) = (&row[column], widths[column]);
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        let line = |row: &[String]| -> Vec<String> {
            (0..columns).map(|column| padded(row, column)).collect()
        };
        let mut lines = match style {
            Style::Text => vec![String::new(), self.title.clone()],
            Style::Markdown => vec![String::new(), format!("### {}", self.title), String::new()],
        };
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(match style {
                Style::Text => format!("  {}", line(row).join("  ").trim_end()),
                Style::Markdown => format!("| {} |", line(row).join(" | ")),
            });
            if index == 0 && style == Style::Markdown {
                lines.push(format!("|---{}|", "|---:".repeat(columns - 1)));
            }
        }
        lines.join("\n") + "\n"
    }
}

/// What a figure may be at most, or has to be at least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Bound {
    fn admits(self, measured: f64) -> bool {
        match self {
            Self::AtMost(bound) => measured <= bound,
            Self::AtLeast(bound) => measured >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

/// The targets of a benchmark, each with what came of it.
#[derive(Debug, Default)]
pub struct Targets {
    rows: Vec<[String; 4]>,
    missed: usize,
}

impl Targets {
    /// Judges a figure; `None` where it could not be measured, which is no miss and says so.
    pub fn judge(&mut self, what: &str, bound: Bound, unit: &str, measured: Option<f64>) {
        let (shown, verdict) = match measured {
            None => ("-".to_owned(), "not measured"),
            Some(measured) if bound.admits(measured) => (figure(measured), "pass"),
            Some(measured) => {
                self.missed += 1;
                (figure(measured), "MISS")
            }
        };
        self.rows.push([
            what.to_owned(),
            format!("{bound}{unit}"),
            format!("{shown}{}", if measured.is_some() { unit } else { "" }),
            verdict.to_owned(),
        ]);
    }

    /// Prints all of them; returns how many were missed.
    pub fn print(self, style: Style) -> usize {
        let mut table = Table::new("Targets", &["target", "bound", "measured", ""]);
        for row in self.rows {
            table.row(row);
        }
        table.print(style);
        println!();
        match self.missed {
            0 => println!("no target was missed"),
            1 => println!("1 target was MISSED"),
            missed => println!("{missed} targets were MISSED"),
        }
        self.missed
    }
}

/// Returns a figure with as many places as say something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns_or_bars() {
        let mut table = Table::new("Title", &["what", "n"]);
        table.row(["a longer name".into(), "12".into()]);
        assert_eq!(
            table.render(Style::Text),
            "\nTitle\n  what            n\n  a longer name  12\n"
        );
        assert_eq!(
            table.render(Style::Markdown),
            "\n### Title\n\n| what          |  n |\n|---|---:|\n| a longer name | 12 |\n"
        );
    }

    #[test]
    fn a_target_is_missed_only_by_a_figure_beyond_its_bound() {
        let mut targets = Targets::default();
        targets.judge("at the bound", Bound::AtMost(1.15), "x", Some(1.15));
        targets.judge("enough", Bound::AtLeast(5.0), "x", Some(5.1));
        targets.judge("not there", Bound::AtLeast(5.0), "x", None);
        assert_eq!(targets.missed, 0);
        targets.judge("too much", Bound::AtMost(1.0), "x", Some(1.01));
        targets.judge("too little", Bound::AtLeast(5.0), "x", Some(4.9));
        assert_eq!(targets.missed, 2);
        let verdicts: Vec<&str> = targets.rows.iter().map(|row| row[3].as_str()).collect();
        assert_eq!(verdicts, ["pass", "pass", "not measured", "MISS", "MISS"]);
    }
}
