//! Options as Perl's `Getopt::Long` takes them in `PVE::JSONSchema::get_options`.
//!
//! Options may stand anywhere and start with one dash or two; case does not matter; a name may be
//! cut where it stays unique; `=` separates a value as a blank does. An option with a value takes
//! the next argument whatever it looks like, a boolean takes it unless it is an option. `--` ends
//! the options.

use std::collections::BTreeMap;

/// How an option takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// `:s`: a value if one follows, else none.
    Optional,
    /// `=s`: a value; the last one given counts.
    Value,
    /// `=s@`: a value each time.
    Values,
}

/// What was on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The options with all their values.
    pub(crate) options: BTreeMap<String, Vec<String>>,
    /// The other arguments.
    pub(crate) positional: Vec<String>,
    /// What is wrong; each is a line on stderr, and any makes the command fail.
    pub(crate) warnings: Vec<String>,
}

/// Splits arguments into options and the rest.
pub(crate) fn parse(options: &BTreeMap<String, Takes>, arguments: &[String]) -> Parsed {
    let names: BTreeMap<String, &String> =
        options.keys().map(|name| (name.to_ascii_lowercase(), name)).collect();
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            parsed.positional.extend(rest.cloned());
            break;
        }
        let Some(option) = as_option(argument) else {
            parsed.positional.push(argument.clone());
            continue;
        };
        let (given, attached) = match option.split_once('=') {
            Some((name, value)) if !name.is_empty() => (name, Some(value)),
            _ => (option, None),
        };
        let name = match complete(&names, given) {
            Ok(name) => name,
            Err(warning) => {
                parsed.warnings.push(warning);
                continue;
            }
        };
        let takes = options.get(name).copied().unwrap_or(Takes::Value);
        let value = match (takes, attached) {
            (Takes::Optional, Some(value)) => value.to_owned(),
            (Takes::Optional, None) => rest
                .next_if(|next| next.as_str() != "--" && as_option(next).is_none())
                .cloned()
                .unwrap_or_default(),
            (Takes::Value | Takes::Values, Some(value)) if !value.is_empty() => value.to_owned(),
            (Takes::Value | Takes::Values, None) if rest.peek().is_some() => {
                rest.next().cloned().unwrap_or_default()
            }
            (Takes::Value | Takes::Values, _) => {
                parsed
                    .warnings
                    .push(format!("Option {} requires an argument\n", given.to_ascii_lowercase()));
                continue;
            }
        };
        let values = parsed.options.entry(name.clone()).or_default();
        if takes != Takes::Values {
            values.clear();
        }
        values.push(value);
    }
    parsed
}

/// Returns what follows the dashes; a single dash is no option.
fn as_option(argument: &str) -> Option<&str> {
    argument
        .strip_prefix("--")
        .or_else(|| argument.strip_prefix('-'))
        .filter(|rest| !rest.is_empty())
}

/// Finds the option that a name, perhaps cut short, stands for.
fn complete<'a>(names: &BTreeMap<String, &'a String>, given: &str) -> Result<&'a String, String> {
    let given = given.to_ascii_lowercase();
    if let Some(name) = names.get(&given) {
        return Ok(name);
    }
    let hits: Vec<&String> = names.keys().filter(|name| name.starts_with(&given)).collect();
    match hits[..] {
        [] => Err(format!("Unknown option: {given}\n")),
        [only] => Ok(names[only]),
        _ => {
            let hits = hits.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(format!("Option {given} is ambiguous ({hits})\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Parsed {
        let options = [
            ("mp0", Takes::Value),
            ("mp1", Takes::Value),
            ("memory", Takes::Value),
            ("delete", Takes::Values),
            ("current", Takes::Optional),
            ("forceStop", Takes::Optional),
        ];
        let options = options.map(|(name, takes)| (name.to_owned(), takes)).into_iter().collect();
        parse(&options, &arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
    }

    fn options(arguments: &[&str]) -> Vec<(String, Vec<String>)> {
        run(arguments).options.into_iter().collect()
    }

    #[test]
    fn values_are_attached_or_follow() {
        let one = |name: &str, value: &str| vec![(name.to_owned(), vec![value.to_owned()])];
        assert_eq!(options(&["--mp0", "/srv/a,mp=/a"]), one("mp0", "/srv/a,mp=/a"));
        assert_eq!(options(&["-mp0=/srv/a,mp=/a"]), one("mp0", "/srv/a,mp=/a"));
        assert_eq!(options(&["--mp0", "--mp1"]), one("mp0", "--mp1"));
        assert_eq!(options(&["--MEM", "1", "--memory", "2"]), one("memory", "2"));
        assert_eq!(options(&["--mp0", ""]), one("mp0", ""));
        assert_eq!(options(&["--forcestop", "1"]), one("forceStop", "1"));
    }

    #[test]
    fn a_boolean_takes_no_option_for_its_value() {
        let parsed = run(&["100", "--current", "--mp0", "x"]);
        assert_eq!(parsed.options["current"], [""]);
        assert_eq!(parsed.positional, ["100"]);
        assert_eq!(run(&["--current", "100"]).options["current"], ["100"]);
    }

    #[test]
    fn lists_are_collected_and_two_dashes_end_the_options() {
        assert_eq!(run(&["--delete", "mp0", "--delete", "mp1"]).options["delete"], ["mp0", "mp1"]);
        assert_eq!(run(&["--", "--mp0"]).positional, ["--mp0"]);
    }

    #[test]
    fn what_is_wrong_is_said_for_each() {
        assert_eq!(
            run(&["--Bogus", "1", "--mp", "2", "--mp1", "--mp0="]).warnings,
            ["Unknown option: bogus\n", "Option mp is ambiguous (mp0, mp1)\n"]
        );
        assert_eq!(run(&["--mp0"]).warnings, ["Option mp0 requires an argument\n"]);
        assert_eq!(run(&["--mp0="]).warnings, ["Option mp0 requires an argument\n"]);
    }
}
