//! What code that has taken over ffmpeg would try: one table of attacks, each with what stops it, run in real cells.
//!
//! Promises: every attack is a few lines of our own program (`src/bin/hostile/`), has worked in a test with the layers
//! of its row off, and was stopped there by each of these layers alone. Refuses to call an attack stopped that did not
//! run: then there is an error, and no verdict.

mod judge;
mod page;
mod plant;
mod range;
mod table;

pub use judge::Verdict;
pub use page::page;
pub use plant::{Plant, Targets};
pub use range::Range;
pub use table::ATTACKS;

use std::io;

use thiserror::Error;

use crate::cell::CellError;
use crate::layers::Layer;
use crate::limits::CellLimits;

/// One thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// Unique in the table.
    pub name: &'static str,
    /// What it is after, for people.
    pub tries: &'static str,
    /// Requirements that it proves.
    pub requirements: &'static [&'static str],
    /// The hostile program's arguments; `{name}` stands for what [`Plant`] knows.
    pub args: &'static str,
    /// How success shows.
    pub proof: Proof,
    /// The layers that each stop it alone; with all of them off, and only then, it works.
    pub stopped_by: &'static [Layer],
}

/// How to see that an attack worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The program says so, by exit code 0.
    Done,
    /// The canary is in what the program printed.
    Leak,
    /// A process of it is still there when the cell has ended.
    Survivor,
    /// A second cell finds what the first has left. What it does comes after `then` in the arguments.
    Heirloom,
    /// More of its output was kept than there is room for.
    Flood,
    /// As [`Proof::Done`]; it needs a terminal, which no cell has.
    Terminal,
}

impl Attack {
    /// Whether its defence has no switch: then a test shows that it works without a cell.
    #[must_use]
    pub const fn is_shown_outside(&self) -> bool {
        self.stopped_by.is_empty()
    }

    /// Whether it can be shown to work only by a launcher that is root.
    #[must_use]
    pub fn needs_root(&self) -> bool {
        self.stopped_by.iter().any(|layer| layer.needs_root_to_be_off())
    }
}

/// Limits of the cells in which attacks run: small, so that floods end at once and do no harm where they succeed. They
/// are enforced as those of a job are.
pub const LIMITS: CellLimits = CellLimits {
    memory_bytes: 256 << 20,
    cpu_secs: 1,
    wall_secs: 3,
    output_bytes: 4 << 20,
    nofile: 64,
    procs: 16,
    tmp_bytes: 1 << 20,
    files: 64,
    stall_secs: 60,
};

/// Why an attack has no verdict.
#[derive(Debug, Error)]
pub enum BreachError {
    /// A canary, a folder or the neighbour could not be made.
    #[error("cannot plant {0}")]
    Plant(&'static str, #[source] io::Error),
    /// No cell.
    #[error("cannot run a cell")]
    Cell(#[from] CellError),
    /// The launcher did not start the program, so nothing was tried.
    #[error("the cell did not start: {0}")]
    Refused(String),
}
