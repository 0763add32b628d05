//! The hostile program: it does what an attacker would do who has taken over ffmpeg. `hotcell breach` and the tests run
//! it in ffmpeg's place, once for each attack of the table in `src/breach.rs`.
//!
//! Usage: `hotcell-hostile ATTACK [ARGUMENT]...`. Promises: exit code 0 when the attack worked, 1 when the kernel
//! refused it (the errno is printed); a cell may also kill it. Refuses to do lasting harm: an attack only opens the
//! door, sends no signal but 0, writes nothing to files that it did not make, and ends within seconds, so that each can
//! be tried outside of a cell too, also as root, and works there.

mod bombs;
mod calls;
mod files;
mod floods;
mod memory;
mod neighbour;
mod network;
mod others;
mod programs;
mod rights;

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (attack, args) = args.split_first().map_or(("", &args[..]), |(first, rest)| (*first, rest));
    match run(attack, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("refused errno={}", error.raw_os_error().unwrap_or(0)));
            ExitCode::FAILURE
        }
    }
}

fn run(attack: &str, args: &[&str]) -> io::Result<()> {
    let groups = [
        bombs::run,
        files::run,
        floods::run,
        memory::run,
        network::run,
        others::run,
        programs::run,
        rights::run,
        neighbour::run,
    ];
    let known = groups.into_iter().find_map(|group| group(attack, args));
    known.unwrap_or(Err(io::ErrorKind::InvalidInput.into()))
}

/// One line on standard output.
fn say(text: &str) {
    // An attack without a reader still has its exit code.
    drop(writeln!(io::stdout(), "{text}"));
}

/// The argument with this number.
fn argument<'a>(args: &[&'a str], at: usize) -> io::Result<&'a str> {
    args.get(at).copied().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn number<T: std::str::FromStr>(args: &[&str], at: usize) -> io::Result<T> {
    argument(args, at)?.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// An attack that the kernel did not refuse and that still did not reach what it wanted.
fn missed<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}
