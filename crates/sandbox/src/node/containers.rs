//! The containers of a simulated node: `pct` as an admin runs it, and what runs inside.

use std::collections::BTreeSet;
use std::ffi::OsString;

use pctd_core::ids::Ctid;

use super::Node;
use crate::calls::{self, PctCall};
use crate::context::Context;
use crate::error::NodeError;
use crate::output::{Output, Streams};
use crate::pct;
use crate::perl::Locale;
use crate::real;
use crate::running::{self, Mounted};

impl Node {
    /// Runs `pct` in this process, in a UTF-8 locale.
    ///
    /// Such a run is no run of the program: it is not recorded, and no fault hits it.
    ///
    /// # Errors
    ///
    /// Fails only where the node itself is broken; what `pct` refuses is an output.
    pub fn pct<T: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Output, NodeError> {
        self.pct_in_locale(arguments, "C.UTF-8")
    }

    /// Runs `pct` in this process with this value of `LC_ALL`.
    pub fn pct_in_locale<T: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = T>,
        locale: &str,
    ) -> Result<Output, NodeError> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let cx = Context::new(self.root.clone(), Streams::new(false))?;
        let locale = Locale::of(|name| (name == "LC_ALL").then(|| locale.to_owned()));
        Ok(pct::run(cx, &arguments, locale))
    }

    /// Starts a container.
    pub fn start_ct(&self, ctid: Ctid) -> Result<Output, NodeError> {
        self.pct(["start", &ctid.to_string()])
    }

    /// Stops a container, if it runs.
    pub fn stop_ct(&self, ctid: Ctid) -> Result<Output, NodeError> {
        self.pct(["stop", &ctid.to_string()])
    }

    /// Returns what this machine lacks to run containers for real, if anything.
    pub fn missing_for_containers() -> Option<&'static str> {
        real::missing()
    }

    /// Runs a shell script inside a real container, as its root.
    pub fn attach(&self, ctid: Ctid, script: &str) -> Result<Output, NodeError> {
        let id = ctid.to_string();
        real::attach(&self.root, &id, script)
            .map_err(|error| NodeError::io(&self.root.lxc(&id), error))
    }

    /// Returns the command that does so, for one that goes on beside the test.
    pub fn inside(&self, ctid: Ctid, script: &str) -> std::process::Command {
        real::inside(&self.root, &ctid.to_string(), script)
    }

    /// Returns whether a container runs.
    pub fn is_running(&self, ctid: Ctid) -> bool {
        running::is_running(&self.root, &ctid.to_string())
    }

    /// Returns the ids of all running containers.
    pub fn running(&self) -> BTreeSet<Ctid> {
        running::list(&self.root).iter().filter_map(|id| id.parse().ok()).collect()
    }

    /// Returns what is mounted inside a running container, in mount order.
    pub fn mounts(&self, ctid: Ctid) -> Vec<Mounted> {
        running::mounts(&self.root, &ctid.to_string())
    }

    /// Returns all runs of the programs `pct` and `vzdump` so far; those of the latter begin with its
    /// name.
    pub fn pct_calls(&self) -> Result<Vec<PctCall>, NodeError> {
        calls::read(&self.root)
    }
}
