//! Which key runs when.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_run_per_key_at_a_time() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..3 {
        this.event("100").await;
    }
    this.event("101").await;
    this.advance(secs(1)).await;
    // Another key is not held up by it.
    assert_eq!(this.next().await, run("101"));
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_event_while_a_key_runs_makes_it_run_again() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.event("100").await;
    this.status().await;
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
}

#[tokio::test(start_paused = true)]
async fn several_events_make_one_run() {
    let mut this = Loop::settled(CONTAINERS).await;
    for _ in 0..10 {
        this.event("100").await;
    }
    assert_eq!(this.gap().await, (run("100"), SETTLE));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_becomes_ready_wakes_the_containers_that_wait() {
    let mut this = Loop::settled(VOLUME).await;
    this.reply("100", [Reply::new(Verdict::Waiting)]);
    let (reply, gate) = Reply::new(Verdict::Converged).taking(step()).gated();
    this.reply("data", [reply]);
    this.event("100").await;
    let both = [this.next().await, this.next().await];
    assert!(both.contains(&run("100")) && both.contains(&run("data")), "{both:?}");
    this.status().await;
    gate.send(()).unwrap();
    let (call, gap) = this.gap().await;
    assert_eq!((call, gap), (run("100"), ms(0)));
    // 101 does not wait for anything.
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_survey_during_a_run_makes_the_key_run_again_where_it_differs() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // The run has looked already; what the survey sees came after that.
    this.differing("100");
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    this.status().await;
    while this.status().await.containers[&ctid(100)].next_retry.is_none() {
        tokio::task::yield_now().await;
    }
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_stays_visible_until_a_run_overcomes_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [Reply::failed(), reply]);
    this.differing("100");
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.status().await;
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.next().await, run("100"));
    let status = this.status_of("100").await;
    assert_eq!(status.state, KeyState::Failed);
    assert_eq!(status.error.as_deref(), Some("pct exited with 255"));
    gate.send(()).unwrap();
    this.pass(ms(0)).await;
    let status = this.status_of("100").await;
    assert_eq!((status.state, status.error), (KeyState::Converged, None));
}
