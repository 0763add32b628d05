//! Tests of `compile.rs`: what the profiles must and must not hold, on both processors, and that no answer depends on how
//! programs are joined. A file of its own, because `compile.rs` is also part of `build.rs` and of `tests/profile`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use seccompiler::{TargetArch, sock_filter};

use crate::compile::shrink::answer;
use crate::compile::{Arg, CompileError, File, Line, Lists, Width, compile, lists, number, stages};
use crate::profile::{EXEC_FD, Profile};

/// linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;
/// As std::env::consts::ARCH and as linux/audit.h name them.
const PROCESSORS: [(&str, u32); 2] = [("x86_64", 0xc000_003e), ("aarch64", 0xc000_00b7)];
const PROFILES: [Profile; 2] = [Profile::Probe, Profile::Transcode];

fn file(line: &str) -> String {
    let (named, init) = (r#""named":[]"#, r#""init":[]"#);
    format!(r#"{{"profile":"t","about":[],"x86_64":{{"payload":[{line}],{named},{init}}}}}"#)
}

fn refused(line: &str) -> CompileError {
    compile(&file(line), "x86_64").unwrap_err()
}

fn all_lists() -> impl Iterator<Item = (Profile, &'static str, Lists)> {
    let of = |profile: Profile| {
        let file: File = serde_json::from_str(profile.text()).unwrap();
        [(profile, "x86_64", file.x86_64), (profile, "aarch64", file.aarch64)]
    };
    PROFILES.into_iter().flat_map(of).map(|(profile, name, lists)| (profile, name, lists.unwrap()))
}

/// BRK-35: what the profiles must never allow. All but the last line has a name in reports.
#[test]
fn profiles_leave_out_the_dangerous_calls() {
    const NAMED: &str = "socket socketpair connect bind execve ptrace mount umount2 bpf unshare setns open_tree move_mount \
        keyctl add_key userfaultfd io_uring_setup process_vm_readv process_vm_writev perf_event_open kexec_load \
        init_module finit_module open_by_handle_at name_to_handle_at pivot_root chroot setuid setgid setresuid \
        setresgid setgroups capset memfd_create symlinkat linkat mknodat fchmod fchmodat kill tkill pidfd_open \
        pidfd_getfd shmget msgget semget personality sendto sendmsg";
    const UNNAMED: &str =
        "seccomp landlock_restrict_self timer_create setitimer process_mrelease msync statx";
    for (profile, processor, lists) in all_lists() {
        let allowed: Vec<&str> =
            lists.payload.iter().chain(&lists.init).map(|line| line.syscall.as_str()).collect();
        let named: Vec<&str> =
            lists.named.iter().flat_map(|it| &it.syscalls).map(String::as_str).collect();
        for call in NAMED.split_whitespace() {
            assert!(named.contains(&call), "{} {processor} {call}", profile.name());
        }
        for call in named.iter().copied().chain(UNNAMED.split_whitespace()) {
            assert!(!allowed.contains(&call), "{} {processor} {call}", profile.name());
        }
        let exec = lists.payload.iter().find(|line| line.syscall == "execveat").unwrap();
        assert_eq!(exec.args.first().unwrap().is, [u64::try_from(EXEC_FD).unwrap()]);
        // Reading the question only: an answer would be NOTIF_SEND, 0xc0182101.
        let ioctl = lists.init.iter().find(|line| line.syscall == "ioctl").unwrap();
        assert_eq!(ioctl.args.first().unwrap().is, [0xc050_2100]);
    }
}

#[test]
fn probe_is_a_subset_of_transcode() {
    let lists: Vec<Lists> = all_lists().map(|(_, _, lists)| lists).collect();
    for (probe, transcode) in [(&lists[0], &lists[2]), (&lists[1], &lists[3])] {
        let names = |lists: &Lists| -> Vec<String> {
            lists.payload.iter().map(|line| line.syscall.clone()).collect()
        };
        let all = names(transcode);
        assert!(names(probe).iter().all(|name| all.contains(name)));
    }
}

/// The two processors' lists are the same but for what the C library calls there: asm-generic/unistd.h has no call that
/// another replaces, and aarch64 has its thread pointer in a register.
#[test]
fn processors_differ_only_where_their_calls_do() {
    const REPLACED: [(&str, &str); 7] = [
        ("access", "faccessat"),
        ("poll", "ppoll"),
        ("readlink", "readlinkat"),
        ("rename", "renameat"),
        ("unlink", "unlinkat"),
        ("arch_prctl", ""),
        ("iopl ioperm modify_ldt fork vfork chmod chown lchown link symlink mknod", ""),
    ];
    let replace = |call: &str| -> Option<String> {
        let row = REPLACED.iter().find(|(here, _)| here.split(' ').any(|name| name == call));
        let there = row.map_or(call, |(_, there)| there);
        (!there.is_empty()).then(|| there.to_owned())
    };
    let lists: Vec<Lists> = all_lists().map(|(_, _, lists)| lists).collect();
    for (x86_64, aarch64) in [(&lists[0], &lists[1]), (&lists[2], &lists[3])] {
        for (here, there) in [(&x86_64.payload, &aarch64.payload), (&x86_64.init, &aarch64.init)] {
            let rest: Vec<&Line> =
                here.iter().filter(|line| replace(&line.syscall).is_some()).collect();
            assert_eq!(rest.len(), there.len());
            for (here, there) in rest.into_iter().zip(there) {
                assert_eq!(replace(&here.syscall).unwrap(), there.syscall);
                let mut args = here.args.clone();
                if there.syscall == "unlinkat" {
                    // The one argument that the replacement has and the replaced has not: no AT_REMOVEDIR.
                    args = vec![Arg { index: 2, width: Width::Dword, mask: None, is: vec![0] }];
                }
                assert_eq!(args, there.args, "{}", there.syscall);
                let rule = |line: &Line| (line.then, line.otherwise, line.unwatched.clone());
                assert_eq!(rule(here), rule(there), "{}", there.syscall);
            }
        }
        let names = |lists: &Lists| -> Vec<String> {
            lists.named.iter().flat_map(|it| it.syscalls.clone()).collect()
        };
        let rest: Vec<String> = names(x86_64).iter().filter_map(|name| replace(name)).collect();
        assert_eq!(rest, names(aarch64));
    }
}

#[test]
fn malformed_lines_are_refused() {
    let no_reason = refused(r#"{"syscall":"read","why":""}"#);
    assert!(matches!(no_reason, CompileError::Line(_)));
    let twice = r#"{"syscall":"read","why":"a"},{"syscall":"read","why":"b"}"#;
    assert!(matches!(refused(twice), CompileError::Repeated(_)));
    assert!(matches!(refused(r#"{"syscall":"raed","why":"a"}"#), CompileError::Compile(_)));
    assert!(matches!(refused(r#"{"syscall":"read","why":"a","x":1}"#), CompileError::Format(_)));
    let both = r#"{"syscall":"read","then":"eperm","otherwise":"eperm","why":"a"}"#;
    assert!(matches!(refused(both), CompileError::Line(_)));
    let nothing = r#"{"syscall":"read","args":[{"index":0,"width":"dword","is":[]}],"why":"a"}"#;
    assert!(matches!(refused(nothing), CompileError::Line(_)));
}

#[test]
fn an_uncovered_processor_is_refused() {
    let one = file(r#"{"syscall":"read","why":"a"}"#);
    assert!(matches!(compile(&one, "aarch64"), Err(CompileError::Processor)));
    assert!(matches!(compile(Profile::Probe.text(), "s390x"), Err(CompileError::Processor)));
}

/// The answer of the first program that does not allow.
fn first_refusal(programs: &[Vec<sock_filter>], data: &[u32; 16]) -> u32 {
    let mut answers = programs.iter().map(|program| answer(program, data));
    answers.find(|answer| *answer != ALLOW).unwrap_or(ALLOW)
}

/// What a call with the same value for all arguments looks like to a filter.
fn asked(call: u32, processor: u32, value: u64) -> [u32; 16] {
    let words = [value & 0xffff_ffff, value >> 32].map(|word| u32::try_from(word).unwrap());
    let mut data = [0; 16];
    data[..2].copy_from_slice(&[call, processor]);
    data[4..].chunks_mut(2).for_each(|arg| arg.copy_from_slice(&words));
    data
}

/// Every number that a filter could know, with every value that could matter to these lines.
fn every_question(lines: &[Line], processor: u32) -> impl Iterator<Item = [u32; 16]> {
    let args = lines.iter().flat_map(|line| &line.args);
    let mut values: Vec<u64> =
        args.flat_map(|arg| arg.is.iter().copied().chain(arg.mask)).collect();
    values.extend(lines.iter().flat_map(|line| &line.unwatched));
    values.extend([0, 1, u64::MAX, 1 << 32]);
    let calls = (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]);
    calls.flat_map(move |call| {
        let values = values.clone();
        // i386, the other way into this kernel.
        let processors = [processor, 0x4000_0003].into_iter();
        processors.flat_map(move |processor| {
            values.clone().into_iter().map(move |value| asked(call, processor, value))
        })
    })
}

/// Each call whose arguments are looked at, with every combination of what they may and may not be, in either half of
/// their words; the other arguments are empty, or full.
fn every_combination(lines: &[Line], target: TargetArch, processor: u32) -> Vec<[u32; 16]> {
    let halves = |value: u64| [value, value | (1 << 32), value | (1 << 63), !value];
    let mut questions = Vec::new();
    for line in lines {
        let call = number(&line.syscall, target).unwrap();
        for rest in [0, u64::MAX] {
            let mut some = vec![asked(call, processor, rest)];
            for (at, arg) in line.args.iter().enumerate() {
                let mask = arg.mask.unwrap_or(0);
                // Each bit of a mask by itself, too.
                let bits = (0..64).map(|bit| mask & (1 << bit)).filter(|bit| *bit != 0);
                let mut values: Vec<u64> = bits.chain([0, 1, !mask, u64::MAX]).collect();
                values.extend(if at == 0 { line.unwatched.as_slice() } else { &[] });
                values.extend(arg.is.iter().flat_map(|value| halves(*value)));
                some =
                    some.iter().flat_map(|question| with(question, arg.index, &values)).collect();
            }
            questions.extend(some);
        }
    }
    questions
}

fn with(question: &[u32; 16], index: u8, values: &[u64]) -> Vec<[u32; 16]> {
    let place = 4 + 2 * usize::from(index);
    let one = |value: &u64| {
        let mut question = *question;
        question[place..place + 2].copy_from_slice(&asked(0, 0, *value)[4..6]);
        question
    };
    values.iter().map(one).collect()
}

/// BRK-35: one program with halving answers as seccompiler's programs, one after the other, would.
#[test]
fn joining_changes_no_answer() {
    for profile in PROFILES {
        for (name, processor) in PROCESSORS {
            let compiled = compile(profile.text(), name).unwrap();
            let (lists, target) = lists(profile.text(), name).unwrap();
            let all = [(&lists.payload, &compiled.payload), (&lists.init, &compiled.init)];
            for (lines, joined) in all {
                let every: Vec<&Line> = lines.iter().collect();
                let plain = stages(&every, target).unwrap();
                let mut seen = std::collections::HashSet::new();
                let questions = every_combination(lines, target, processor);
                for data in questions.into_iter().chain(every_question(lines, processor)) {
                    let expected = first_refusal(&plain, &data);
                    assert_eq!(answer(joined, &data), expected, "{data:?}");
                    seen.insert((data[0], expected));
                }
                for line in lines.iter().filter(|line| line.then.is_none()) {
                    let call = number(&line.syscall, target).unwrap();
                    let mut answers = seen.iter().filter(|(of, _)| *of == call);
                    let right = seen.contains(&(call, ALLOW));
                    let wrong = answers.any(|(_, answer)| *answer != ALLOW);
                    assert!(right && (wrong || line.args.is_empty()), "{}", line.syscall);
                }
            }
        }
    }
}

/// BRK-35, ZT-16: process 1 is asked about exactly the calls that have a name and about every exec, and none of them
/// would get past the payload's own filter if it were not.
#[test]
fn process_1_is_asked_about_what_the_payload_is_refused() {
    const TRACE: u32 = 0x7ff0_0000;
    const ASK: u32 = 0x7fc0_0000;
    const KILL: u32 = 0x8000_0000;
    for profile in PROFILES {
        for (name, processor) in PROCESSORS {
            let compiled = compile(profile.text(), name).unwrap();
            let number = |call: &str| {
                let row = compiled.names.iter().find(|(_, name)| name == call);
                row.map(|(number, _)| *number).unwrap()
            };
            let (exec, clone) = (number("execveat"), number("clone"));
            let (lists, target) = lists(profile.text(), name).unwrap();
            let mut asked_about = std::collections::HashSet::new();
            let questions = every_combination(&lists.payload, target, processor).into_iter();
            for data in questions.chain(every_question(&lists.payload, processor)) {
                let (payload, watch) =
                    (answer(&compiled.payload, &data), answer(&compiled.watch, &data));
                match watch {
                    ASK if data[0] == exec => {}
                    ASK => assert_eq!(payload, TRACE, "{data:?}"),
                    KILL => assert_eq!(payload, KILL, "{data:?}"),
                    _ => assert_eq!(watch, ALLOW),
                }
                // Also the exec that is right: it was used up by the launcher.
                assert!(data[..2] != [exec, processor] || watch == ASK, "{data:?}");
                // What nobody asks about is decided here.
                assert!(payload != TRACE || watch == ASK, "{data:?}");
                if watch == ASK {
                    asked_about.insert(data[0]);
                }
            }
            let named: std::collections::HashSet<u32> =
                compiled.names.iter().map(|(number, _)| *number).collect();
            assert_eq!(asked_about, named);
            // SECCOMP_IOCTL_NOTIF_RECV; then NOTIF_SEND, NOTIF_ADDFD and NOTIF_SET_FLAGS: it may ask and not answer.
            let ioctl = if name == "x86_64" { 16 } else { 29 };
            let init = |request| answer(&compiled.init, &asked(ioctl, processor, request));
            assert_eq!(init(0xc050_2100), ALLOW);
            for request in [0xc018_2101, 0xc018_2103, 0x4008_2104, 0xc018_2101 | (1 << 32)] {
                assert_eq!(init(request), KILL);
            }
            // How process 1 forks is its own business, and nobody else's.
            let own = asked(clone, processor, 0x1011);
            assert_eq!(answer(&compiled.watch, &own), ALLOW);
            assert_eq!(answer(&compiled.payload, &own), KILL);
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
    for profile in PROFILES {
        let (now, then) = (compile(profile.text(), std::env::consts::ARCH), profile.filters());
        let (now, then) = (now.unwrap(), then.unwrap());
        assert_eq!(words(&now.payload), built(then.payload));
        assert_eq!(words(&now.watch), built(then.watch));
        assert_eq!(words(&now.init), built(then.init));
        let names: Vec<(u32, &str)> =
            now.names.iter().map(|(number, name)| (*number, name.as_str())).collect();
        assert_eq!(names, then.names);
    }
}
