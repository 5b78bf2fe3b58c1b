//! Asking the daemon.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::controller::followers::Answer;
use crate::daemon::socket::WireRequest;

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

/// Asks the daemon; `None` where none is running.
///
/// # Errors
///
/// It is there and cannot be talked to.
pub(super) fn ask(socket: &Path, request: &WireRequest) -> Result<Option<Answer>, ClientError> {
    let failed = |source| ClientError::Failed { socket: socket.display().to_string(), source };
    let Some(mut stream) = connect(socket)? else { return Ok(None) };
    send(&mut stream, request).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
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
