//! Turns a system-call profile into BPF, when the crate is built: `build.rs` includes this file, tests use it too.
//!
//! Promises: every comparison is seccompiler's, and no answer depends on how its programs are joined. Refuses a file with
//! an unknown key, an unknown call, a repeated call or a line without a reason. `compiled.rs` has the tests.

use std::collections::HashSet;

use seccompiler::{BpfProgram, TargetArch, compile_from_json, sock_filter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use shrink::shrink;

#[path = "shrink.rs"]
pub(crate) mod shrink;

/// Calls that are compared one after the other. The kernel asks a new filter about every call that it knows, so a run
/// of all that is listed would make each cell's start longer.
const RUN: usize = 6;

/// linux/bpf_common.h: load a word of seccomp_data, compare with a constant (unsigned), jump, answer.
const LOAD: u16 = 0x20;
const AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const ANSWER: u16 = 0x06;
/// linux/seccomp.h: SECCOMP_RET_ALLOW, SECCOMP_RET_TRACE (without a tracer: ENOSYS) and SECCOMP_RET_USER_NOTIF, each
/// stricter than the one before.
const ALLOW: u32 = 0x7fff_0000;
const TRACE: u32 = 0x7ff0_0000;
const NOTIFY: u32 = 0x7fc0_0000;
/// Every use of this call asks process 1, also the right one: it happens once.
const EXEC: &str = "execveat";
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

/// One program each.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// What the payload may call. A named call is answered with TRACE, which is ENOSYS where nobody traces, so that it
    /// is refused also if nobody listens.
    pub(crate) payload: BpfProgram,
    /// Asks process 1 about every exec and every named call; all else is the payload's filter's business.
    pub(crate) watch: BpfProgram,
    /// What process 1 may call.
    pub(crate) init: BpfProgram,
    /// Numbers and names of the calls that `watch` asks about.
    pub(crate) names: Vec<(u32, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(rename = "profile")]
    _name: String,
    #[serde(rename = "about")]
    _about: Vec<String>,
    pub(crate) x86_64: Option<Lists>,
    pub(crate) aarch64: Option<Lists>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lists {
    pub(crate) payload: Vec<Line>,
    pub(crate) named: Vec<Named>,
    pub(crate) init: Vec<Line>,
}

/// Calls that name an attack, with one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) syscalls: Vec<String>,
    /// As in [`Line`].
    #[serde(default)]
    unwatched: Vec<u64>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) syscall: String,
    #[serde(default)]
    pub(crate) args: Vec<Arg>,
    pub(crate) otherwise: Option<Refusal>,
    pub(crate) then: Option<Refusal>,
    /// Values of a named call's first argument that are not asked about, and kill.
    #[serde(default)]
    pub(crate) unwatched: Vec<u64>,
    pub(crate) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arg {
    pub(crate) index: u8,
    pub(crate) width: Width,
    pub(crate) mask: Option<u64>,
    pub(crate) is: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Width {
    Dword,
    Qword,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    Eperm,
    Enosys,
    Named,
}

/// Compiles for a processor, named as in `std::env::consts::ARCH`.
pub(crate) fn compile(text: &str, processor: &str) -> Result<Compiled, CompileError> {
    let (lists, target) = lists(text, processor)?;
    let program = |lines| Ok::<_, CompileError>(shrink(dispatch(&runs(lines, target, stages)?)));
    let asked = lists.payload.iter().filter(|line| line.otherwise == Some(Refusal::Named));
    let asked = asked.chain(lists.payload.iter().filter(|line| line.then == Some(Refusal::Named)));
    let names = asked.map(|line| Ok((number(&line.syscall, target)?, line.syscall.clone())));
    Ok(Compiled {
        payload: program(&lists.payload)?,
        watch: shrink(dispatch(&runs(&lists.payload, target, watched)?)),
        init: program(&lists.init)?,
        names: names.collect::<Result<_, CompileError>>()?,
    })
}

/// The lists for one processor; in the payload's, every named call has a line of its own.
pub(crate) fn lists(text: &str, processor: &str) -> Result<(Lists, TargetArch), CompileError> {
    let file: File = serde_json::from_str(text).map_err(CompileError::Format)?;
    let (lists, target) = match processor {
        "x86_64" => (file.x86_64, TargetArch::x86_64),
        "aarch64" => (file.aarch64, TargetArch::aarch64),
        _ => return Err(CompileError::Processor),
    };
    let mut lists = lists.ok_or(CompileError::Processor)?;
    for named in &lists.named {
        lists.payload.extend(named.syscalls.iter().map(|syscall| Line {
            syscall: syscall.clone(),
            args: Vec::new(),
            otherwise: None,
            then: Some(Refusal::Named),
            unwatched: named.unwatched.clone(),
            why: named.why.clone(),
        }));
    }
    check(&lists.payload)?;
    check(&lists.init)?;
    Ok((lists, target))
}

/// Programs for some of the calls each, with the number of the first, in the order of numbers.
fn runs(
    lines: &[Line],
    target: TargetArch,
    stages: impl Fn(&[&Line], TargetArch) -> Result<Vec<BpfProgram>, CompileError>,
) -> Result<Vec<(u32, BpfProgram)>, CompileError> {
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

/// ENOSYS, EPERM, named, then the allowlist: the answer is that of the first which does not allow.
pub(crate) fn stages(lines: &[&Line], target: TargetArch) -> Result<Vec<BpfProgram>, CompileError> {
    let mut stages = Vec::new();
    let answers = [
        (Refusal::Enosys, json!({"errno": ENOSYS})),
        (Refusal::Eperm, json!({"errno": EPERM})),
        (Refusal::Named, json!({"trace": 0})),
    ];
    for (with, answer) in answers {
        let rules = refused(lines, with);
        if !rules.is_empty() {
            stages.push(program(&rules, "allow", &answer, target)?);
        }
    }
    stages.push(program(&allowed(lines), "kill_process", &json!("allow"), target)?);
    Ok(stages)
}

/// One program that asks about every named call, and about every exec.
fn watched(lines: &[&Line], target: TargetArch) -> Result<Vec<BpfProgram>, CompileError> {
    let mut rules = refused(lines, Refusal::Named);
    if lines.iter().any(|line| line.syscall == EXEC) {
        rules.retain(|rule| rule.get("syscall") != Some(&json!(EXEC)));
        rules.push(json!({"syscall": EXEC}));
    }
    let mut asks = program(&rules, "allow", &json!({"trace": 0}), target)?;
    for word in &mut asks {
        // seccompiler has no name for this answer.
        if (word.code, word.k) == (ANSWER, TRACE) {
            word.k = NOTIFY;
        }
    }
    Ok(vec![asks])
}

/// Each program but the last goes on with the next where it would have allowed.
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
pub(crate) fn number(call: &str, target: TargetArch) -> Result<u32, CompileError> {
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
        // A refusal of the others is "an argument is none of these", which no comparison after a mask can say.
        let polite = !line.args.is_empty() && line.args.iter().all(|arg| arg.mask.is_none());
        let split = line.otherwise == Some(Refusal::Named) && !line.args.is_empty();
        let whole =
            line.then.is_some() && !split && (!line.args.is_empty() || line.otherwise.is_some());
        let named = [line.then, line.otherwise].contains(&Some(Refusal::Named));
        let unwatched = !line.unwatched.is_empty() && !named;
        let lists_nothing = line.args.iter().any(|arg| arg.is.is_empty());
        if line.why.is_empty()
            || whole
            || unwatched
            || lists_nothing
            || (line.otherwise.is_some() && !polite)
        {
            return Err(CompileError::Line(line.syscall.clone()));
        }
    }
    Ok(())
}

/// Rules of the allowlist: what no filter before it refuses.
fn allowed(lines: &[&Line]) -> Vec<Value> {
    lines.iter().filter(|line| line.then.is_none()).flat_map(|line| listed(line)).collect()
}

/// Rules of a filter that refuses in one way.
fn refused(lines: &[&Line], with: Refusal) -> Vec<Value> {
    let mut rules = Vec::new();
    for line in lines {
        if line.then == Some(with) {
            rules.extend(listed(line));
        }
        if line.otherwise == Some(with) {
            rules.extend(unlisted(line));
        }
    }
    rules
}

/// Rules for the line's own arguments, if it has any: every combination of one value per argument is a rule of its own, and rules of
/// one call are alternatives.
fn listed(line: &Line) -> Vec<Value> {
    if line.args.is_empty() {
        let first = |value| json!({"index": 0, "type": "qword", "op": "ne", "val": value});
        let args: Vec<Value> = line.unwatched.iter().map(first).collect();
        return vec![match args.as_slice() {
            [] => json!({"syscall": &line.syscall}),
            args => json!({"syscall": &line.syscall, "args": args}),
        }];
    }
    let mut combinations: Vec<Vec<Value>> = vec![Vec::new()];
    for arg in &line.args {
        let op = arg.mask.map_or_else(|| json!("eq"), |mask| json!({"masked_eq": mask}));
        combinations = combinations
            .iter()
            .flat_map(|chosen| {
                arg.is.iter().map(|value| {
                    let next = condition(arg, &op, *value);
                    chosen.iter().cloned().chain([next]).collect()
                })
            })
            .collect();
    }
    combinations.iter().map(|args| json!({"syscall": &line.syscall, "args": args})).collect()
}

/// Rules for every other argument: one of them is none of its values.
fn unlisted(line: &Line) -> Vec<Value> {
    let mut rules = Vec::new();
    for (at, arg) in line.args.iter().enumerate() {
        let unwatched = if at == 0 { line.unwatched.as_slice() } else { &[] };
        let values = arg.is.iter().chain(unwatched);
        let args: Vec<Value> = values.map(|value| condition(arg, &json!("ne"), *value)).collect();
        rules.push(json!({"syscall": &line.syscall, "args": args}));
    }
    rules
}

fn condition(arg: &Arg, op: &Value, value: u64) -> Value {
    json!({"index": arg.index, "type": arg.width, "op": op, "val": value})
}
