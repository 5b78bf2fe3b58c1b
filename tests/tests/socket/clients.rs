//! Clients that are many, silent, slow, or gone before their answer.

use std::net::Shutdown;

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::states;

use super::*;

#[test]
fn clients_that_say_nothing_or_a_byte_a_second_are_let_go_and_hold_nothing_up() {
    let Some(world) = world() else { return };
    world.volumes(&format!(r#""status_group": "{GROUP}""#), DATA);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    eventually("guests are admitted", || fs::metadata(&socket).unwrap().gid() == GROUP);
    let before = held(&daemon);

    // A guest takes every place there is for him, again and again.
    let begun = Instant::now();
    let path = socket.clone();
    let guests = thread::spawn(move || {
        as_guest(GROUP, move || (0..500).map(|_| connect(&path)).collect::<Vec<_>>())
    });
    let silent = guests.join().unwrap();
    let path = socket.clone();
    let dripping = thread::spawn(move || {
        let mut stream = connect(&path);
        let sent = STATUS.iter().take_while(|byte| {
            thread::sleep(Duration::from_secs(1));
            stream.write_all(&[**byte]).is_ok()
        });
        let sent = sent.count();
        (sent, line(&mut BufReader::new(stream)))
    });

    // Meanwhile root is answered, and what it is all for goes on.
    let asked = Instant::now();
    daemon.status();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    world.pct(&["set", "100", "--delete", "mp0"]);
    eventually("the mount is back", || world.conf(100).contains("mp0: /tank/data"));
    assert!(begun.elapsed() < Duration::from_secs(5), "a place was free again too soon");
    assert!(held(&daemon).fds <= before.fds + CLIENTS, "{:?}", held(&daemon));

    let mut turned_away = 0;
    for stream in silent {
        match error_of(&line(&mut BufReader::new(stream))).as_str() {
            "too many clients; try again" => turned_away += 1,
            "no request came within 5 s" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(turned_away, 500 - GUESTS_OF_ONE);
    let (sent, answer) = dripping.join().unwrap();
    assert!((4..=7).contains(&sent), "{sent} bytes were taken");
    assert_eq!(error_of(&answer), "no request came within 5 s");
    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn five_hundred_clients_at_once_are_answered_or_turned_away() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let socket = socket(&world);
    let mut streams: Vec<UnixStream> = (0..500).map(|_| connect(&socket)).collect();
    for stream in &mut streams {
        // Those that were turned away may be closed by now.
        let _closed = stream.write_all(STATUS);
    }
    assert!(held(&daemon).fds <= before.fds + CLIENTS + 1, "{:?}", held(&daemon));
    let (mut answered, mut turned_away) = (0, 0);
    for stream in streams {
        let answer = line(&mut BufReader::new(stream));
        if answer.contains("\"Converged\"") {
            answered += 1;
        } else {
            assert_eq!(error_of(&answer), "too many clients; try again");
            turned_away += 1;
        }
    }
    assert!(answered >= 64 && answered + turned_away == 500, "{answered} + {turned_away}");
    assert_let_go(&daemon, before);
    let grown = held(&daemon).kib.saturating_sub(before.kib);
    assert!(grown < 16 << 10, "{grown} KiB are kept");
    daemon.stop();
}

#[test]
fn who_asks_for_a_look_and_hangs_up_is_forgotten_before_it_ends() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let fault = FaultKind::Hang { millis: 15_000, holding_flock: false };
    world.node.inject(Fault::next(fault).on("set")).unwrap();
    world.pct(&["set", "100", "--delete", "mp0"]);
    let calls = world.calls().len();
    eventually("pct hangs", || world.calls().len() > calls);
    let begun = Instant::now();
    for _ in 0..40 {
        connect(&socket(&world)).write_all(RECONCILE).unwrap();
    }
    // One that only ended its side waits for the answer.
    let patient = connect(&socket(&world));
    (&patient).write_all(RECONCILE).unwrap();
    patient.shutdown(Shutdown::Write).unwrap();
    eventually("those that hung up are gone", || held(&daemon).fds <= before.fds + 8);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let answer: Value = serde_json::from_str(&line(&mut BufReader::new(patient))).unwrap();
    assert_eq!(answer["version"], 1, "{answer:#}");
    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn who_does_not_read_what_he_asked_for_is_let_go() {
    let Some(world) = world() else { return };
    // So many absent containers that a status is more than a socket holds.
    let mounts: Vec<String> = (1000..3000).map(|ctid| format!(r#""{ctid}": "/data""#)).collect();
    world.volumes("", &DATA.replace(r#""100": "/data""#, &mounts.join(",")));
    let daemon = world.pctd.start();
    daemon.until("all is looked at", |status| states(status).all(|(_, is)| is != "Unknown"));
    let before = held(&daemon);
    let mut streams: Vec<UnixStream> = (0..10).map(|_| connect(&socket(&world))).collect();
    for stream in &mut streams {
        stream.write_all(STATUS).unwrap();
    }
    let status = daemon.status();
    assert!(status.to_string().len() > 1 << 19, "the status is too small for this test");
    assert!(held(&daemon).fds >= before.fds + 10, "{:?}, before {before:?}", held(&daemon));
    assert_let_go(&daemon, before);
    daemon.stop();
}
