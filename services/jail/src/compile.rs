//! Turns a system-call profile into BPF, when the crate is built: `build.rs` includes this file, tests use it too.
//!
//! Promises: every comparison is seccompiler's, and no answer depends on how its programs are joined. Refuses a file with
//! an unknown key, an unknown call, a repeated call or a line without a reason.

use std::collections::HashSet;

use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

/// Calls that are compared one after the other. The kernel asks a new filter about every call that it knows, so a run
/// of all that is listed would make each cell's start longer.
const RUN: usize = 6;

/// linux/bpf_common.h: load a word of seccomp_data, compare with a constant (unsigned), jump, answer.
const LOAD: u16 = 0x20;
const AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const ANSWER: u16 = 0x06;
/// linux/seccomp.h: SECCOMP_RET_ALLOW.
const ALLOW: u32 = 0x7fff_0000;
/// linux/errno.h: these two are the same on every processor.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Why a profile does not compile.
#[derive(Debug, Error)]
pub(crate) enum CompileError {
    /// Not JSON, or not of the expected shape.
    #[error("the profile is not in the expected format")]
    Format(#[source] serde_json::Error),
    /// No list for this processor.
    #[error("the profile has no system-call list for this processor")]
    Processor,
    /// The same call twice.
    #[error("the profile lists {0} twice")]
    Repeated(String),
    /// A line without a reason, or with arguments that contradict each other.
    #[error("the profile's line for {0} is incomplete or contradicts itself")]
    Line(String),
    /// seccompiler refused, for example an unknown call.
    #[error("the profile does not compile")]
    Compile(#[source] seccompiler::Error),
}

/// One program for the payload, one for process 1.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) payload: BpfProgram,
    pub(crate) init: BpfProgram,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "profile")]
    _name: String,
    #[serde(rename = "about")]
    _about: Vec<String>,
    x86_64: Option<Lists>,
    aarch64: Option<Lists>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    payload: Vec<Line>,
    init: Vec<Line>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    syscall: String,
    #[serde(default)]
    args: Vec<Arg>,
    otherwise: Option<Refusal>,
    then: Option<Refusal>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arg {
    index: u8,
    width: Width,
    mask: Option<u64>,
    is: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Width {
    Dword,
    Qword,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Refusal {
    Eperm,
    Enosys,
}

/// Compiles for a processor, named as in `std::env::consts::ARCH`.
pub(crate) fn compile(text: &str, processor: &str) -> Result<Compiled, CompileError> {
    let (lists, target) = lists(text, processor)?;
    let program = |lines| Ok::<_, CompileError>(dispatch(&runs(lines, target)?));
    Ok(Compiled { payload: program(&lists.payload)?, init: program(&lists.init)? })
}

fn lists(text: &str, processor: &str) -> Result<(Lists, TargetArch), CompileError> {
    let file: File = serde_json::from_str(text).map_err(CompileError::Format)?;
    let (lists, target) = match processor {
        "x86_64" => (file.x86_64, TargetArch::x86_64),
        "aarch64" => (file.aarch64, TargetArch::aarch64),
        _ => return Err(CompileError::Processor),
    };
    let lists = lists.ok_or(CompileError::Processor)?;
    check(&lists.payload)?;
    check(&lists.init)?;
    Ok((lists, target))
}

/// Programs for some of the calls each, with the number of the first, in the order of numbers.
fn runs(lines: &[Line], target: TargetArch) -> Result<Vec<(u32, BpfProgram)>, CompileError> {
    let numbered = lines.iter().map(|line| Ok((number(&line.syscall, target)?, line)));
    let mut numbered: Vec<(u32, &Line)> = numbered.collect::<Result<_, _>>()?;
    numbered.sort_unstable_by_key(|(number, _)| *number);
    let run = |calls: &[(u32, &Line)]| {
        let lines: Vec<&Line> = calls.iter().map(|(_, line)| *line).collect();
        let first = calls.first().map_or(0, |(number, _)| *number);
        Ok((first, joined(stages(&lines, target)?)))
    };
    if numbered.is_empty() { Ok(vec![run(&[])?]) } else { numbered.chunks(RUN).map(run).collect() }
}

/// ENOSYS, EPERM, then the allowlist: three programs of which the kernel would take the strictest answer.
fn stages(lines: &[&Line], target: TargetArch) -> Result<Vec<BpfProgram>, CompileError> {
    let mut stages = Vec::new();
    for (with, errno) in [(Refusal::Enosys, ENOSYS), (Refusal::Eperm, EPERM)] {
        let rules = refused(lines, with);
        if !rules.is_empty() {
            stages.push(program(&rules, "allow", &json!({"errno": errno}), target)?);
        }
    }
    stages.push(program(&allowed(lines), "kill_process", &json!("allow"), target)?);
    Ok(stages)
}

/// Each program but the last goes on with the next where it would have allowed. The same as the strictest answer of
/// all, because what one of them refuses politely the last one allows.
fn joined(mut stages: Vec<BpfProgram>) -> BpfProgram {
    let last = stages.pop().unwrap_or_default();
    let mut whole = BpfProgram::new();
    for stage in stages {
        let len = stage.len();
        whole.extend(stage.into_iter().enumerate().map(|(at, word)| match (word.code, word.k) {
            (ANSWER, ALLOW) => jump(len - at - 1),
            _ => word,
        }));
    }
    whole.extend(last);
    whole
}

/// Finds the run that a call's number belongs to by halving. Each run looks at the processor, and has the last word.
fn dispatch(runs: &[(u32, BpfProgram)]) -> BpfProgram {
    // The call's number is the first word of seccomp_data.
    let load = sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 };
    [vec![load], halved(runs)].concat()
}

fn halved(runs: &[(u32, BpfProgram)]) -> BpfProgram {
    let (low, high) = runs.split_at(runs.len() / 2);
    match (low, high) {
        ([], [(_, only), ..]) => only.clone(),
        (_, [(first, _), ..]) => {
            let (low, high) = (halved(low), halved(high));
            let compare = sock_filter { code: AT_LEAST, jt: 0, jf: 1, k: *first };
            [vec![compare, jump(low.len())], low, high].concat()
        }
        // Only of no runs at all.
        (_, []) => BpfProgram::new(),
    }
}

/// Skips that many instructions.
fn jump(over: usize) -> sock_filter {
    let k = u32::try_from(over).expect("a program has at most 4096 instructions");
    sock_filter { code: JUMP, jt: 0, jf: 0, k }
}

/// The call's number: the first comparison of a program that allows only this call, after the processor's.
fn number(call: &str, target: TargetArch) -> Result<u32, CompileError> {
    let only = program(&[json!({"syscall": call})], "kill_process", &json!("allow"), target)?;
    Ok(only.get(4).expect("seccompiler loads and compares the processor, then the number").k)
}

fn program(
    rules: &[Value],
    otherwise: &str,
    then: &Value,
    target: TargetArch,
) -> Result<BpfProgram, CompileError> {
    let filter = json!({"default_action": otherwise, "filter_action": then, "filter": rules});
    let source = json!({ "it": filter }).to_string();
    let mut programs =
        compile_from_json(source.as_bytes(), target).map_err(CompileError::Compile)?;
    Ok(programs.remove("it").expect("compile_from_json keeps every key of its input"))
}

/// The format's rules that serde cannot see.
fn check(lines: &[Line]) -> Result<(), CompileError> {
    let mut seen = HashSet::new();
    for line in lines {
        if !seen.insert(&line.syscall) {
            return Err(CompileError::Repeated(line.syscall.clone()));
        }
        // A polite refusal is "this argument is none of these", which one comparison of one argument can say.
        let polite = matches!(line.args.as_slice(), [only] if only.mask.is_none());
        let whole = line.then.is_some() && (!line.args.is_empty() || line.otherwise.is_some());
        let lists_nothing = line.args.iter().any(|arg| arg.is.is_empty());
        if line.why.is_empty() || whole || lists_nothing || (line.otherwise.is_some() && !polite) {
            return Err(CompileError::Line(line.syscall.clone()));
        }
    }
    Ok(())
}

/// Rules of the allowlist. A call that another filter refuses politely must be allowed here, or the kill would win.
fn allowed(lines: &[&Line]) -> Vec<Value> {
    let mut rules = Vec::new();
    for line in lines {
        let name = &line.syscall;
        if line.args.is_empty() || line.otherwise.is_some() {
            rules.push(json!({"syscall": name}));
            continue;
        }
        // Every combination of one value per argument is a rule of its own; rules of one call are alternatives.
        let mut combinations: Vec<Vec<Value>> = vec![Vec::new()];
        for arg in &line.args {
            combinations = combinations
                .iter()
                .flat_map(|chosen| {
                    let op =
                        arg.mask.map_or_else(|| json!("eq"), |mask| json!({"masked_eq": mask}));
                    arg.is.iter().map(move |value| {
                        let next = condition(arg, &op, *value);
                        chosen.iter().cloned().chain([next]).collect()
                    })
                })
                .collect();
        }
        rules.extend(combinations.iter().map(|args| json!({"syscall": name, "args": args})));
    }
    rules
}

/// Rules of a filter that refuses with one errno.
fn refused(lines: &[&Line], with: Refusal) -> Vec<Value> {
    let mut rules = Vec::new();
    for line in lines {
        let name = &line.syscall;
        if line.then == Some(with) {
            rules.push(json!({"syscall": name}));
        }
        if line.otherwise == Some(with) {
            for arg in &line.args {
                let args: Vec<Value> =
                    arg.is.iter().map(|value| condition(arg, &json!("ne"), *value)).collect();
                rules.push(json!({"syscall": name, "args": args}));
            }
        }
    }
    rules
}

fn condition(arg: &Arg, op: &Value, value: u64) -> Value {
    json!({"index": arg.index, "type": arg.width, "op": op, "val": value})
}

#[cfg(test)]
mod tests {
    use seccompiler::sock_filter;

    use super::{CompileError, File, Line, compile, lists, stages};
    use crate::profile::{EXEC_FD, Profile};

    fn file(line: &str) -> String {
        format!(r#"{{"profile":"t","about":[],"x86_64":{{"payload":[{line}],"init":[]}}}}"#)
    }

    fn refused(line: &str) -> CompileError {
        compile(&file(line), "x86_64").unwrap_err()
    }

    /// BRK-35: what the profiles must never contain.
    #[test]
    fn profiles_load_and_leave_out_the_dangerous_calls() {
        const NEVER: &str = "socket socketpair connect bind execve fork vfork ptrace mount umount2 bpf unshare setns \
            keyctl add_key userfaultfd io_uring_setup process_vm_readv process_vm_writev perf_event_open kexec_load \
            init_module finit_module open_by_handle_at name_to_handle_at pivot_root chroot setuid setgid setresuid \
            setresgid setgroups capset seccomp memfd_create symlink symlinkat link linkat mknod mknodat chmod fchmod \
            fchmodat chown kill tkill pidfd_open pidfd_getfd shmget msgget semget personality modify_ldt";
        for profile in [Profile::Probe, Profile::Transcode] {
            compile(profile.text(), "x86_64").unwrap();
            let file: File = serde_json::from_str(profile.text()).unwrap();
            let lists = file.x86_64.unwrap();
            for line in lists.payload.iter().chain(&lists.init) {
                assert!(
                    !NEVER.split_whitespace().any(|name| name == line.syscall),
                    "{}",
                    line.syscall
                );
            }
            let exec = lists.payload.iter().find(|line| line.syscall == "execveat").unwrap();
            assert_eq!(exec.args.first().unwrap().is, [u64::try_from(EXEC_FD).unwrap()]);
        }
    }

    #[test]
    fn probe_is_a_subset_of_transcode() {
        let names = |profile: Profile| -> Vec<String> {
            let file: File = serde_json::from_str(profile.text()).unwrap();
            file.x86_64.unwrap().payload.into_iter().map(|line| line.syscall).collect()
        };
        let all = names(Profile::Transcode);
        assert!(names(Profile::Probe).iter().all(|name| all.contains(name)));
    }

    #[test]
    fn malformed_lines_are_refused() {
        let no_reason = refused(r#"{"syscall":"read","why":""}"#);
        assert!(matches!(no_reason, CompileError::Line(_)));
        let twice = r#"{"syscall":"read","why":"a"},{"syscall":"read","why":"b"}"#;
        assert!(matches!(refused(twice), CompileError::Repeated(_)));
        assert!(matches!(refused(r#"{"syscall":"raed","why":"a"}"#), CompileError::Compile(_)));
        assert!(matches!(
            refused(r#"{"syscall":"read","why":"a","x":1}"#),
            CompileError::Format(_)
        ));
        let both = r#"{"syscall":"read","then":"eperm","otherwise":"eperm","why":"a"}"#;
        assert!(matches!(refused(both), CompileError::Line(_)));
        let nothing =
            r#"{"syscall":"read","args":[{"index":0,"width":"dword","is":[]}],"why":"a"}"#;
        assert!(matches!(refused(nothing), CompileError::Line(_)));
    }

    #[test]
    fn an_uncovered_processor_is_refused() {
        let error = compile(Profile::Probe.text(), "aarch64").unwrap_err();
        assert!(matches!(error, CompileError::Processor));
        assert!(matches!(compile(Profile::Probe.text(), "s390x"), Err(CompileError::Processor)));
    }

    /// What the kernel does with a program: seccomp(2), linux/filter.h.
    fn answer(program: &[sock_filter], data: &[u32; 16]) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let branch = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                0x20 => word = data[step.k as usize / 4],
                0x54 => word &= step.k,
                0x05 => at += step.k as usize,
                0x15 => at += branch(word == step.k),
                0x25 => at += branch(word > step.k),
                0x35 => at += branch(word >= step.k),
                0x06 => return step.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// The strictest: the smallest action as a signed number, linux/seccomp.h.
    fn strictest(programs: &[Vec<sock_filter>], data: &[u32; 16]) -> u32 {
        let answers = programs.iter().map(|program| answer(program, data));
        answers.min_by_key(|answer| (answer & 0xffff_0000).cast_signed()).unwrap()
    }

    /// BRK-35: one program with halving answers as seccompiler's three programs, one after the other, would.
    #[test]
    fn joining_changes_no_answer() {
        const X86_64: u32 = 0xc000_003e;
        for profile in [Profile::Probe, Profile::Transcode] {
            let compiled = compile(profile.text(), "x86_64").unwrap();
            let (lists, target) = lists(profile.text(), "x86_64").unwrap();
            let all = [(&lists.payload, &compiled.payload), (&lists.init, &compiled.init)];
            for (lines, joined) in all {
                let lines: Vec<&Line> = lines.iter().collect();
                let plain = stages(&lines, target).unwrap();
                let args = lines.iter().flat_map(|line| &line.args);
                let mut values: Vec<u64> =
                    args.flat_map(|arg| arg.is.iter().copied().chain(arg.mask)).collect();
                values.extend([0, 1, u64::MAX, 1 << 32]);
                let mut seen = std::collections::HashSet::new();
                for call in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                    for (processor, value) in [X86_64, 0x4000_0003]
                        .into_iter()
                        .flat_map(|it| values.iter().map(move |v| (it, *v)))
                    {
                        let words = [value & 0xffff_ffff, value >> 32];
                        let words = words.map(|word| u32::try_from(word).unwrap());
                        let mut data = [0; 16];
                        data[..2].copy_from_slice(&[call, processor]);
                        for arg in data[4..].chunks_mut(2) {
                            arg.copy_from_slice(&words);
                        }
                        let expected = strictest(&plain, &data);
                        assert_eq!(answer(joined, &data), expected, "{call} {value:#x}");
                        seen.insert(expected);
                    }
                }
                assert!(seen.len() >= 2, "some calls are allowed, some are not");
            }
        }
    }

    /// What is compiled in is what the files say now.
    #[test]
    fn the_program_of_the_build_is_the_file_s() {
        let words = |program: &[sock_filter]| -> Vec<(u16, u8, u8, u32)> {
            program.iter().map(|word| (word.code, word.jt, word.jf, word.k)).collect()
        };
        let built = |program: &[libc::sock_filter]| -> Vec<(u16, u8, u8, u32)> {
            program.iter().map(|word| (word.code, word.jt, word.jf, word.k)).collect()
        };
        for profile in [Profile::Probe, Profile::Transcode] {
            let (now, then) = (compile(profile.text(), std::env::consts::ARCH), profile.filters());
            let (now, then) = (now.unwrap(), then.unwrap());
            assert_eq!(words(&now.payload), built(then.payload));
            assert_eq!(words(&now.init), built(then.init));
        }
    }
}
