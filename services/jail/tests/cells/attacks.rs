//! BRK-01, BRK-03, BRK-04, BRK-32, BRK-36, BRK-37: what a cell has, seen from within and from the host. Attacks are in
//! `tests/breach/`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::Command;

use hotcell_jail::cell::End;
use hotcell_jail::report::End::Exited;

use crate::fixture::{LAUNCHER, PROBE, end_of, hostile, outside, text, until, with_argument};

async fn inside(line: &str) -> (End, String) {
    let (cell, _out) = hostile(line);
    let outcome = end_of(&cell).await;
    assert!(outcome.degraded.is_empty());
    (outcome.end, text(&outcome.stdout.bytes))
}

/// BRK-32, BRK-04: EROFS everywhere but in /out and /tmp; and the next job finds an empty /tmp.
#[tokio::test]
async fn read_only_root() {
    const EROFS: &str = "refused errno=30\n";
    for path in ["/x", "/etc/x", "/usr/x", "/bin/x", "/in/x", "/lib/x", "/bin/hotcell-hostile"] {
        assert_eq!(inside(&format!("create {path}")).await, (Exited(1), EROFS.into()), "{path}");
    }
    assert_eq!(inside("create /tmp/x").await.0, Exited(0));
    assert_eq!(inside("read /tmp/x").await.1, "refused errno=2\n", "of the job before");
    let (cell, out) = hostile("create /out/x");
    assert_eq!(end_of(&cell).await.end, Exited(0));
    assert_eq!(fs::read(out.path().join("x")).unwrap(), b"x");
}

/// BRK-01: an input is there to be read only, also by the user who owns it.
#[tokio::test]
async fn inputs_are_read_only_and_the_only_ones() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    fs::write(&input, "mine").unwrap();
    fs::write(dir.path().join("neighbour"), "theirs").unwrap();
    for (line, expect) in [
        ("read /in/0", (Exited(0), "mine\n")),
        ("read /in/1", (Exited(0), "\n")),
        ("read /in/neighbour", (Exited(1), "refused errno=2\n")),
        ("read /in/../neighbour", (Exited(1), "refused errno=2\n")),
        ("create /in/0", (Exited(1), "refused errno=30\n")),
    ] {
        let (mut cell, _out) = hostile(line);
        cell.inputs = vec![input.clone()];
        let outcome = end_of(&cell).await;
        let stdout = text(&outcome.stdout.bytes);
        assert_eq!((outcome.end, stdout.as_str()), expect, "{line}");
    }
    assert_eq!(fs::read(&input).unwrap(), b"mine");
}

/// BRK-03: no variable, no descriptor, no process to take secrets from.
#[tokio::test]
async fn secrets_of_the_parent() {
    // Outside, both leak. The shell-free way to leak a descriptor is to clear close-on-exec.
    let leak = File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let mut command = Command::new(PROBE);
    let seen = command.args(["environment", "HOTCELL_CANARY"]).env("HOTCELL_CANARY", "secret");
    assert!(seen.status().unwrap().success());
    assert!(outside("descriptors").status.success());
    assert!(outside("processes").status.success());

    // Around the library: the launcher itself gets both, and must let neither through.
    let (cell, _out) = hostile("hold");
    let root = cell.root.path().to_str().unwrap();
    let launch = |attack: &[&str]| {
        let fixed = ["--root", root, "--profile", "transcode", "--", "/bin/hotcell-hostile"];
        let mut command = Command::new(LAUNCHER);
        command.args(fixed).args(attack).env("HOTCELL_CANARY", "secret").output().unwrap()
    };
    let environment = launch(&["environment"]);
    assert_eq!(text(&environment.stdout), "LC_ALL=C\n");
    assert_eq!(launch(&["environment", "HOTCELL_CANARY"]).status.code(), Some(1));
    let descriptors = launch(&["descriptors"]);
    assert_eq!(descriptors.status.code(), Some(1), "{}", text(&descriptors.stdout));
    assert_eq!(launch(&["processes"]).status.code(), Some(1));
    assert!(leak.as_raw_fd() > 2);
}

/// BRK-36, BRK-37, ZT-07: what the host sees of the payload and of process 1 while they run.
#[tokio::test]
async fn seen_from_the_host() {
    let mark = crate::fixture::marker();
    let (mut cell, _out) = hostile("hold");
    cell.args.push(mark.clone());
    let cancel = tokio_util::sync::CancellationToken::new();
    let job = hotcell_jail::cell::run(&cell, &cancel, hotcell_jail::capture::Stdout::Discard);
    let look = async {
        let field = |pid: i32, name: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        // Launcher, process 1 and payload have the same arguments after exec; the payload is 2 in its namespace.
        let find = |ns_pid: &str| {
            let is = |pid: &i32| field(*pid, "NSpid:").split(' ').nth(1) == Some(ns_pid);
            with_argument(&mark).into_iter().find(is)
        };
        // The payload has changed its arguments only when exec is done, that is with all filters on.
        let exec_done = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"/bin/hotcell-hostile")
        };
        until("payload", || find("2").is_some_and(exec_done) && find("1").is_some()).await;
        let (init, payload) = (find("1").unwrap(), find("2").unwrap());
        until("init is filtered", || field(init, "Seccomp:") == "2").await;
        for pid in [init, payload] {
            for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(field(pid, name), "0000000000000000", "{name}");
            }
            assert_eq!(field(pid, "NoNewPrivs:"), "1");
            assert_eq!(field(pid, "Seccomp:"), "2");
            let nobody = "65534 65534 65534 65534";
            assert_eq!(
                (field(pid, "Uid:").as_str(), field(pid, "Gid:").as_str()),
                (nobody, nobody)
            );
            assert_eq!(field(pid, "Groups:"), "");
            for space in ["user", "mnt", "net", "pid", "ipc", "uts", "cgroup"] {
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
                assert_ne!(of(&pid.to_string()), of("self"), "{space}");
            }
        }
        // The watch over exec, and the profile.
        assert_eq!(field(payload, "Seccomp_filters:"), "2");
        let mounts = fs::read_to_string(format!("/proc/{payload}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 3, "root, /out, /tmp: {mounts}");
        let network = fs::read_to_string(format!("/proc/{payload}/net/dev")).unwrap();
        let interfaces: Vec<&str> = network.lines().skip(2).collect();
        assert!(interfaces.iter().all(|line| line.trim().starts_with("lo: ")), "{interfaces:?}");
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(job, look);
    assert_eq!(outcome.unwrap().end, End::Cancelled);
}
