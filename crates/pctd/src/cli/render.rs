//! Reports as text. Pure.

use std::fmt::Write as _;

mod check;
mod doctor;
mod inspect;
mod plan;
mod shift;
mod status;
mod undo;

pub(crate) use check::check;
pub(crate) use doctor::doctor;
pub(crate) use inspect::inspect;
pub(crate) use plan::{Tense, plan};
pub(crate) use shift::shift;
pub(crate) use status::{page, status};
pub(crate) use undo::undo;

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn count_u64(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, "{arguments}");
}
