//! The system-call profiles: data files with one commented line per call, compiled in and turned into BPF.
//!
//! Promises: what runs is what `profiles/*.json` says, and [`Profile::hash`] names those bytes. Refuses to load a file
//! with an unknown key, an unknown call, a repeated call or a line without a reason, and to run on a processor that
//! the file does not cover.

use std::collections::HashSet;
use std::env::consts::ARCH;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

const TRANSCODE: &str = include_str!("../profiles/transcode.json");
const PROBE: &str = include_str!("../profiles/probe.json");

/// The descriptor number that the one allowed execveat names. Above RLIMIT_NOFILE's later value and close-on-exec, so
/// once the payload runs nothing can ever have this number again. The profiles repeat it. That execveat happens once
/// is the work of process 1 (`inside.rs`): the kernel ignores the number when the path is absolute.
pub(crate) const EXEC_FD: i32 = 1000;

/// Which calls a cell may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Reads its input, writes to standard output only, has one thread: ffprobe, `-version`.
    Probe,
    /// Reads its inputs, writes files to `/out` and `/tmp`: every ffmpeg job.
    Transcode,
}

/// Why a profile cannot be used. Only an edited profile or a new processor can cause it; tests load every profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Not JSON, or not of the expected shape.
    #[error("the profile is not in the expected format")]
    Format(#[source] serde_json::Error),
    /// No section for this processor.
    #[error(
        "the profile has no system-call list for {ARCH}: run on one that it covers, or add a list"
    )]
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

/// Filters in the order in which they must be added: each later one sees what the earlier ones allow.
#[derive(Debug)]
pub(crate) struct Filters {
    /// ENOSYS, EPERM, then the allowlist. The kernel runs all and takes the strictest answer.
    pub(crate) payload: [BpfProgram; 3],
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

impl Profile {
    /// The name that `--profile` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Transcode => "transcode",
        }
    }

    /// The profile with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Probe, Self::Transcode].into_iter().find(|profile| profile.name() == name)
    }

    /// The bytes of the profile's file.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Probe => PROBE,
            Self::Transcode => TRANSCODE,
        }
    }

    /// SHA-256 of the file, in hex: goes into every report, so that evidence names the rules that were in force.
    #[must_use]
    pub fn hash(self) -> String {
        hex::encode(Sha256::digest(self.text()))
    }

    /// Compiles for the running processor.
    pub(crate) fn compile(self) -> Result<Filters, ProfileError> {
        compile(self.text(), ARCH)
    }
}

fn compile(text: &str, processor: &str) -> Result<Filters, ProfileError> {
    let file: File = serde_json::from_str(text).map_err(ProfileError::Format)?;
    let (lists, target) = match processor {
        "x86_64" => (file.x86_64, TargetArch::x86_64),
        "aarch64" => (file.aarch64, TargetArch::aarch64),
        _ => return Err(ProfileError::Processor),
    };
    let lists = lists.ok_or(ProfileError::Processor)?;
    check(&lists.payload)?;
    check(&lists.init)?;
    let refuse = |with: Refusal, errno: i32| {
        filter(&refused(&lists.payload, with), "allow", &json!({"errno": errno}))
    };
    let source = json!({
        "enosys": refuse(Refusal::Enosys, libc::ENOSYS),
        "eperm": refuse(Refusal::Eperm, libc::EPERM),
        "payload": filter(&allowed(&lists.payload), "kill_process", &json!("allow")),
        "init": filter(&allowed(&lists.init), "kill_process", &json!("allow")),
    });
    let mut programs =
        compile_from_json(source.to_string().as_bytes(), target).map_err(ProfileError::Compile)?;
    let mut take =
        |name: &str| programs.remove(name).expect("compile_from_json keeps every key of its input");
    Ok(Filters { payload: [take("enosys"), take("eperm"), take("payload")], init: take("init") })
}

/// The format's rules that serde cannot see.
fn check(lines: &[Line]) -> Result<(), ProfileError> {
    let mut seen = HashSet::new();
    for line in lines {
        if !seen.insert(&line.syscall) {
            return Err(ProfileError::Repeated(line.syscall.clone()));
        }
        // A polite refusal is "this argument is none of these", which one comparison of one argument can say.
        let polite = matches!(line.args.as_slice(), [only] if only.mask.is_none());
        let whole = line.then.is_some() && (!line.args.is_empty() || line.otherwise.is_some());
        let lists_nothing = line.args.iter().any(|arg| arg.is.is_empty());
        if line.why.is_empty() || whole || lists_nothing || (line.otherwise.is_some() && !polite) {
            return Err(ProfileError::Line(line.syscall.clone()));
        }
    }
    Ok(())
}

fn filter(rules: &[Value], otherwise: &str, then: &Value) -> Value {
    json!({"default_action": otherwise, "filter_action": then, "filter": rules})
}

/// Rules of the allowlist. A call that another filter refuses politely must be allowed here, or the kill would win.
fn allowed(lines: &[Line]) -> Vec<Value> {
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
fn refused(lines: &[Line], with: Refusal) -> Vec<Value> {
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
    use super::{EXEC_FD, File, Profile, ProfileError, compile};

    fn file(line: &str) -> String {
        format!(r#"{{"profile":"t","about":[],"x86_64":{{"payload":[{line}],"init":[]}}}}"#)
    }

    fn refused(line: &str) -> ProfileError {
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
    fn hash_is_of_the_file() {
        let bytes =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/probe.json")).unwrap();
        assert_eq!(Profile::Probe.text().as_bytes(), bytes);
        assert_eq!(Profile::Probe.hash().len(), 64);
        assert_ne!(Profile::Probe.hash(), Profile::Transcode.hash());
    }

    #[test]
    fn malformed_lines_are_refused() {
        let no_reason = refused(r#"{"syscall":"read","why":""}"#);
        assert!(matches!(no_reason, ProfileError::Line(_)));
        let twice = r#"{"syscall":"read","why":"a"},{"syscall":"read","why":"b"}"#;
        assert!(matches!(refused(twice), ProfileError::Repeated(_)));
        assert!(matches!(refused(r#"{"syscall":"raed","why":"a"}"#), ProfileError::Compile(_)));
        assert!(matches!(
            refused(r#"{"syscall":"read","why":"a","x":1}"#),
            ProfileError::Format(_)
        ));
        let both = r#"{"syscall":"read","then":"eperm","otherwise":"eperm","why":"a"}"#;
        assert!(matches!(refused(both), ProfileError::Line(_)));
        let nothing =
            r#"{"syscall":"read","args":[{"index":0,"width":"dword","is":[]}],"why":"a"}"#;
        assert!(matches!(refused(nothing), ProfileError::Line(_)));
    }

    #[test]
    fn an_uncovered_processor_is_refused() {
        let error = compile(Profile::Probe.text(), "aarch64").unwrap_err();
        assert!(matches!(error, ProfileError::Processor));
        assert!(matches!(compile(Profile::Probe.text(), "s390x"), Err(ProfileError::Processor)));
    }
}
