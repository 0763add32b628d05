//! Fixed-width numbers in headers. Promises: no read outside the slice; what is not there is
//! `None`.

/// `N` bytes from `at`.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A big-endian 16-bit number.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    take(bytes, at).map(u16::from_be_bytes)
}

/// A big-endian 32-bit number.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    take(bytes, at).map(u32::from_be_bytes)
}

/// A big-endian 64-bit number.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    take(bytes, at).map(u64::from_be_bytes)
}

/// A little-endian 32-bit number.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    take(bytes, at).map(u32::from_le_bytes)
}

/// A big-endian number of up to eight bytes.
pub(crate) fn be(bytes: &[u8]) -> Option<u64> {
    let fits = bytes.len() <= 8;
    fits.then(|| bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

/// Ticks of a clock in milliseconds; `None` for a clock that stands still and for "unknown".
pub(crate) fn millis(ticks: u64, ticks_per_sec: u64) -> Option<u64> {
    let millis = (u128::from(ticks) * 1000).checked_div(u128::from(ticks_per_sec))?;
    u64::try_from(millis).ok().filter(|_| ticks != u64::MAX)
}
