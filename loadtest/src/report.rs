//! The results: one JSON file and one Markdown file for each day and machine, and tables for the
//! terminal. Promises: a scenario that is run again takes the place of its earlier entry; every
//! entry carries its own commit, time and load average.

use crate::{
    latency,
    machine::{Machine, Source},
    scenario::{Kind, Scenario},
};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What a run measured.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Rows of the kind's table.
    pub(crate) rows: Vec<Vec<String>>,
    /// What must be known to read them.
    pub(crate) notes: Vec<String>,
    /// The numbers, unrounded.
    pub(crate) numbers: Value,
}

/// One run of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What was run.
    pub scenario: Scenario,
    /// Of which source.
    pub source: Source,
    /// When it began, RFC 3339.
    pub at: String,
    /// Load average of the last minute before and after: the run's own load is in the second.
    pub load: [String; 2],
    /// Milliseconds of one sync of 2 KiB on that disk, before and after.
    pub sync_ms: [f64; 2],
    /// File system that held broker and store.
    pub file_system: String,
    /// Rows of the kind's table.
    pub rows: Vec<Vec<String>>,
    /// What must be known to read the rows.
    pub notes: Vec<String>,
    /// The numbers, unrounded.
    pub numbers: Value,
}

/// All of one day on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// The day.
    pub date: String,
    /// Each scenario once.
    pub entries: Vec<Entry>,
}

/// A sync above this means that the disk had other work, in milliseconds: 0.03 to 0.1 when it has
/// none, up to 4 when it has.
const QUIET_SYNC_MS: f64 = 0.5;

/// What the mark behind a scenario's name means.
const BUSY_NOTE: &str = "† the disk had other work (a sync above 0.5 ms before or after): the limit \
    and the run met different disks, so neither a goal met nor one missed follows from this row";

impl Entry {
    fn disk_was_busy(&self) -> bool {
        self.scenario.durability.is_some() && self.sync_ms.iter().any(|ms| *ms > QUIET_SYNC_MS)
    }

    /// The rows, with the mark where it belongs.
    fn marked(&self) -> Vec<Vec<String>> {
        let mut rows = self.rows.clone();
        if self.disk_was_busy() {
            rows.iter_mut().filter_map(|row| row.first_mut()).for_each(|name| name.push_str(" †"));
        }
        rows
    }
}

/// Heading of a kind's table.
fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Throughput => &[
            "scenario",
            "jobs/s",
            "messages/job",
            "bytes/message",
            "bare messages/s",
            "bare jobs/s",
            "ratio",
            "goal",
            "p50 ms",
            "p99 ms",
            "CPU ms/job",
        ],
        Kind::Latency => {
            &["scenario", "jobs/s", "p50 ms", "p99 ms", "max ms", "CPU ms/job", "most jobs/s"]
        }
        Kind::Cell => &[
            "start to exit",
            "min ms",
            "median ms",
            "p90 ms",
            "p99 ms",
            "CPU ms",
            "over spawn",
            "over unshare",
            "goal",
        ],
        Kind::Starts => &[
            "start to exit",
            "min ms",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "CPU ms/cell",
            "cells/s",
        ],
        Kind::Encode => {
            &["encode", "wall s", "CPU s", "CPU ratio", "half of all", "all pairs", "goal"]
        }
        Kind::Micro => &["loop", "per second", "us each"],
        Kind::Batch => &["batch", "wall s", "clips/s", "CPU s", "over xargs", "goal"],
        Kind::Edge => {
            &["request", "per second", "p50 ms", "p99 ms", "intake CPU us", "over /livez"]
        }
        Kind::Flood => &["wait for a worker", "p50 ms", "p95 ms", "max ms", "p95 ratio", "goal"],
    }
}

const fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Throughput => "Throughput: a no-op program in real cells, against bare publishes",
        Kind::Latency => "Latency: submit to webhook received, open loop",
        Kind::Cell => "Cell: start to exit of a trivial program",
        Kind::Starts => "Cells: one at a time, and several at once",
        Kind::Encode => "Encode: processor time in the cell, against the same program by itself",
        Kind::Micro => "Signatures: one thread, in process",
        Kind::Batch => "Batch: two-second clips, against xargs ffmpeg on local files",
        Kind::Edge => "Edge: requests that one intake answers, with every check on",
        Kind::Flood => "Flood: how long a tenant's burst waits beside another's backlog",
    }
}

impl Report {
    /// The report of this day and machine in `dir`: continued, or new.
    ///
    /// # Errors
    /// When there is one that does not read.
    pub fn open(dir: &Path, machine: Machine, date: &str) -> Result<Self> {
        let new = Self { machine, date: date.to_owned(), entries: Vec::new() };
        let path = new.path(dir, "json");
        let Ok(text) = fs::read(&path) else { return Ok(new) };
        let old: Self =
            serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
        Ok(Self { entries: old.entries, ..new })
    }

    fn path(&self, dir: &Path, extension: &str) -> PathBuf {
        dir.join(format!("{}-{}.{extension}", self.date, self.machine.slug()))
    }

    /// Adds an entry, in the place of an earlier one of the same scenario.
    pub fn add(&mut self, entry: Entry) {
        let same = |old: &&mut Entry| old.scenario.name == entry.scenario.name;
        match self.entries.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    /// Writes both files; the path of the readable one.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        let json = self.path(dir, "json");
        let text = format!("{}\n", serde_json::to_string_pretty(self)?);
        fs::write(&json, text).with_context(|| format!("{}", json.display()))?;
        let path = self.path(dir, "md");
        fs::write(&path, self.markdown()).with_context(|| format!("{}", path.display()))?;
        Ok(path)
    }

    fn of(&self, kind: Kind) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.scenario.kind == kind).collect()
    }

    fn rows(&self, kind: Kind) -> Vec<Vec<String>> {
        let heading = columns(kind).iter().map(|&word| word.to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![heading];
        rows.extend(self.of(kind).into_iter().flat_map(Entry::marked));
        if kind == Kind::Latency {
            let most = self.of(kind).into_iter().map(|entry| self.most(entry));
            rows.iter_mut().skip(1).zip(most).for_each(|(row, most)| row.push(most));
            rows.push(latency::reference());
        }
        rows
    }

    /// Most jobs per second that the same installation did, as its throughput run has it.
    fn most(&self, entry: &Entry) -> String {
        let like = |it: &&Entry| {
            let of = |entry: &Entry| (entry.scenario.durability, entry.scenario.tenants);
            it.scenario.kind == Kind::Throughput && of(it) == of(entry)
        };
        let rate = self.entries.iter().find(like).and_then(|it| it.rows.first()?.get(1).cloned());
        rate.unwrap_or_else(|| "not measured".to_owned())
    }

    /// The table of one kind, for the terminal.
    #[must_use]
    pub fn table(&self, kind: Kind) -> String {
        let notes: String = self.footnotes(kind).iter().map(|note| format!("{note}\n")).collect();
        format!("{}\n\n{}{notes}", title(kind), aligned(&self.rows(kind)))
    }

    fn footnotes(&self, kind: Kind) -> Vec<&'static str> {
        let busy = self.of(kind).into_iter().any(Entry::disk_was_busy).then_some(BUSY_NOTE);
        let reference = (kind == Kind::Latency).then_some(latency::REFERENCE_NOTE);
        busy.into_iter().chain(reference).collect()
    }

    /// The whole report.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Machine { cpu, cores, memory_gib, kernel } = &self.machine;
        let mut text = format!(
            "# Measured on {}\n\n{cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}. Driver, \
             broker, store, services and cells share these cores.\nMade by `make bench`; edits are \
             lost. Ratios are taken in one run on one machine, so they travel better than rates.\n",
            self.date
        );
        for kind in Kind::ALL {
            let entries = self.of(kind);
            if entries.is_empty() {
                continue;
            }
            let _infallible = write!(text, "\n## {}\n\n", title(kind));
            text.push_str(&pipes(&self.rows(kind)));
            text.push('\n');
            for note in self.footnotes(kind) {
                let _infallible = writeln!(text, "{}.\n", note.replace('*', "\\*"));
            }
            for Entry { scenario, source, at, load, sync_ms, file_system, notes, .. } in entries {
                let dirty = if source.dirty { " with changes" } else { "" };
                let _infallible = writeln!(
                    text,
                    "- {}: {at}, commit {}{dirty}, load average {} before and {} after, one \
                     sync on {file_system} {:.2} ms before and {:.2} ms after.",
                    scenario.name, source.commit, load[0], load[1], sync_ms[0], sync_ms[1],
                );
                for note in notes {
                    let _infallible = writeln!(text, "  - {note}");
                }
            }
        }
        text
    }
}

/// Rows with their columns lined up: words to the left, numbers to the right.
#[must_use]
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn pipes(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let _infallible = writeln!(text, "| {} |", row.join(" | ").replace('*', "\\*"));
        if index == 0 {
            let rule = row.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" });
            let _infallible = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        }
    }
    text
}
