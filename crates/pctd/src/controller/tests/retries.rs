//! How long a key waits after a failure or a hold.

use super::*;

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_success_resets() {
    // All the delays together may be longer than the time to the ordinary resync.
    let config = CONTAINERS.replacen('{', r#"{"settings": {"resync_interval": "1d"}, "#, 1);
    let mut this = Loop::settled(&config).await;
    this.reply("100", (0..12).map(|_| Reply::failed()));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for full in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000, 120_000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        // The clock of tokio has whole milliseconds.
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
    this.pass(ms(0)).await;
    assert_eq!(this.status_of("100").await.state, KeyState::Failed);
    // The last failure is overcome, and the next one starts over.
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
    assert_eq!(this.status_of("100").await.state, KeyState::Converged);
    this.reply("100", [Reply::failed()]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    let (call, gap) = this.gap().await;
    assert_eq!(call, run("100"));
    assert!(gap <= ms(501), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_is_not_hurried_by_its_own_echo() {
    let mut this = Loop::settled(CONTAINERS).await;
    // A `pct set` that fails closes its lock file, which is an event.
    this.reply("100", (0..1000).map(|_| Reply::failed()));
    this.event("100").await;
    let mut runs = 0;
    while this.begun.elapsed() < secs(600) {
        match this.next().await {
            Call::Run { .. } => {
                runs += 1;
                this.hear("100", News::Lock).await;
                sleep(ms(5)).await;
                this.hear("100", News::Lock).await;
            }
            // The resync is no echo.
            other => assert_eq!(other, Call::Survey),
        }
    }
    assert!(runs <= 16, "{runs} runs in ten minutes");
    // What is heard later is news.
    sleep(secs(2)).await;
    this.hear("100", News::Lock).await;
    assert_eq!(this.gap().await.0, run("100"));
    // A conf that was written is news at any time.
    this.event("100").await;
    assert_eq!(this.gap().await, (run("100"), SETTLE));
}

#[tokio::test(start_paused = true)]
async fn holds_are_looked_at_again_at_the_hold_interval() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..3).map(|_| Reply::held(protected())));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..3 {
        assert_eq!(this.gap().await, (run("100"), secs(15)));
    }
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_should_pass_soon_backs_off_and_an_event_hurries_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let busy = || Hold::IdmapNotReady { ctid: ctid(100), why: NotReady::Busy };
    this.reply("100", (0..4).map(|_| Reply::held(busy())));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for full in [500, 1000, 2000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
    // Its lock was closed: that is what it waited for.
    this.event("100").await;
    assert_eq!(this.gap().await, (run("100"), SETTLE));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_at_once_but_not_for_ever() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..8).map(|_| Reply::conflict()));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..CONFLICTS {
        assert_eq!(this.gap().await, (run("100"), ms(0)));
    }
    for full in [500, 1000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
}
