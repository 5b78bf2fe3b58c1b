//! What a command is, and the options it takes.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::getopt::Takes;
use crate::pct::parameters::{Check, Checks, Parameters, check_of, is_boolean};
use crate::pct::task::Ended;

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// The arguments without a name.
    pub(crate) positional: &'static [&'static str],
    /// All parameters that are no properties of a container.
    pub(crate) parameters: Checks,
    /// Whether the properties of a container are options as well.
    pub(crate) takes_properties: bool,
    pub(crate) usage: &'static str,
    pub(crate) run: fn(&mut Context, &Parameters) -> Result<(), Ended>,
}

/// The names of the properties that have no number and are options; a test keeps them in step
/// with the schema.
const PLAIN_PROPERTIES: &[&str] = &[
    "arch",
    "cmode",
    "console",
    "cores",
    "cpulimit",
    "cpuunits",
    "debug",
    "description",
    "entrypoint",
    "env",
    "features",
    "hookscript",
    "hostname",
    "lock",
    "memory",
    "nameserver",
    "onboot",
    "ostype",
    "protection",
    "rootfs",
    "searchdomain",
    "startup",
    "swap",
    "tags",
    "template",
    "timezone",
    "tty",
    "unprivileged",
];

/// The properties that exist a number of times (`$MAX_MOUNT_POINTS`, `$MAX_LXC_NETWORKS`).
const NUMBERED_PROPERTIES: &[(&str, u32)] =
    &[("mp", 256), ("unused", 256), ("dev", 256), ("net", 32)];

/// Properties whose values are lists, so that they may be given several times.
const LIST_PROPERTIES: &[&str] = &["nameserver", "searchdomain", "tags"];

impl Command {
    /// Returns all options with the way they take a value.
    pub(crate) fn options(&self) -> BTreeMap<String, Takes> {
        let own = self.parameters.iter().map(|(name, _)| (*name).to_owned());
        let numbered = NUMBERED_PROPERTIES
            .iter()
            .flat_map(|(prefix, count)| (0..*count).map(move |index| format!("{prefix}{index}")));
        let properties = PLAIN_PROPERTIES.iter().map(|name| (*name).to_owned()).chain(numbered);
        let properties = properties.filter(|_| self.takes_properties);
        own.chain(properties)
            .map(|name| {
                let check = check_of(self.parameters, &name);
                let is_list = check == Some(Check::ConfigIds)
                    || (check.is_none() && LIST_PROPERTIES.contains(&name.as_str()));
                let takes = if is_list {
                    Takes::Values
                } else if is_boolean(check, &name) || name == "password" {
                    Takes::Optional
                } else {
                    Takes::Value
                };
                (name, takes)
            })
            .collect()
    }
}
