//! Which volume is walked when.

use super::*;

#[tokio::test(start_paused = true)]
async fn walks_do_not_take_the_places_of_conf_edits() {
    let config = r#"{"settings": {"max_concurrent": 1}, "shared_volumes": {
        "data": {"host_path": "/tank/data", "mounts": {"100": "/data"}},
        "more": {"host_path": "/tank/more", "mounts": {"101": "/more"}}}}"#;
    let mut this = Loop::settled(config).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    this.event("101").await;
    this.advance(secs(1)).await;
    assert_eq!(this.next().await, run("101"));
    // The other walk waits for its place.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("more"));
}

#[tokio::test(start_paused = true)]
async fn every_volume_is_verified_when_it_is_due() {
    let mut this = Loop::settled(VOLUME).await;
    this.event("100").await;
    let calls = this.pass(secs(1)).await;
    assert!(calls.contains(&run("data")), "{calls:?}");
    let walks = |calls: Vec<Call>| {
        calls.into_iter().filter(|call| *call != Call::Survey).collect::<Vec<_>>()
    };
    let calls = this.pass(secs(6 * 3600 - 10)).await;
    assert_eq!(walks(calls), []);
    let calls = this.pass(secs(10)).await;
    assert_eq!(walks(calls), [walk("data")]);
}

/// What was planned for the containers that were here may be another node's to do by now.
#[tokio::test(start_paused = true)]
async fn a_walk_ends_when_a_container_that_mounts_the_volume_comes_or_goes() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    let ctid = Ctid::new(101).unwrap();
    // A conf that only changed ends no walk.
    this.events.send(Event::Container(ctid, News::Vmlist)).await.unwrap();
    this.advance(secs(1)).await;
    assert_eq!(this.next().await, run("101"));
    this.events.send(Event::Container(ctid, News::Moved)).await.unwrap();
    this.advance(secs(1)).await;
    assert_eq!(this.next().await, run("101"));
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("data")));
    // What was asked for is still to be done.
    assert_eq!(this.next().await, walk("data"));
}

#[tokio::test(start_paused = true)]
async fn the_walk_of_what_all_nodes_see_ends_when_this_one_is_cut_off() {
    let two = r#"{"shared_volumes": {"data": {"host_path": "/tank/data", "mounts": {"100": "/data"}},
        "own": {"host_path": "/tank/own", "mounts": {"100": "/own"}}}}"#;
    let mut this = Loop::settled(two).await;
    let mut gates = Vec::new();
    for name in ["data", "own"] {
        let (reply, gate) = Reply::new(Verdict::Converged).gated();
        this.reply(name, [reply]);
        let _answer = this.apply(&[name], false).await;
        assert_eq!(this.next().await, walk(name));
        gates.push(gate);
    }
    this.events.send(Event::Adrift).await.unwrap();
    this.advance(secs(1)).await;
    for gate in gates {
        gate.send(()).unwrap();
    }
    assert_eq!(this.next().await, Call::Cancelled(key("data")));
    // What was asked for is looked at again, and only that.
    assert_eq!(this.next().await, walk("data"));
}

#[tokio::test(start_paused = true)]
async fn a_verify_ends_only_when_a_walk_finds_nothing() {
    let mut this = Loop::start(VOLUME);
    this.reply("data", [Reply::failed(), Reply::held(confirmation()), Reply::conflict()]);
    let calls = [this.next().await, this.next().await];
    assert!(calls.contains(&Call::Survey) && calls.contains(&walk("data")), "{calls:?}");
    assert_eq!(this.gap().await.0, walk("data"));
    this.pass(ms(0)).await;
    // The root directory looks right to a survey; the walk knew better.
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    this.pass(ms(0)).await;
    assert_eq!(this.status_of("data").await.state, KeyState::Held);
    assert_eq!(this.next().await, walk("data"));
    assert_eq!(this.next().await, walk("data"));
    this.event("100").await;
    let calls = this.pass(secs(1)).await;
    assert!(calls.contains(&run("data")), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_rests_on_an_interrupted_walk_is_in_place_and_walked_whole_next() {
    let mut this = Loop::start(VOLUME);
    let mut in_part = Reply::new(Verdict::Converged);
    in_part.outcome.view.believed = true;
    let (whole, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [in_part, whole]);
    let calls = [this.next().await, this.next().await];
    assert!(calls.contains(&Call::Survey) && calls.contains(&walk("data")), "{calls:?}");
    assert_eq!(this.gap().await, (walk("data"), ms(0)));
    assert_eq!(this.status_of("data").await.state, KeyState::Converged);
    gate.send(()).unwrap();
    this.pass(ms(0)).await;
    // Once is enough.
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn what_a_file_system_refused_is_not_asked_for_at_every_look() {
    let mut this = Loop::start(VOLUME);
    let (kind, why) = ("nfs4".to_owned(), "EPERM".to_owned());
    this.reply("data", [Reply::held(Hold::OwnershipUnsupported { kind, why })]);
    let calls = [this.next().await, this.next().await];
    assert!(calls.contains(&Call::Survey) && calls.contains(&walk("data")), "{calls:?}");
    assert_eq!(this.gap().await, (run("data"), secs(15)));
}

#[tokio::test(start_paused = true)]
async fn a_long_walk_that_ends_in_a_hold_is_not_made_without_a_pause() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::held(confirmation()).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    this.advance(secs(60)).await;
    gate.send(()).unwrap();
    let before = Instant::now();
    loop {
        match this.next().await {
            Call::Survey => {}
            call => break assert_eq!(call, walk("data")),
        }
    }
    assert_eq!(before.elapsed(), secs(60) * PACE);
}
