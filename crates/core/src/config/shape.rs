//! The words in which the known keys are described, and the check of a file against them.
//!
//! One description serves the check here, the suggestions for mistyped keys and the JSON Schema.
//! It knows single values only; what concerns several at once is checked where they are used.

use std::time::Duration;

use super::document::{Node, Spot};
use super::json::Kind;
use super::report::{Complaint, Report};
use super::syntax::{self, Syntax};
use super::text::{nearest, shown};

/// Keys that may stand in every object and mean nothing to pctd.
pub(super) const ALWAYS_ALLOWED: [&str; 2] = ["$schema", "comment"];

/// What a value may look like.
#[derive(Debug)]
pub(super) enum Shape {
    Boolean,
    /// A whole number from the first to the second.
    Whole(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    Text(&'static Syntax),
    /// A duration no shorter than this.
    Duration(Duration),
    List(&'static Shape),
    /// An object whose keys the admin chooses.
    Map(&'static Syntax, &'static Shape),
    Object(&'static Table),
    /// Whichever of them has the JSON type of the value.
    Either(&'static [Shape]),
}

/// The keys of an object.
#[derive(Debug)]
pub(super) struct Table {
    /// Completes "... is not a key of"; also its name in the JSON Schema.
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) fields: &'static [Field],
    pub(super) unknown: Unknown,
    /// An object with none of these keys is something else that strayed in, and ignored.
    pub(super) known_by: &'static [&'static str],
}

/// What a key that is not in the table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A mistake: ignoring a mistyped key would fall back to something destructive.
    Refuse,
    /// Probably a mistake.
    Warn,
    /// Another tool's business.
    Ignore,
}

/// A key of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) shape: Shape,
    /// The default as JSON.
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
    pub(super) standing: Standing,
}

/// What this version does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It acts on it.
    Used,
    /// It knows the key; a value of another shape is a warning.
    Lenient,
}

impl Field {
    /// Returns an optional field without a default that pctd acts on.
    pub(super) const fn new(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { name, doc, shape, default: None, required: false, standing: Standing::Used }
    }

    /// Gives the default as JSON.
    pub(super) const fn default(mut self, json: &'static str) -> Self {
        self.default = Some(json);
        self
    }

    /// Makes the field one that must be there.
    pub(super) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Lets a value of another shape pass with a warning.
    pub(super) const fn lenient(mut self) -> Self {
        self.standing = Standing::Lenient;
        self
    }
}

impl Table {
    /// Returns whether `node` is one of these and not something that strayed in.
    pub(super) fn claims(&self, node: &Node<'_>) -> bool {
        let object = matches!(node.value.kind, Kind::Object(_));
        !object || self.known_by.is_empty() || self.known_by.iter().any(|key| node.has(key))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }
}

/// Checks `node` and all below it, and reports what does not fit.
pub(super) fn check(node: &Node<'_>, shape: &Shape, report: &mut Report<'_>) {
    check_as(node, shape, Grade::Problem, report);
}

/// How a misfit is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Problem,
    Slip,
}

fn complain(spot: &Spot, complaint: Complaint, grade: Grade, report: &mut Report<'_>) {
    match grade {
        Grade::Problem => report.problem(spot, complaint),
        Grade::Slip => report.slip(spot, complaint),
    }
}

fn check_as(node: &Node<'_>, shape: &Shape, grade: Grade, report: &mut Report<'_>) {
    let result = match (shape, &node.value.kind) {
        (Shape::Boolean, Kind::Boolean(_)) => Ok(()),
        (Shape::Whole(least, most), Kind::Number(text)) => check_whole(text, *least, *most),
        (Shape::Choice(words), Kind::Text(text)) => check_choice(text, words),
        (Shape::Text(syntax), Kind::Text(text)) => (syntax.check)(text),
        (Shape::Duration(least), Kind::Text(text)) => syntax::duration(text, *least).map(|_| ()),
        (Shape::List(item_shape), Kind::List(_)) => {
            node.items().for_each(|item| check_as(&item, item_shape, grade, report));
            Ok(())
        }
        (Shape::Map(keys, value_shape), Kind::Object(_)) => {
            check_map(node, keys, value_shape, grade, report);
            Ok(())
        }
        (Shape::Object(table), Kind::Object(_)) => {
            check_object(node, table, grade, report);
            Ok(())
        }
        (Shape::Either(shapes), kind) => match shapes.iter().find(|shape| fits(shape, kind)) {
            Some(shape) => return check_as(node, shape, grade, report),
            None => Err(misfit(shape, kind)),
        },
        (shape, kind) => Err(misfit(shape, kind)),
    };
    if let Err(complaint) = result {
        complain(&node.spot, complaint, grade, report);
    }
}

fn check_whole(text: &str, least: u64, most: u64) -> Result<(), Complaint> {
    let value = text
        .parse::<u64>()
        .map_err(|_| Complaint::new(format!("expected a whole number, found {}", shown(text))))?;
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Complaint::new(if value < least {
        format!("{value} is too small: the least is {least}")
    } else {
        format!("{value} is too large: the most is {most}")
    }))
}

fn check_choice(text: &str, words: &[&'static str]) -> Result<(), Complaint> {
    if words.contains(&text) {
        return Ok(());
    }
    let complaint = Complaint::new(format!("{} is none of {}", shown(text), list(words)));
    Err(match nearest(text, words.iter().copied()) {
        Some(word) => complaint.or(format!("did you mean \"{word}\"?")),
        None => complaint,
    })
}

fn check_map(
    node: &Node<'_>,
    keys: &Syntax,
    value_shape: &Shape,
    grade: Grade,
    report: &mut Report<'_>,
) {
    for (key, key_spot, value) in node.members() {
        if ALWAYS_ALLOWED.contains(&key) {
            continue;
        }
        if let Shape::Object(table) = value_shape
            && !table.claims(&value)
        {
            report_stray(table, &key_spot, &value, report);
            continue;
        }
        if let Err(complaint) = (keys.check)(key) {
            complain(&key_spot, complaint, grade, report);
        }
        check_as(&value, value_shape, grade, report);
    }
}

fn report_stray(table: &Table, key_spot: &Spot, value: &Node<'_>, report: &mut Report<'_>) {
    let needed = table.known_by.join(" nor ");
    let message = format!("neither {needed} is there, so this is no {}: ignored", table.name);
    let slip = value.members().find_map(|(key, ..)| nearest(key, table.known_by.iter().copied()));
    match slip {
        Some(meant) => report.slip(
            key_spot,
            Complaint::new(message).or(format!("did you mean the key \"{meant}\"?")),
        ),
        None => report.warn(key_spot, message),
    }
}

fn check_object(node: &Node<'_>, table: &Table, grade: Grade, report: &mut Report<'_>) {
    for (key, key_spot, value) in node.members() {
        if ALWAYS_ALLOWED.contains(&key) {
            continue;
        }
        let Some(field) = table.fields.iter().find(|field| field.name == key) else {
            check_unknown(node, table, key, &key_spot, report);
            continue;
        };
        let grade = match field.standing {
            Standing::Used => grade,
            Standing::Lenient => Grade::Slip,
        };
        check_as(&value, &field.shape, grade, report);
    }
    for field in table.fields.iter().filter(|field| field.required && !node.has(field.name)) {
        let missing = Complaint::new(format!("the key \"{}\" is missing", field.name));
        complain(&node.spot, missing, grade, report);
    }
}

fn check_unknown(
    node: &Node<'_>,
    table: &Table,
    key: &str,
    key_spot: &Spot,
    report: &mut Report<'_>,
) {
    // A key that is there already cannot have been meant a second time.
    let meant = nearest(key, table.names().filter(|name| !node.has(name)));
    let message = format!("{} is not a key of a {}", shown(key), table.name);
    match (table.unknown, meant) {
        (Unknown::Refuse, Some(meant)) => {
            report.problem(
                key_spot,
                Complaint::new(message).or(format!("did you mean \"{meant}\"?")),
            );
        }
        (Unknown::Refuse, None) => {
            let known = list(&table.names().collect::<Vec<_>>());
            report.problem(key_spot, Complaint::new(message).or(format!("the keys are {known}")));
        }
        (Unknown::Warn | Unknown::Ignore, Some(meant)) => {
            report.slip(key_spot, Complaint::new(message).or(format!("did you mean \"{meant}\"?")));
        }
        (Unknown::Warn, None) => report.warn(key_spot, format!("{message}: ignored")),
        (Unknown::Ignore, None) => report.ignored(key_spot, "not a key of pctd's"),
    }
}

fn fits(shape: &Shape, kind: &Kind) -> bool {
    match shape {
        Shape::Boolean => matches!(kind, Kind::Boolean(_)),
        Shape::Whole(..) => matches!(kind, Kind::Number(_)),
        Shape::Choice(_) | Shape::Text(_) | Shape::Duration(_) => matches!(kind, Kind::Text(_)),
        Shape::List(_) => matches!(kind, Kind::List(_)),
        Shape::Map(..) | Shape::Object(_) => matches!(kind, Kind::Object(_)),
        Shape::Either(shapes) => shapes.iter().any(|shape| fits(shape, kind)),
    }
}

/// Complains about a value of the wrong JSON type.
fn misfit(shape: &Shape, kind: &Kind) -> Complaint {
    let complaint = Complaint::new(format!("expected {}, found {}", wanted(shape), kind.name()));
    match (shape, kind) {
        (_, Kind::Null) => complaint.or("leave the key out for the default"),
        (Shape::Boolean, Kind::Text(text)) if matches!(text.as_str(), "true" | "false") => {
            complaint.or(format!("write {text} without quotes"))
        }
        (Shape::Whole(..), Kind::Text(text)) if text.parse::<u64>().is_ok() => {
            complaint.or(format!("write {text} without quotes"))
        }
        (Shape::Text(syntax), Kind::Number(text)) if (syntax.check)(text).is_ok() => {
            complaint.or(format!("write \"{text}\""))
        }
        (Shape::List(item), kind) if fits(item, kind) => complaint.or("put it in [ ]"),
        _ => complaint,
    }
}

fn wanted(shape: &Shape) -> String {
    match shape {
        Shape::Boolean => "true or false".to_owned(),
        Shape::Whole(..) => "a whole number".to_owned(),
        Shape::Choice(words) => format!("one of {}", list(words)),
        Shape::Text(syntax) => syntax.wanted.to_owned(),
        Shape::Duration(_) => "a duration such as \"500ms\" or \"10m\"".to_owned(),
        Shape::List(_) => "a list".to_owned(),
        Shape::Map(..) | Shape::Object(_) => "an object".to_owned(),
        Shape::Either(shapes) => shapes.iter().map(wanted).collect::<Vec<_>>().join(" or "),
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
