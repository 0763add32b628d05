//! One system call, whatever it is: the unsafe lines of this program.

use std::ffi::{CStr, CString, c_long};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One call with up to six arguments.
pub(crate) fn call<const N: usize>(nr: c_long, args: [c_long; N]) -> io::Result<c_long> {
    let at = |index: usize| args.get(index).copied().unwrap_or(0);
    // SAFETY: every pointer that this program passes is to a live value of the size that the call wants, or null.
    let result = unsafe { libc::syscall(nr, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`call`], for those whose result does not matter.
pub(crate) fn done<const N: usize>(nr: c_long, args: [c_long; N]) -> io::Result<()> {
    call(nr, args).map(|_| ())
}

/// As [`call`], for those that answer with a descriptor.
pub(crate) fn descriptor<const N: usize>(nr: c_long, args: [c_long; N]) -> io::Result<OwnedFd> {
    let fd = i32::try_from(call(nr, args)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A call that this program makes with wrong arguments on purpose, so that nothing happens: it works if the kernel gets
/// so far as to say `beyond`, which it says only to whoever has the right.
pub(crate) fn reach<const N: usize>(nr: c_long, args: [c_long; N], beyond: i32) -> io::Result<()> {
    match call(nr, args) {
        Err(error) if error.raw_os_error() == Some(beyond) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Where a value is.
pub(crate) fn pointer<T: ?Sized>(value: &T) -> c_long {
    std::ptr::from_ref(value).cast::<u8>() as c_long
}

pub(crate) fn c_text(text: &str) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

/// Where a C string is; it must outlive the call.
pub(crate) fn text(text: &CStr) -> c_long {
    text.as_ptr() as c_long
}

pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
