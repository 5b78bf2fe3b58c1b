//! What is sent: whatever is no request, what never ends, and what comes along with it.

use std::fs::File;
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd as _;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;

#[test]
fn whatever_is_no_request_gets_its_answer_and_the_daemon_goes_on() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let socket = socket(&world);
    let before = held(&daemon);
    let deep = [b"{\"version\":1,\"op\":".as_slice(), &b"[".repeat(100_000), b"\n"].concat();
    let many = format!(
        "{{\"version\":1,\"op\":\"status\",\"keys\":[\"a{}\"]}}\n",
        "\",\"a".repeat(50_000)
    );
    let garbage: [&[u8]; 9] = [
        b"\n",
        b"garbage\n",
        b"\xff\xfe\x00\x01\n",
        b"\0\0\0\0\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"version\":1}\n",
        b"{\"version\":18446744073709551616,\"op\":\"status\"}\n",
        &deep,
        "{\"version\":1,\"op\":\"\u{202e}status\"}\n".as_bytes(),
    ];
    for bytes in garbage {
        let error = error_of(&ask(connect(&socket), bytes));
        assert!(error.starts_with("this is no request: "), "{error}");
    }
    let unknown = ask(connect(&socket), many.as_bytes());
    assert_eq!(error_of(&unknown), "a is not in the configuration in force");

    // Half-closed: what was sent counts, and is answered.
    for bytes in [STATUS, STATUS.trim_ascii_end()] {
        let stream = connect(&socket);
        (&stream).write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(line(&mut BufReader::new(stream)).contains("\"Converged\""));
    }
    // Nothing at all, and one that does not stay for the answer.
    let stream = connect(&socket);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(line(&mut BufReader::new(stream)), "");
    for bytes in [STATUS, RECONCILE, FOLLOW, b"{"] {
        connect(&socket).write_all(bytes).unwrap();
    }
    // The first request of a connection is its only one.
    let stream = connect(&socket);
    (&stream).write_all(&[STATUS, RECONCILE].concat()).unwrap();
    let mut all = String::new();
    // What was not read when the daemon closed is a reset to the client.
    let _reset = BufReader::new(stream).read_to_string(&mut all);
    assert_eq!(all.lines().count(), 1, "{all}");

    assert_let_go(&daemon, before);
    daemon.stop();
}

#[test]
fn a_line_of_100_mb_is_cut_off_early() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket(&world);
            thread::spawn(move || {
                let stream = connect(&socket);
                let chunk = vec![b'x'; 1 << 20];
                let sent = (0..100).take_while(|_| (&stream).write_all(&chunk).is_ok()).count();
                (sent, line(&mut BufReader::new(stream)))
            })
        })
        .collect();
    for writer in writers {
        let (megabytes, answer) = writer.join().unwrap();
        // What a socket holds, and the longest request.
        assert!(megabytes <= 1, "{megabytes} MB were taken");
        assert_eq!(error_of(&answer), "a request has at most 262144 bytes");
    }
    assert_let_go(&daemon, before);
    let grown = held(&daemon).kib.saturating_sub(before.kib);
    assert!(grown < 16 << 10, "{grown} KiB are kept");
    daemon.stop();
}

#[test]
fn descriptors_that_are_passed_along_are_never_received() {
    let Some(world) = world() else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let before = held(&daemon);
    let marker = world.host("/tank/marker");
    let file = File::create(&marker).unwrap();
    let fds = [file.as_fd(); 50];
    let pass = |bytes: &[u8]| {
        let stream = connect(&socket(&world));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(50))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
        stream
    };
    let has_marker = || {
        let links = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).any(|to| to == marker)
    };
    for _ in 0..20 {
        let answer = line(&mut BufReader::new(pass(STATUS)));
        assert!(answer.contains("\"Converged\""), "{answer}");
    }
    let waiting: Vec<UnixStream> = (0..20).map(|_| pass(b"{\"version\"")).collect();
    assert!(!has_marker());
    drop(waiting);
    assert_let_go(&daemon, before);
    assert!(!has_marker());
    daemon.stop();
}
