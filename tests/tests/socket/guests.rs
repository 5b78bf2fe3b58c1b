//! Who may look, and how much of what there is one of them gets.

use super::*;

#[test]
fn the_group_of_the_settings_may_look_and_only_root_may_change() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    let mode =
        |path: &Path| fs::metadata(path).map(|s| (s.uid(), s.gid(), s.mode() & 0o777)).unwrap();
    let refused = |gid| {
        let path = socket.clone();
        as_guest(gid, move || UnixStream::connect(path).unwrap_err().kind())
    };
    assert_eq!(mode(&socket), (0, 0, 0o600));
    assert_eq!(refused(GROUP), io::ErrorKind::PermissionDenied);

    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    eventually("the group is admitted", || mode(&socket) == (0, GROUP, 0o660));
    assert_eq!(refused(GUEST), io::ErrorKind::PermissionDenied);
    let asked = |request: &'static [u8]| {
        let path = socket.clone();
        as_guest(GROUP, move || ask(connect(&path), request))
    };
    let status: Value = serde_json::from_str(&asked(STATUS)).unwrap();
    assert_eq!(status["volumes"]["data"]["state"], "Converged", "{status:#}");
    let calls = world.calls();
    let refusal = "only root may change anything; uid 4712 may ask for the status";
    assert_eq!(error_of(&asked(RECONCILE)), refusal);
    assert_eq!(world.calls(), calls);
    // Whatever the mode of the socket: who connected decides.
    rustix::fs::chmod(&socket, 0o666.into()).unwrap();
    let path = socket.clone();
    assert_eq!(error_of(&as_guest(GUEST, move || ask(connect(&path), RECONCILE))), refusal);
    let root: Value = serde_json::from_str(&ask(connect(&socket), RECONCILE)).unwrap();
    assert_eq!(root["summary"]["holds"], 0, "{root:#}");

    world.volumes(r#""status_group": "no-such-group""#, DATA);
    eventually("nobody is admitted", || mode(&socket) == (0, 0, 0o600));
    eventually("and it is said", || daemon.log().contains("there is no group no-such-group"));
    assert_eq!(refused(GROUP), io::ErrorKind::PermissionDenied);
    daemon.stop();
}

#[test]
fn a_group_that_is_made_later_is_admitted_at_a_reload_and_at_the_resync() {
    let Some(world) = world() else { return };
    let setting = |group: &str, resync: &str| {
        let settings = format!(r#""status_group": "{group}", "resync_interval": "{resync}""#);
        world.volumes(&settings, DATA);
    };
    let socket = socket(&world);
    let group_and_mode = || fs::metadata(&socket).map(|s| (s.gid(), s.mode() & 0o777)).unwrap();
    let make = |group: &str, gid: u32| {
        let path = world.host("/etc/group");
        let groups = pctd_tests::daemon::text(&path);
        fs::write(path, format!("{groups}{group}:x:{gid}:\n")).unwrap();
    };
    setting("soon", "1h");
    let daemon = world.pctd.start();
    eventually("it is said", || daemon.log().contains("there is no group soon"));
    make("soon", GROUP);
    daemon.signal(rustix::process::Signal::HUP);
    eventually("it is admitted", || group_and_mode() == (GROUP, 0o660));

    setting("later", "10s");
    eventually("it is said", || daemon.log().contains("there is no group later"));
    assert_eq!(group_and_mode(), (0, 0o600));
    // Nobody says that it is there now.
    make("later", GROUP + 1);
    eventually("it is admitted", || group_and_mode() == (GROUP + 1, 0o660));
    // As it is back, so is the first.
    setting("none", "1h");
    eventually("it is said", || daemon.log().contains("there is no group none"));
    setting("later", "10s");
    eventually("it is admitted again", || group_and_mode() == (GROUP + 1, 0o660));
    daemon.stop();
}

#[test]
fn one_user_who_follows_with_all_he_has_keeps_no_other_out() {
    let Some(world) = world() else { return };
    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    eventually("guests are admitted", || fs::metadata(&socket).unwrap().gid() == GROUP);
    let before = held(&daemon);
    let path = socket.clone();
    let answers = as_guest(GROUP, move || {
        let streams: Vec<_> = (0..20).map(|_| connect(&path)).collect();
        let follow = |stream: UnixStream| {
            let _closed = (&stream).write_all(FOLLOW);
            let mut reader = BufReader::new(stream);
            (line(&mut reader), reader)
        };
        streams.into_iter().map(follow).collect::<Vec<_>>()
    });
    let followed = answers.iter().filter(|(answer, _)| answer.contains("\"Converged\"")).count();
    assert_eq!(followed, GUESTS_OF_ONE);
    for (answer, _) in answers.iter().filter(|(answer, _)| !answer.contains("\"Converged\"")) {
        assert_eq!(error_of(answer), "too many clients; try again");
    }
    let path = socket.clone();
    let answer = as_user(OTHER_GUEST, GROUP, move || ask(connect(&path), STATUS));
    assert!(answer.contains("\"Converged\""), "{answer}");
    // A place that is left is the user's again.
    drop(answers);
    assert_let_go(&daemon, before);
    let asks = || {
        let path = socket.clone();
        as_guest(GROUP, move || ask(connect(&path), STATUS))
    };
    eventually("he is answered", || asks().contains("\"Converged\""));
    daemon.stop();
}
