//! For tests: the launcher with system-call filters of the caller's, to show what each line of a profile is for.
//!
//! Promises: `hotcell-jail` has no way here; only `hotcell-jail-variant`, which no installation has, calls this, and its
//! reports carry [`HASH`] in place of a profile's. Refuses nothing: a variant may be as open as the test wants.

use std::ffi::OsString;

use libc::sock_filter;
use serde::Deserialize;

use crate::launcher;
use crate::profile::Filters;

/// What a report says in place of the profile's hash, which is hex.
pub const HASH: &str = "variant";

/// One instruction: linux/filter.h.
pub type Word = (u16, u8, u8, u32);

/// What replaces a profile's programs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// Of the payload.
    pub payload: Vec<Word>,
    /// Of the calls that process 1 is asked about.
    pub watch: Vec<Word>,
    /// Of process 1.
    pub init: Vec<Word>,
    /// Names of the calls that process 1 is asked about.
    pub names: Vec<(u32, String)>,
}

/// As [`launcher::main`], with these programs.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>, programs: Programs) -> u8 {
    let program = |words: Vec<Word>| -> &'static [sock_filter] {
        let word = |(code, jt, jf, k)| sock_filter { code, jt, jf, k };
        Box::leak(words.into_iter().map(word).collect::<Box<[_]>>())
    };
    let names: Vec<(u32, &'static str)> =
        programs.names.into_iter().map(|(call, name)| (call, &*name.leak())).collect();
    let filters = Filters {
        payload: program(programs.payload),
        watch: program(programs.watch),
        init: program(programs.init),
        names: Box::leak(names.into_boxed_slice()),
    };
    launcher::run(args, Some(Box::leak(Box::new(filters))))
}
