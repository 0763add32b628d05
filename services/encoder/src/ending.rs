//! How a cell ended, and what that means for the attempt. Pure.
//!
//! Promises: every ending but exit code 0 has exactly one code. Refuses to read what the program
//! printed: its text is the attacker's, so the verdict rests on what the kernel says.

use hotcell_jail::cell::End;
use hotcell_schemas::{
    RejectCode,
    plan::CellLimits,
    reject::Failure,
    report::{CellEnd, CellUse},
};

/// Signal numbers of Linux on every processor that cells run on.
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;
const SIGSYS: i32 = 31;

/// Which program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// ffprobe.
    Prober,
    /// ffmpeg.
    Transcoder,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Prober => "the prober",
            Self::Transcoder => "the transcoder",
        }
    }
}

/// What is known of a cell that ended, beside how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// User and system CPU of the cell, in milliseconds.
    pub(crate) cpu_ms: u64,
    /// All outputs together have passed the size limit.
    pub(crate) output_full: bool,
}

/// The launcher's word for an ending, in the report's.
pub(crate) fn reported(end: &End) -> CellEnd {
    match end {
        End::Exited(code) => CellEnd::Exited(*code),
        End::Signaled(signal) => CellEnd::Signaled(*signal),
        End::WallClock => CellEnd::WallClock,
        End::OutputLimit | End::Cancelled => CellEnd::Stopped,
        End::LauncherRefused(_) => CellEnd::Refused,
    }
}

/// Why a cell that ended so made nothing of use; `None` when it ended well.
pub(crate) fn failure(
    program: Program,
    usage: CellUse,
    limits: &CellLimits,
    output_full: bool,
) -> Option<Failure> {
    let evidence = Evidence { cpu_ms: usage.cpu_ms, output_full };
    let code = verdict(program, usage.end, evidence, limits)?;
    let name = program.name();
    let how = match usage.end {
        CellEnd::Exited(code) => format!("{name} ended with exit code {code}"),
        CellEnd::Signaled(signal) => format!("{name} was ended by signal {signal}"),
        CellEnd::WallClock => format!("{name} was ended after {} s", limits.wall_secs),
        CellEnd::Stopped if output_full => format!("{name} wrote more than it may"),
        CellEnd::Stopped => format!("{name} was stopped"),
        CellEnd::Refused => format!("{name} was not started; the worker's log says why"),
    };
    Some(Failure::new(code, how))
}

fn verdict(
    program: Program,
    end: CellEnd,
    evidence: Evidence,
    limits: &CellLimits,
) -> Option<RejectCode> {
    let cpu_spent = evidence.cpu_ms >= u64::from(limits.cpu_secs).saturating_mul(1000);
    Some(match end {
        CellEnd::Exited(0) => return None,
        CellEnd::Signaled(SIGSYS) => RejectCode::CellViolation,
        CellEnd::WallClock => RejectCode::ResourceWall,
        CellEnd::Refused => RejectCode::CellUnavailable,
        CellEnd::Signaled(SIGXCPU) => RejectCode::ResourceCpu,
        // FFmpeg catches SIGXCPU and leaves with a code of its own; the hard limit sends SIGKILL.
        CellEnd::Signaled(SIGKILL) if cpu_spent => RejectCode::ResourceCpu,
        CellEnd::Exited(code) if code != 0 && cpu_spent => RejectCode::ResourceCpu,
        CellEnd::Signaled(SIGXFSZ) => RejectCode::ResourceOutput,
        CellEnd::Stopped if evidence.output_full => RejectCode::ResourceOutput,
        // Nothing else of ours sends SIGKILL without saying so: it was the kernel, out of memory.
        CellEnd::Signaled(SIGKILL) => RejectCode::ResourceMemory,
        CellEnd::Signaled(_) => RejectCode::CellCrashed,
        CellEnd::Stopped => RejectCode::WorkerStopped,
        CellEnd::Exited(_) => match program {
            Program::Prober => RejectCode::ProbeFailed,
            Program::Transcoder => RejectCode::EncodeFailed,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CellLimits = CellLimits {
        memory_bytes: 1 << 30,
        cpu_secs: 60,
        wall_secs: 30,
        output_bytes: 1 << 20,
        temp_bytes: 1 << 20,
        procs: 64,
    };
    const CALM: Evidence = Evidence { cpu_ms: 10, output_full: false };
    const FULL: Evidence = Evidence { cpu_ms: 10, output_full: true };
    const SPENT: Evidence = Evidence { cpu_ms: 60_000, output_full: false };

    #[test]
    fn every_ending_has_its_code() {
        use Program::{Prober, Transcoder};
        use RejectCode as C;
        let rows = [
            (Transcoder, CellEnd::Exited(0), CALM, None),
            (Transcoder, CellEnd::Exited(0), SPENT, None),
            (Transcoder, CellEnd::Exited(1), CALM, Some(C::EncodeFailed)),
            (Transcoder, CellEnd::Exited(255), CALM, Some(C::EncodeFailed)),
            (Transcoder, CellEnd::Exited(255), SPENT, Some(C::ResourceCpu)),
            (Prober, CellEnd::Exited(1), CALM, Some(C::ProbeFailed)),
            (Prober, CellEnd::Signaled(31), CALM, Some(C::CellViolation)),
            (Transcoder, CellEnd::Signaled(31), FULL, Some(C::CellViolation)),
            (Transcoder, CellEnd::WallClock, CALM, Some(C::ResourceWall)),
            (Transcoder, CellEnd::WallClock, SPENT, Some(C::ResourceWall)),
            (Transcoder, CellEnd::Signaled(24), CALM, Some(C::ResourceCpu)),
            (Transcoder, CellEnd::Signaled(9), SPENT, Some(C::ResourceCpu)),
            (Transcoder, CellEnd::Signaled(9), CALM, Some(C::ResourceMemory)),
            (Transcoder, CellEnd::Signaled(25), CALM, Some(C::ResourceOutput)),
            (Transcoder, CellEnd::Stopped, FULL, Some(C::ResourceOutput)),
            (Transcoder, CellEnd::Stopped, CALM, Some(C::WorkerStopped)),
            (Transcoder, CellEnd::Signaled(6), CALM, Some(C::CellCrashed)),
            (Prober, CellEnd::Signaled(11), CALM, Some(C::CellCrashed)),
            (Prober, CellEnd::Refused, CALM, Some(C::CellUnavailable)),
        ];
        for (program, end, evidence, expect) in rows {
            assert_eq!(verdict(program, end, evidence, &LIMITS), expect, "{program:?} {end:?}");
        }
    }

    #[test]
    fn the_launcher_s_words_are_kept_but_its_sentence() {
        let rows = [
            (End::Exited(3), CellEnd::Exited(3)),
            (End::Signaled(9), CellEnd::Signaled(9)),
            (End::WallClock, CellEnd::WallClock),
            (End::Cancelled, CellEnd::Stopped),
            (End::OutputLimit, CellEnd::Stopped),
            (End::LauncherRefused("/host/path".to_owned()), CellEnd::Refused),
        ];
        for (end, expect) in rows {
            assert_eq!(reported(&end), expect);
        }
        let usage = CellUse { end: CellEnd::Refused, cpu_ms: 0, memory_bytes_max: 0, wall_ms: 0 };
        let failure = failure(Program::Prober, usage, &LIMITS, false).unwrap();
        assert_eq!(failure.code, RejectCode::CellUnavailable);
    }
}
