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
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;
const SIGSYS: i32 = 31;

/// The call's name when only the signal tells that one was refused.
const UNKNOWN_CALL: &str = "unknown";

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

/// The launcher's word for an ending, in the report's.
pub(crate) fn reported(end: &End) -> CellEnd {
    match end {
        End::Exited(code) => CellEnd::Exited(*code),
        End::Signaled(signal) => CellEnd::Signaled(*signal),
        End::WallClock => CellEnd::WallClock,
        End::OutputLimit => CellEnd::OutputLimit,
        End::Stalled => CellEnd::Stalled,
        End::Memory => CellEnd::Memory,
        End::Pids => CellEnd::Pids,
        End::Cancelled => CellEnd::Stopped,
        End::LauncherRefused(_) => CellEnd::Refused,
    }
}

/// The refused system call of a cell that ended so: its name when the launcher knows it, `unknown`
/// when only the signal tells.
pub(crate) fn violation(end: CellEnd, named: Option<&str>) -> Option<String> {
    let unnamed = (end == CellEnd::Signaled(SIGSYS)).then_some(UNKNOWN_CALL);
    named.or(unnamed).map(str::to_owned)
}

/// Why a cell that ended so made nothing of use; `None` when it ended well.
pub(crate) fn failure(program: Program, used: &CellUse, limits: &CellLimits) -> Option<Failure> {
    let code = verdict(program, used, limits)?;
    let name = program.name();
    let how = match used.end {
        _ if code == RejectCode::CellViolation => {
            let call = used.violation.as_deref().unwrap_or(UNKNOWN_CALL);
            format!("{name} was killed for the system call {call}")
        }
        CellEnd::Exited(code) => format!("{name} ended with exit code {code}"),
        CellEnd::Signaled(signal) => format!("{name} was ended by signal {signal}"),
        CellEnd::WallClock => format!("{name} was ended after {} s", limits.wall_secs),
        CellEnd::OutputLimit => format!("{name} wrote more than it may"),
        CellEnd::Stalled => format!("{name} made no progress for {} s", limits.stall_secs),
        CellEnd::Memory => format!("{name} used more than {} bytes of memory", limits.memory_bytes),
        CellEnd::Pids => format!("{name} started more than {} threads", limits.procs),
        CellEnd::Stopped => format!("{name} was stopped"),
        CellEnd::Refused => format!("{name} was not started; the worker's log says why"),
    };
    Some(Failure::new(code, how))
}

fn verdict(program: Program, used: &CellUse, limits: &CellLimits) -> Option<RejectCode> {
    let cpu_spent = used.cpu_ms >= u64::from(limits.cpu_secs).saturating_mul(1000);
    if used.violation.is_some() {
        return Some(RejectCode::CellViolation);
    }
    Some(match used.end {
        CellEnd::Exited(0) => return None,
        CellEnd::Signaled(SIGSYS) => RejectCode::CellViolation,
        CellEnd::WallClock => RejectCode::ResourceWall,
        CellEnd::OutputLimit | CellEnd::Signaled(SIGXFSZ) => RejectCode::ResourceOutput,
        CellEnd::Stalled => RejectCode::Stalled,
        CellEnd::Memory => RejectCode::ResourceMemory,
        CellEnd::Pids => RejectCode::ResourcePids,
        CellEnd::Stopped => RejectCode::WorkerStopped,
        CellEnd::Refused => RejectCode::CellUnavailable,
        CellEnd::Signaled(SIGXCPU) => RejectCode::ResourceCpu,
        // FFmpeg catches SIGXCPU and leaves with a code of its own; the hard limit sends SIGKILL.
        CellEnd::Signaled(SIGKILL) if cpu_spent => RejectCode::ResourceCpu,
        CellEnd::Exited(code) if code != 0 && cpu_spent => RejectCode::ResourceCpu,
        // Nothing else of ours sends SIGKILL without saying so: it was the kernel, out of memory.
        CellEnd::Signaled(SIGKILL) => RejectCode::ResourceMemory,
        // C++ and others abort when they are given no more. Address space runs out well before all
        // of it is in use. A broken heap ends by the same signal, with little in use.
        CellEnd::Signaled(SIGABRT) if used.memory_bytes_max >= limits.memory_bytes / 2 => {
            RejectCode::ResourceMemory
        }
        CellEnd::Signaled(_) => RejectCode::CellCrashed,
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
        stall_secs: 10,
        files: 8,
    };
    const CALM: u64 = 10;
    const SPENT: u64 = 60_000;

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
            (Transcoder, CellEnd::Signaled(31), SPENT, Some(C::CellViolation)),
            (Transcoder, CellEnd::WallClock, CALM, Some(C::ResourceWall)),
            (Transcoder, CellEnd::WallClock, SPENT, Some(C::ResourceWall)),
            (Transcoder, CellEnd::Signaled(24), CALM, Some(C::ResourceCpu)),
            (Transcoder, CellEnd::Signaled(9), SPENT, Some(C::ResourceCpu)),
            (Transcoder, CellEnd::Signaled(9), CALM, Some(C::ResourceMemory)),
            (Transcoder, CellEnd::Memory, SPENT, Some(C::ResourceMemory)),
            (Transcoder, CellEnd::Pids, CALM, Some(C::ResourcePids)),
            (Transcoder, CellEnd::Stalled, CALM, Some(C::Stalled)),
            (Transcoder, CellEnd::Signaled(25), CALM, Some(C::ResourceOutput)),
            (Transcoder, CellEnd::OutputLimit, CALM, Some(C::ResourceOutput)),
            (Transcoder, CellEnd::Stopped, CALM, Some(C::WorkerStopped)),
            (Transcoder, CellEnd::Signaled(6), CALM, Some(C::CellCrashed)),
            (Prober, CellEnd::Signaled(11), CALM, Some(C::CellCrashed)),
            (Prober, CellEnd::Refused, CALM, Some(C::CellUnavailable)),
        ];
        for (program, end, cpu_ms, expect) in rows {
            let used = CellUse { cpu_ms, ..CellUse::nothing(end) };
            assert_eq!(verdict(program, &used, &LIMITS), expect, "{program:?} {end:?}");
            let failure = failure(program, &used, &LIMITS);
            assert_eq!(failure.map(|failure| failure.code), expect, "{program:?} {end:?}");
        }
    }

    #[test]
    fn an_abort_with_the_memory_used_up_is_not_held_against_the_bytes() {
        let check = |memory_bytes_max, expect| {
            let used = CellUse { memory_bytes_max, ..CellUse::nothing(CellEnd::Signaled(6)) };
            assert_eq!(verdict(Program::Transcoder, &used, &LIMITS), Some(expect));
        };
        check(100 << 20, RejectCode::CellCrashed);
        check((1 << 29) - 1, RejectCode::CellCrashed);
        check(1 << 29, RejectCode::ResourceMemory);
    }

    #[test]
    fn a_refused_call_is_named_however_the_cell_ended() {
        let check = |end, named: Option<&str>, expect: Option<&str>| {
            let violation = violation(end, named);
            assert_eq!(violation.as_deref(), expect);
            let used = CellUse { violation, ..CellUse::nothing(end) };
            let failure = failure(Program::Transcoder, &used, &LIMITS);
            let code = failure.as_ref().map(|failure| failure.code);
            assert_eq!(code == Some(RejectCode::CellViolation), expect.is_some(), "{end:?}");
            let says = |call| failure.is_some_and(|failure| failure.message.ends_with(call));
            assert!(expect.is_none_or(says));
        };
        check(CellEnd::Signaled(31), Some("socket"), Some("socket"));
        check(CellEnd::Signaled(31), None, Some(UNKNOWN_CALL));
        check(CellEnd::Exited(0), Some("connect"), Some("connect"));
        check(CellEnd::Exited(1), None, None);
        check(CellEnd::Signaled(11), None, None);
    }

    #[test]
    fn the_launcher_s_words_are_kept_but_its_sentence() {
        let rows = [
            (End::Exited(3), CellEnd::Exited(3)),
            (End::Signaled(9), CellEnd::Signaled(9)),
            (End::WallClock, CellEnd::WallClock),
            (End::Cancelled, CellEnd::Stopped),
            (End::OutputLimit, CellEnd::OutputLimit),
            (End::Stalled, CellEnd::Stalled),
            (End::Memory, CellEnd::Memory),
            (End::Pids, CellEnd::Pids),
            (End::LauncherRefused("/host/path".to_owned()), CellEnd::Refused),
        ];
        for (end, expect) in rows {
            assert_eq!(reported(&end), expect);
        }
    }
}
