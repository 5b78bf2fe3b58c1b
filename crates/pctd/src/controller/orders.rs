//! Orders for single volumes: each in place of a run over its volume, so that nothing else is at work
//! there, and answered when it is done.

use std::collections::{BTreeMap, VecDeque};

use pctd_core::ids::Key;
use pctd_core::order::{Order, OrderReport};
use tokio::time::Instant;

use super::followers::Request;
use super::{Controller, Done};
use crate::reconciler::{Job, Reconciler};

/// Orders that wait or are carried out.
#[derive(Debug, Default)]
pub(super) struct Orders {
    waiting: BTreeMap<Key, VecDeque<(Order, Request)>>,
    /// Who waits for one that is under way.
    under_way: BTreeMap<Key, Request>,
}

impl Orders {
    /// Forgets the orders for a key that is no longer in the configuration.
    pub(super) fn forget(&mut self, key: &Key) {
        for (_, request) in self.waiting.remove(key).into_iter().flatten() {
            request.answer_error(format!("{key} was taken out of the configuration"));
        }
    }

    /// Takes the next order for a key that is free.
    pub(super) fn begin(&mut self, key: &Key) -> Option<Order> {
        let waiting = self.waiting.get_mut(key)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        let (order, request) = next?;
        self.under_way.insert(key.clone(), request);
        Some(order)
    }
}

impl<R: Reconciler> Controller<R> {
    /// Lets an order be carried out as soon as nothing else is at work in its volume.
    pub(super) fn take_order(&mut self, order: Order, request: Request) {
        let key = Key::Volume(order.volume().clone());
        if !self.board.knows(&key) {
            request.answer_error(format!("{key} is not in the configuration in force"));
            return;
        }
        if let Some(run) = self.running.get(&key) {
            // What it does may be what is to be taken back.
            run.cancel();
        }
        self.orders.waiting.entry(key.clone()).or_default().push_back((order, request));
        self.queue.add(key, Instant::now());
    }

    /// Starts an order.
    pub(super) fn start_order(&mut self, key: Key, order: Order, job: Job) {
        let (reconciler, desired) =
            (std::sync::Arc::clone(&self.reconciler), std::sync::Arc::clone(&self.desired));
        self.jobs.spawn_blocking(move || {
            let came_of_it = reconciler.obey(&desired, &order, &job);
            Done::Order(key, came_of_it)
        });
    }

    /// Takes note of an order that has ended, and looks at the volume.
    pub(super) fn on_order(&mut self, key: &Key, came_of_it: Result<OrderReport, String>) {
        self.running.remove(key);
        self.queue.done(key);
        if let Some(request) = self.orders.under_way.remove(key) {
            request.answer_order(came_of_it);
        }
        if self.board.knows(key) {
            // What was known of its entries is not so any more.
            self.walks.ask(key);
            self.retries.start_over(key);
            self.queue.add(key.clone(), Instant::now());
        }
    }
}
