//! Asking the daemon.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use pctd_core::request::WireRequest;

use crate::controller::followers::Answer;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Its socket is closed to this user.
    #[error(
        "the daemon at {socket} answers root and members of the group that `status_group` names \
         in the settings"
    )]
    Closed {
        /// The socket.
        socket: String,
    },
    /// It cannot be talked to.
    #[error("cannot ask the daemon at {socket}")]
    Failed {
        /// The socket.
        socket: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Asks the daemon; `None` where none is running, or it went without an answer: a killed one may
/// still be connected to, for as long as a child that it was starting has its socket.
///
/// # Errors
///
/// It is there and cannot be talked to.
pub(super) fn ask(socket: &Path, request: &WireRequest) -> Result<Option<Answer>, ClientError> {
    let failed = |source| ClientError::Failed { socket: socket.display().to_string(), source };
    let Some(mut stream) = connect(socket)? else { return Ok(None) };
    let mut answer = String::new();
    let asked =
        send(&mut stream, request).and_then(|()| BufReader::new(stream).read_line(&mut answer));
    match asked {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    serde_json::from_str(&answer).map(Some).map_err(|error| failed(error.into()))
}

/// Asks for a stream of answers; `None` where none is running.
///
/// # Errors
///
/// As [`ask`].
pub(super) fn follow(
    socket: &Path,
    request: &WireRequest,
) -> Result<Option<UnixStream>, ClientError> {
    let failed = |source| ClientError::Failed { socket: socket.display().to_string(), source };
    let Some(mut stream) = connect(socket)? else { return Ok(None) };
    send(&mut stream, request).map_err(failed)?;
    Ok(Some(stream))
}

/// Returns whether the other end went away.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn send(stream: &mut UnixStream, request: &WireRequest) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn connect(socket: &Path) -> Result<Option<UnixStream>, ClientError> {
    let failed = |source| ClientError::Failed { socket: socket.display().to_string(), source };
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::Closed { socket: socket.display().to_string() })
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use pctd_core::request::WireOp;

    use super::*;

    #[test]
    fn a_daemon_that_goes_without_an_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let request = WireRequest {
            version: 1,
            op: WireOp::Status,
            keys: Vec::new(),
            follow: false,
            confirm: false,
            config: None,
            read: None,
            order: None,
            yes: false,
        };
        for accepts in [true, false] {
            let socket = dir.path().join(format!("{accepts}"));
            let listener = UnixListener::bind(&socket).unwrap();
            let asked = std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(&socket, &request));
                if accepts {
                    let (mut client, _) = listener.accept().unwrap();
                    let mut line = String::new();
                    BufReader::new(&mut client).read_line(&mut line).unwrap();
                } else {
                    // Connected, and never taken.
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                drop(listener);
                asked.join().unwrap()
            });
            assert!(matches!(asked, Ok(None)), "{accepts}: {asked:?}");
        }
    }
}
