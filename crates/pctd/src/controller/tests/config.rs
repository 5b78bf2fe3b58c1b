//! Another configuration comes in force.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_equal_configuration_wakes_nobody() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.configure(CONTAINERS).await;
    assert_eq!(this.pass(secs(1)).await, []);
    assert_eq!(this.status().await.config.generation, 1);
    this.configure(VOLUME).await;
    assert!(this.pass(secs(1)).await.contains(&Call::Survey));
    assert_eq!(this.status().await.config.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_configuration_leaves_the_old_one_in_force() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (error, files) = ("config.json:1:1: no JSON".to_owned(), vec!["config.json".to_owned()]);
    let refused = ConfigEvent::Rejected { error: error.clone(), files };
    this.events.send(Event::Config(refused)).await.unwrap();
    assert_eq!(this.pass(secs(1)).await, []);
    let config = this.status().await.config;
    assert_eq!((config.valid, config.generation, config.error), (false, 1, Some(error)));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // Put back as it was, it is valid again and still wakes nobody.
    this.configure(CONTAINERS).await;
    assert_eq!(this.pass(secs(1)).await, []);
    assert!(this.status().await.config.valid);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_changes_during_a_run_is_looked_at_after_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // In what the survey sees nothing differs yet, and the run under way knows the old one.
    this.configure(r#"{"lxc_configs": {"100": {"unprivileged": false}}}"#).await;
    assert_eq!(this.next().await, Call::Survey);
    // The run ends after its step, and the next one is made for the new configuration.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("100")));
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_no_longer_declared_is_left_alone() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::held(protected()).gated();
    this.reply("100", [reply]);
    let answer = this.apply(&["100"], false).await;
    assert_eq!(this.next().await, run("100"));
    this.configure(r#"{"lxc_configs": {"101": {"unprivileged": true}}}"#).await;
    assert_eq!(this.next().await, Call::Survey);
    let report = plan_of(answer.await.unwrap());
    assert_eq!(report.summary.errors, 1, "{report:?}");
    gate.send(()).unwrap();
    // It ends early, and its hold is looked at no more.
    assert_eq!(this.pass(secs(60)).await, [Call::Cancelled(key("100"))]);
    this.event("100").await;
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_no_longer_meant_ends_early_and_the_new_one_is_made() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let answer = this.apply(&["data"], true).await;
    assert_eq!(this.next().await, confirmed("data"));
    this.configure(&VOLUME.replace("/tank/data", "/tank/other")).await;
    assert_eq!(this.next().await, Call::Survey);
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("data")));
    // What was confirmed was the other path.
    assert_eq!(this.next().await, walk("data"));
    assert_eq!(plan_of(answer.await.unwrap()).summary.errors, 0);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_an_edit_does_not_concern_goes_on() {
    let two = r#"{"shared_volumes": {
        "data": {"host_path": "/tank/data", "mounts": {"100": "/data"}},
        "more": {"host_path": "/tank/more", "mounts": {"101": "/more"}}}}"#;
    let mut this = Loop::settled(two).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let answer = this.apply(&["data"], true).await;
    assert_eq!(this.next().await, confirmed("data"));
    // Another volume, another container and how often is looked: none of it is this walk's.
    let other = two.replace("/tank/more", "/tank/other").replacen(
        '{',
        r#"{"settings": {"resync_interval": "5m", "max_concurrent": 2}, "lxc_configs": {"101": {"unprivileged": true}},"#,
        1,
    );
    this.configure(&other).await;
    assert_eq!(this.next().await, Call::Survey);
    gate.send(()).unwrap();
    let report = plan_of(answer.await.unwrap());
    assert_eq!((report.summary.errors, report.summary.holds), (0, 0));
    // It neither was cancelled nor is made again.
    assert_eq!(this.pass(secs(60)).await, []);
    assert_eq!(this.status_of("data").await.state, KeyState::Converged);
}

#[tokio::test(start_paused = true)]
async fn a_walk_ends_early_where_what_it_rests_on_is_edited() {
    let text = r#"{"settings": {}, "shared_volumes": {"data": {"host_path": "/tank/data",
        "owner": "container_root", "mounts": {"100": "/data"}}}}"#;
    for (from, to) in [
        (r#""settings": {}"#, r#""settings": {"mode": "observe"}"#),
        (r#""settings": {}"#, r#""settings": {"confirm_above": 1}"#),
        (r#""settings": {}"#, r#""lxc_configs": {"100": {"unprivileged": true}}"#),
        (r#""100": "/data""#, r#""100": "/data", "101": "/data""#),
        ("container_root", "keep"),
    ] {
        let mut this = Loop::settled(text).await;
        let (reply, gate) = Reply::new(Verdict::Converged).gated();
        this.reply("data", [reply]);
        let _answer = this.apply(&["data"], false).await;
        assert_eq!(this.next().await, walk("data"));
        this.configure(&text.replace(from, to)).await;
        assert_eq!(this.next().await, Call::Survey, "{to}");
        gate.send(()).unwrap();
        assert_eq!(this.next().await, Call::Cancelled(key("data")), "{to}");
        assert_eq!(this.next().await, walk("data"), "{to}");
    }
}
