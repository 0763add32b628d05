//! The only file that writes to the terminal: results to stdout, the rest to stderr.

use crate::fail::Fail;
use serde::Serialize;
use std::{
    io::{self, ErrorKind, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether a result could not be written, for another reason than that its reader has gone.
static LOST: AtomicBool = AtomicBool::new(false);

/// A text without what a terminal would act on: workers and tenants wrote parts of it.
fn shown(text: &str) -> String {
    // What turns the direction of writing (Unicode UAX #9) makes one name look like another.
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let keep = |c: char| !turns(c) && (!c.is_control() || c == '\n');
    text.chars().map(|c| if keep(c) { c } else { '\u{fffd}' }).collect()
}

/// A result for people. When its reader has gone (`| head`) the command still goes to its end: an
/// installation that runs must not end for that.
pub(crate) fn line(text: impl AsRef<str>) {
    if let Err(error) = writeln!(io::stdout(), "{}", shown(text.as_ref()))
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
        note(format!("hotcell: the result could not be written: {error}"));
    }
}

/// Whether a part of the result is missing, for example because the disk is full.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// A result for machines.
pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).expect("our own results encode as JSON"));
}

/// A remark that is not the result; where nobody can read it, the exit code says enough.
pub(crate) fn note(text: impl AsRef<str>) {
    writeln!(io::stderr(), "{}", shown(text.as_ref())).ok();
}

/// The sentence that says why the command failed.
pub(crate) fn error(fail: &Fail) {
    note(format!("hotcell: {}", fail.message));
}

/// Rows with their columns lined up; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_s_words_do_nothing_to_the_terminal() {
        assert_eq!(
            shown("ffmpeg \u{1b}]0;owned\u{7}\r6.1\n"),
            "ffmpeg \u{fffd}]0;owned\u{fffd}\u{fffd}6.1\n"
        );
        assert_eq!(shown("\u{202e}nimda\u{2069} é"), "\u{fffd}nimda\u{fffd} é");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["stage", "ms"], ["submitted", "0"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "stage      ms\nsubmitted  0");
    }
}
