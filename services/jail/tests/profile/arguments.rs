//! BRK-35: each argument check with a right and with a wrong value, in a real cell, by a program that makes the call
//! directly: numbers that are cut to 32 bits by the kernel, flags that hide others, and both other doors into the kernel.

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{End, run};
use hotcell_jail::profile::Profile;
use tokio_util::sync::CancellationToken;

use crate::jobs::{LAUNCHER, RARE, cell_of};

const BOTH: [Profile; 2] = [Profile::Probe, Profile::Transcode];

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Refused(i32),
    /// Killed, and named so.
    Violation(String),
    Other(End),
}

const EPERM: Fate = Fate::Refused(1);
const ENOSYS: Fate = Fate::Refused(38);
/// The call reached the kernel, which did not like the descriptor.
const EBADF: Fate = Fate::Refused(9);

fn named(name: &str) -> Fate {
    Fate::Violation(name.to_owned())
}

async fn fate(profile: Profile, line: &str) -> Fate {
    let cell = cell_of(LAUNCHER.as_ref(), RARE.as_ref(), line, profile);
    let outcome = run(&cell, &CancellationToken::new(), Stdout::Bytes(4096)).await.unwrap();
    let said = String::from_utf8(outcome.stdout.bytes).unwrap();
    match (outcome.end, outcome.violation) {
        (End::Exited(0), None) => Fate::Done,
        (End::Exited(1), None) => {
            Fate::Refused(said.trim().strip_prefix("refused errno=").unwrap().parse().unwrap())
        }
        (End::Signaled(libc::SIGSYS), Some(name)) => Fate::Violation(name),
        (end, _) => Fate::Other(end),
    }
}

async fn check(profile: Profile, nr: i64, args: &[i64], expect: Fate) {
    let numbers: Vec<String> = [nr].iter().chain(args).map(i64::to_string).collect();
    let line = format!("raw {}", numbers.join(" "));
    assert_eq!(fate(profile, &line).await, expect, "{} {line}", profile.name());
}

#[tokio::test]
async fn arguments_of_both_profiles() {
    for profile in BOTH {
        let check = async |nr, args: &[i64], expect| check(profile, nr, args, expect).await;
        // Another descriptor, another flag; and the right ones, which are right once only.
        for args in [[999, 0, 0, 0, 0x1000], [1000, 0, 0, 0, 0], [1000, 0, 0, 0, 0x1000]] {
            check(libc::SYS_execveat, &args, named("execveat")).await;
        }
        // ARCH_SET_GS, and the shadow stacks that glibc asks for.
        check(libc::SYS_arch_prctl, &[0x1001, 0], EPERM).await;
        check(libc::SYS_arch_prctl, &[0x3001, 0], EPERM).await;
        check(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1], EPERM).await;
        // TIOCSTI, which types into a terminal, and with a bit that the kernel does not look at.
        check(libc::SYS_ioctl, &[1, 0x5412, 0], EPERM).await;
        check(libc::SYS_ioctl, &[1, 0x5412 | (1 << 32), 0], EPERM).await;
        check(libc::SYS_fcntl, &[1, libc::F_SETOWN.into(), 1], EPERM).await;
        // Its own limits, to read; not to set, and of nobody else.
        check(libc::SYS_prlimit64, &[0, 7, 0, 0], Fate::Done).await;
        check(libc::SYS_prlimit64, &[0, 7, 4096, 0], EPERM).await;
        check(libc::SYS_prlimit64, &[0, 7, 1 << 32, 0], EPERM).await;
        check(libc::SYS_prlimit64, &[1, 7, 0, 0], EPERM).await;
        // Wake; then requeue, priority inheritance, and the combination of the two.
        check(libc::SYS_futex, &[0, 1 | 128, 1, 0, 0, 0], Fate::Done).await;
        for operation in [3, 4, 5, 6, 7, 8, 11, 12, 13, 6 | 128, 12 | 256, 6 | (1 << 32)] {
            check(libc::SYS_futex, &[0, operation, 1, 0, 0, 0], named("unknown")).await;
        }
        // Memory of its own; then of the host's huge pages, which are kept for somebody else.
        let own = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        check(libc::SYS_mmap, &[0, 4096, 3, own, -1, 0], Fate::Done).await;
        let huge = own | i64::from(libc::MAP_HUGETLB);
        check(libc::SYS_mmap, &[0, 2 << 20, 3, huge, -1, 0], named("unknown")).await;
        // Only to itself, and only to abort.
        for args in [[1, 1, 6], [2, 2, 9], [2, 2, 0], [-1, 2, 6]] {
            check(libc::SYS_tgkill, &args, named("tgkill")).await;
        }
        check(libc::SYS_tgkill, &[2, 2, 6], Fate::Other(End::Signaled(libc::SIGABRT))).await;
        // A fork, glibc's fork, a thread in a new namespace, a thread and a bit that the kernel does not look at; and
        // process 1's own fork, about which nobody is asked.
        for flags in [17, 0x0120_0011, 0x3d_0f00 | 0x1000_0000, 0x3d_0f00 | (1 << 32)] {
            check(libc::SYS_clone, &[flags], named("clone")).await;
        }
        check(libc::SYS_clone, &[0x1011], named("unknown")).await;
    }
}

#[tokio::test]
async fn arguments_that_differ() {
    check(Profile::Transcode, libc::SYS_clone3, &[0, 0], ENOSYS).await;
    check(Profile::Probe, libc::SYS_clone3, &[0, 0], named("clone3")).await;
    check(Profile::Probe, libc::SYS_clone, &[0x3d_0f00], named("clone")).await;
    let here = i64::from(libc::AT_FDCWD);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE | 1] {
        check(Profile::Probe, libc::SYS_openat, &[here, 0, flags.into()], named("unknown")).await;
    }
    let hidden = i64::from(libc::O_WRONLY) | (1 << 32);
    check(Profile::Probe, libc::SYS_openat, &[here, 0, hidden], named("unknown")).await;
    check(Profile::Probe, libc::SYS_openat, &[99, 1, 0], Fate::Refused(libc::EFAULT)).await;
    // O_TMPFILE without O_DIRECTORY, too: the kernel would refuse it, and the filter need not know.
    for flags in [libc::O_TMPFILE | libc::O_RDWR, 0x40_0000] {
        let expect = named("unknown");
        check(Profile::Transcode, libc::SYS_openat, &[here, 0, flags.into()], expect).await;
    }
    // An output with the set-user-id, set-group-id or sticky bit from its birth on, and one with none of them.
    let create = i64::from(libc::O_CREAT | libc::O_WRONLY);
    for bit in [0o4000, 0o2000, 0o1000, 0o4000 | (1 << 32)] {
        let args = [here, 1, create, bit | 0o700];
        check(Profile::Transcode, libc::SYS_openat, &args, named("unknown")).await;
    }
    let args = [here, 1, create, 0o777 | (1 << 32)];
    check(Profile::Transcode, libc::SYS_openat, &args, Fate::Refused(libc::EFAULT)).await;
    for nr in [libc::SYS_rename, libc::SYS_unlink, libc::SYS_ftruncate] {
        check(Profile::Probe, nr, &[0, 0], named("unknown")).await;
    }
    // Waiting, which who is alone has no reason to do.
    check(Profile::Probe, libc::SYS_futex, &[0, 128, 1, 0, 0, 0], named("unknown")).await;
    let expect = Fate::Refused(libc::EFAULT);
    check(Profile::Transcode, libc::SYS_futex, &[0, 128, 1, 0, 0, 0], expect).await;
    // MADV_DONTNEED; then MADV_REMOVE, MADV_MERGEABLE and MADV_HWPOISON.
    check(Profile::Transcode, libc::SYS_madvise, &[0, 0, 4], Fate::Done).await;
    for advice in [9, 12, 100] {
        check(Profile::Transcode, libc::SYS_madvise, &[0, 0, advice], EPERM).await;
    }
    check(Profile::Transcode, libc::SYS_close, &[99], EBADF).await;
}

/// The x32 twin of getpid, the 32-bit door, numbers that no kernel has, and calls that are on no list.
#[tokio::test]
async fn other_doors() {
    for profile in BOTH {
        let calls = [
            libc::SYS_getpid | 0x4000_0000,
            libc::SYS_socket | 0x4000_0000,
            100_000,
            -1,
            libc::SYS_statx,
            libc::SYS_timer_create,
            libc::SYS_seccomp,
            libc::SYS_prctl + (1 << 31),
        ];
        for nr in calls {
            check(profile, nr, &[], named("unknown")).await;
        }
        assert_eq!(fate(profile, "int80").await, named("unknown"));
    }
}

/// ZT-16: every named call ends its cell under its name.
#[tokio::test]
async fn named_calls_are_told_by_name() {
    for profile in BOTH {
        let file: serde_json::Value = serde_json::from_str(profile.text()).unwrap();
        let lists = file["x86_64"]["named"].as_array().unwrap().iter();
        let names: Vec<&str> = lists
            .flat_map(|named| named["syscalls"].as_array().unwrap())
            .map(|name| name.as_str().unwrap())
            .collect();
        let made = crate::compile::compile(profile.text(), "x86_64").unwrap();
        for name in &names {
            let (number, _) = made.names.iter().find(|(_, other)| other == name).unwrap();
            check(profile, (*number).into(), &[], named(name)).await;
        }
        assert!(names.len() > 80, "the probe's and the transcode's list");
    }
}

/// ZT-16: who asks in sixteen threads, or is interrupted all the time, gets no answer either; and nothing in the cell can
/// send process 1 a signal.
#[tokio::test]
async fn nobody_gets_around_process_1() {
    let socket = format!("{} 1 1 0", libc::SYS_socket);
    assert_eq!(fate(Profile::Transcode, &format!("crowd {socket}")).await, named("socket"));
    for _ in 0..20 {
        // Between poll and read the call may be gone: then it has not happened, and nobody knows which it was.
        let fate = fate(Profile::Transcode, &format!("restless {socket}")).await;
        assert!(fate == named("socket") || fate == named("unknown"), "{fate:?}");
    }
    assert_eq!(fate(Profile::Transcode, "signal_init").await, named("tgkill"));
}

/// With nobody asked, the payload's own filter refuses what is named, with ENOSYS.
#[tokio::test]
async fn named_calls_are_refused_without_a_listener_too() {
    let launcher = crate::jobs::launcher_of(Profile::Transcode.text());
    let path = launcher.with_extension("json");
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // SECCOMP_RET_ALLOW, whatever is asked.
    file["watch"] = serde_json::json!([[6, 0, 0, 0x7fff_0000]]);
    std::fs::write(&path, file.to_string()).unwrap();
    let line = format!("raw {} 1 1 0", libc::SYS_socket);
    let cell = cell_of(&launcher, RARE.as_ref(), &line, Profile::Transcode);
    let outcome = run(&cell, &CancellationToken::new(), Stdout::Bytes(4096)).await.unwrap();
    assert_eq!(outcome.stdout.bytes, b"refused errno=38\n", "{outcome:?}");
    assert_eq!(
        outcome.profile_hash,
        hotcell_jail::variant::HASH,
        "and no report can claim to be real"
    );
}

/// The production launcher takes no filter from anybody.
#[test]
fn the_launcher_has_no_way_in_for_filters() {
    let launcher = crate::jobs::launcher_of(Profile::Transcode.text());
    let copy = launcher.with_file_name("production");
    std::fs::copy(LAUNCHER, &copy).unwrap();
    std::fs::copy(launcher.with_extension("json"), copy.with_extension("json")).unwrap();
    let bytes = std::fs::read(LAUNCHER).unwrap();
    let says = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(says(b"hotcell-jail: ") && !says(b"struct Programs"), "the code is not even linked");
    for flag in ["--filter", "--filters", "--profile=x"] {
        let output = std::process::Command::new(&copy).args([flag, "x"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
    }
}
