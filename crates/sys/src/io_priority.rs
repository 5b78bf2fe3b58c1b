//! `ioprio_set`: how a thread stands in line for the disk.

use std::ffi::c_int;

use rustix::io::Errno;

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h; with 0 it means the calling thread.
const WHO_THREAD: c_int = 1;
/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)`: the class is above bit 13.
const IDLE: c_int = 3 << 13;

/// Lets the calling thread use the disk only when nobody else does.
///
/// It lasts as long as the thread; schedulers without priorities (`none`, `mq-deadline` in part)
/// ignore it.
///
/// # Errors
///
/// As `ioprio_set(2)`; kernels before 2.6.25 want `CAP_SYS_ADMIN`.
pub fn make_idle() -> Result<(), Errno> {
    // SAFETY: all arguments are integers; nothing of this process's memory is involved.
    let returned = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_THREAD, 0, IDLE) };
    crate::check(returned).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_step_back() {
        let made = std::thread::spawn(make_idle).join().unwrap();
        assert_eq!(made, Ok(()));
    }
}
