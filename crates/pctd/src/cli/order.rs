//! Orders for one volume: through the daemon if one runs, else here.

use pctd_core::ids::Key;
use pctd_core::order::{Order, OrderReport};
use pctd_core::report::REPORT_VERSION;
use pctd_core::request::{WireOp, WireRequest};
use pctd_node::NodeLock;

use super::args::Global;
use super::{Failure, check_keys, client, config_paths, open_engine, progress};
use crate::controller::followers::Answer;
use crate::reconciler::{Job, Reconciler as _};

/// Has an order carried out.
///
/// # Errors
///
/// Why it was not.
pub(super) fn carry_out(global: &Global, order: &Order) -> Result<OrderReport, Failure> {
    let (loaded, read) = config_paths(global)?.load()?;
    let engine = open_engine(global)?;
    let key = Key::Volume(order.volume().clone());
    check_keys(&engine.keys(&loaded.desired), std::slice::from_ref(&key))?;
    let socket = engine.node().paths().socket();
    let request = WireRequest {
        version: REPORT_VERSION,
        op: WireOp::Order,
        keys: Vec::new(),
        follow: false,
        confirm: false,
        yes: false,
        config: None,
        read: Some(read),
        order: Some(order.clone()),
    };
    let keys = std::slice::from_ref(&key);
    let line = || progress::of_daemon(&socket, keys);
    match progress::shown(line, || client::ask(&socket, &request))? {
        Some(Answer::Order(report)) => Ok(report),
        Some(Answer::Error { error, .. }) => Err(error.into()),
        Some(Answer::Plan(_) | Answer::Status(_)) => {
            Err("the daemon answered something else".into())
        }
        None => {
            let _lock = NodeLock::acquire(engine.node().paths())?;
            engine.node().reload_ledger();
            let job = Job { goes_on: true, ..Job::default() };
            let walked = std::sync::Arc::clone(&job.progress);
            let line = || progress::of(&key, walked.report());
            Ok(progress::shown(line, || engine.obey(&loaded.desired, order, &job))?)
        }
    }
}
