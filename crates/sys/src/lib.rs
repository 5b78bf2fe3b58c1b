//! The system calls pctd needs that neither the standard library nor rustix offers.
//!
//! This is the one crate of pctd that contains `unsafe`: each block is one system call with its proof
//! beside it. Everything is safe to call from outside: what the kernel hands back is
//! taken apart in safe code, with every length checked.
//!
//! - `call`: a system call without a function around it; [`close`](mod@close) is one.
//! - [`chmod`]: the mode of an open file, `O_PATH` and links included (`fchmodat2`).
//! - [`fanotify`]: what changes on a whole file system, as it happens.
//! - [`handle`]: names of files that need no open fd.
//! - [`idmapped`]: mounts with mapped ids (`mount_setattr`).
//! - [`io_priority`]: how a thread stands in line for the disk.
//! - [`namespace`]: which namespace another one was made in (`NS_GET_PARENT`).
//! - [`xattr`]: whether an open file has an attribute (`getxattrat`).

#![cfg(target_os = "linux")]

use std::ffi::c_long;

use rustix::io::Errno;

mod call;
pub mod chmod;
pub mod close;
pub mod fanotify;
pub mod handle;
pub mod idmapped;
pub mod io_priority;
pub mod namespace;
pub mod xattr;

/// Turns what a call returned into a result; to be called right after it, on the same thread.
fn check(returned: c_long) -> Result<c_long, Errno> {
    if returned >= 0 {
        return Ok(returned);
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
