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
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ClientError::Closed { socket: socket.display().to_string() });
        }
        Err(error) => return Err(failed(error)),
    };
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map(Some).map_err(|error| failed(error.into()))
}
