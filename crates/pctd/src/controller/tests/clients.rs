//! Clients that ask and wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_is_answered_when_its_keys_have_settled() {
    let mut this = Loop::settled(VOLUME).await;
    let (stale, gate) = Reply::new(Verdict::Converged).gated();
    this.reply(
        "100",
        [stale, Reply::new(Verdict::Waiting), Reply::new(Verdict::Converged).taking(step())],
    );
    this.event("100").await;
    let both = [this.next().await, this.next().await];
    assert!(both.contains(&run("100")) && both.contains(&run("data")), "{both:?}");
    let (reply, walked) = Reply::held(protected()).taking(step()).gated();
    this.reply("data", [reply]);
    let mut answer = this.apply(&["100", "data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    // The run that began before the request does not count.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    this.status().await;
    assert!(answer.try_recv().is_err());
    walked.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    let report = plan_of(answer.await.unwrap());
    assert_eq!(report.containers[&ctid(100)].steps, [step()]);
    let data = &report.volumes[&"data".parse().unwrap()];
    assert_eq!((data.steps.len(), data.holds.len()), (1, 1));
    assert_eq!((report.summary.steps, report.summary.holds, report.summary.errors), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_looked_before_its_volume_was_done_looks_again() {
    let mut this = Loop::settled(VOLUME).await;
    let (early, looked) = Reply::new(Verdict::Waiting).gated();
    let (held, walked) = Reply::held(protected()).taking(step()).gated();
    this.reply("100", [early, Reply::new(Verdict::Converged).taking(step())]);
    this.reply("data", [held]);
    let answer = this.apply(&["100", "data"], false).await;
    let both = [this.next().await, this.next().await];
    assert!(both.contains(&run("100")) && both.contains(&walk("data")), "{both:?}");
    walked.send(()).unwrap();
    while this.status_of("data").await.state != KeyState::Held {
        tokio::task::yield_now().await;
    }
    // What it saw of the volume is old by now.
    looked.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    let report = plan_of(answer.await.unwrap());
    let own = &report.containers[&ctid(100)];
    assert_eq!((&own.steps, own.holds.len()), (&vec![step()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_names_a_stranger_is_told_so() {
    let this = Loop::settled(CONTAINERS).await;
    let answer = this.apply(&["102"], false).await.await.unwrap();
    let Answer::Error { error, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(error, "102 is not in the configuration in force");
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_a_volume_that_is_held() {
    let mut this = Loop::settled(VOLUME).await;
    let refused = || Hold::SourceNotDirectory { path: "/tank/data".to_owned() };
    this.reply("data", (0..100).map(|_| Reply::held(refused())));
    this.reply("100", (0..100).map(|_| Reply::new(Verdict::Waiting)));
    let answer = this.apply(&[], false).await;
    let report = plan_of(answer.await.unwrap());
    assert!(this.begun.elapsed() < secs(1));
    let reasons: Vec<_> =
        report.containers[&ctid(100)].holds.iter().map(|h| h.reason.as_str()).collect();
    assert_eq!(reasons, ["VolumeHeld"]);
    assert_eq!((report.summary.holds, report.summary.errors), (2, 0));
    // Nor for one it did not name.
    let report = plan_of(this.apply(&["100"], false).await.await.unwrap());
    assert_eq!(report.summary.holds, 1);
    // Nor does one that waits for the other keep the loop busy.
    this.pass(ms(0)).await;
    let runs = this.pass(secs(150)).await.len();
    assert!(runs <= 40, "{runs} runs in ten hold intervals");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_of_conflicts_without_end() {
    let this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..100).map(|_| Reply::conflict()));
    let report = plan_of(this.apply(&["100"], false).await.await.unwrap());
    let error = report.containers[&ctid(100)].error.as_deref();
    assert_eq!(error, Some("the digest differs"));
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_outlives_a_conflict_and_nothing_else() {
    let mut this = Loop::settled(VOLUME).await;
    this.reply("data", [Reply::conflict(), Reply::held(confirmation())]);
    let answer = this.apply(&["data"], true).await;
    assert_eq!(this.next().await, confirmed("data"));
    assert_eq!(this.next().await, confirmed("data"));
    assert_eq!(plan_of(answer.await.unwrap()).summary.holds, 1);
    assert_eq!(this.gap().await, (walk("data"), secs(15)));
}

#[tokio::test(start_paused = true)]
async fn another_id_map_is_meant_for_the_run_that_was_asked_for_and_no_later_one() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", [Reply::conflict()]);
    let keys = vec![key("100")];
    let answer = this.ask(Op::Reconcile { keys, asked: Asked::Sure, read: None }).await;
    assert_eq!(this.next().await, confirmed("100"));
    assert_eq!(this.next().await, confirmed("100"));
    answer.await.unwrap();
    let asked = std::mem::take(&mut this.script.state.lock().unwrap().asked);
    assert_eq!(asked[asked.len() - 2..], [Asked::Sure, Asked::Again]);
}

#[tokio::test(start_paused = true)]
async fn an_order_ends_the_run_over_its_volume_and_is_carried_out_alone() {
    let mut this = Loop::settled(VOLUME).await;
    let (held, gate) = Reply::failed().gated();
    this.reply("data", [held]);
    let applied = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    let undo =
        UndoOrder { volume: "data".parse().unwrap(), back_to: None, setuid: false, dry_run: false };
    let order = Order::Undo(undo);
    let answer = this.ask(Op::Order { order: order.clone(), read: None }).await;
    // By then the loop knows of it.
    this.status_of("data").await;
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("data")));
    assert_eq!(this.next().await, Call::Order(order));
    assert!(matches!(answer.await.unwrap(), Answer::Order(_)));
    // What it left is looked at, and whoever waited for that is told.
    assert_eq!(this.next().await, walk("data"));
    assert_eq!(plan_of(applied.await.unwrap()).summary.errors, 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_for_what_is_not_in_the_configuration_is_refused() {
    let this = Loop::settled(VOLUME).await;
    let undo = UndoOrder {
        volume: "other".parse().unwrap(),
        back_to: None,
        setuid: false,
        dry_run: false,
    };
    let answer = this.ask(Op::Order { order: Order::Undo(undo), read: None }).await;
    let Answer::Error { error, .. } = answer.await.unwrap() else { panic!() };
    assert_eq!(error, "other is not in the configuration in force");
}
