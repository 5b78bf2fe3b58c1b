//! A system call without a function around it.
//!
//! A processor guesses where a `ret` leads from the calls it saw. A kernel that guards its own returns
//! (Spectre, SRSO) leaves other guesses behind, so the first `ret` of a program after a system call is
//! guessed wrong: 0.2 us on a Zen 4, a good part of what a small call takes. libc's `syscall` is a
//! function and has such a `ret`; what is inlined as far as the loop it is called from has none.

#![expect(clippy::inline_always, reason = "see above")]

use std::ffi::{c_int, c_long};

use rustix::io::Errno;

/// What can be handed to the kernel: a number or an address, as one register.
pub(crate) trait Argument {
    fn word(self) -> usize;
}

impl Argument for c_int {
    #[inline]
    #[expect(clippy::as_conversions, clippy::cast_sign_loss, reason = "to the width of a register")]
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for u32 {
    #[inline]
    #[expect(clippy::as_conversions, reason = "to the width of a register")]
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for usize {
    #[inline]
    fn word(self) -> usize {
        self
    }
}

impl<T> Argument for *const T {
    #[inline]
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// Makes a system call; arguments that it does not have are 0.
///
/// # Safety
///
/// The kernel must find what this call expects in its arguments: addresses of memory that is valid for
/// as long as the call takes, and not borrowed by anybody where it writes to it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<(), Errno> {
    let returned: isize;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: this is the kernel's calling convention (syscall(2)): the number in rax, the arguments in
    // six registers, the result in rax; it overwrites rcx and r11 and no other register, and does not
    // touch the stack. What it does to memory is the caller's to answer for, and the compiler takes
    // it to be anything.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => returned,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match i32::try_from(returned) {
        Ok(error @ -4095..=-1) => Err(Errno::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

/// As on the machines above, through libc.
///
/// # Safety
///
/// As there.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<(), Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: as the caller says of the arguments.
    let returned = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    crate::check(returned).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_told() {
        let root = c"/".as_ptr().word();
        let access = |dir: c_int, name| {
            // SAFETY: the name is the address of a string with an end, or none at all, which the kernel
            // tells; the rest are numbers.
            unsafe { call(libc::SYS_faccessat, [dir.word(), name, 0, 0, 0, 0]) }
        };
        assert_eq!(access(libc::AT_FDCWD, root), Ok(()));
        assert_eq!(access(libc::AT_FDCWD, 1), Err(Errno::FAULT));
        assert_eq!(access(-1, c"name".as_ptr().word()), Err(Errno::BADF));
    }
}
