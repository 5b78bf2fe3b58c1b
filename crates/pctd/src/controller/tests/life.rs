//! The loop itself: its beginning, its resync, its end.

use super::super::GRACE;
use super::*;

#[tokio::test(start_paused = true)]
async fn ready_is_told_after_the_first_survey_only() {
    let (gate, wait) = std_mpsc::channel();
    let mut this = Loop::start_with(CONTAINERS, |state| state.survey_gate = Some(wait));
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.readies.load(Ordering::Relaxed), 0);
    gate.send(()).unwrap();
    this.pass(ms(0)).await;
    assert_eq!(this.readies.load(Ordering::Relaxed), 1);
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.pass(ms(0)).await, [Call::Survey]);
    assert_eq!(this.readies.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_first_survey_finds_is_run_at_once() {
    let mut this =
        Loop::start_with(CONTAINERS, |state| drop(state.differing.insert(key("101"), differs())));
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.next().await, run("101"));
    assert_eq!(this.begun.elapsed(), ms(0));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_resync_finds_what_no_event_told() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.differing("101");
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.begun.elapsed(), secs(600));
    assert_eq!(this.next().await, run("101"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_step_under_way() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).uncut().gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.stop.send(true).unwrap();
    // However long it takes: a reboot is given all the time its guest has.
    for asked in 1..100 {
        yields().await;
        assert_eq!(this.extended.load(Ordering::Relaxed), asked);
        tokio::time::advance(GRACE).await;
    }
    yields().await;
    assert!(!this.task.is_finished());
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("100")));
    this.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_file_system_that_never_answers() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    this.stop.send(true).unwrap();
    yields().await;
    tokio::time::advance(GRACE.saturating_sub(ms(2))).await;
    yields().await;
    assert!(!this.task.is_finished(), "it is given time to end");
    tokio::time::advance(ms(4)).await;
    this.task.await.unwrap();
    assert_eq!(this.extended.load(Ordering::Relaxed), 0);
    gate.send(()).unwrap();
}

/// Lets every task go on as far as it can.
async fn yields() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_loop_ends_with_its_sources() {
    let this = Loop::settled(CONTAINERS).await;
    drop(this.events);
    this.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_that_panics_ends_the_loop() {
    let this = Loop::settled(CONTAINERS).await;
    this.script.state.lock().unwrap().panics = true;
    this.event("100").await;
    this.task.await.unwrap();
}
