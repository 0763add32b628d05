//! BRK-01..05, BRK-32, BRK-35..37, NEW-06: each attack works outside, or with its layer off, and fails inside.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use hotcell_jail::cell::{Cell, End};
use hotcell_jail::layers::Layer;
use hotcell_jail::report::End::{Exited, Signaled};

use crate::fixture::{LAUNCHER, PROBE, end_of, hostile, outside, text, until, with_argument};

const SIGSYS: i32 = 31;

async fn inside(line: &str) -> (End, String) {
    let (cell, _out) = hostile(line);
    let outcome = end_of(&cell).await;
    assert!(outcome.degraded.is_empty());
    (outcome.end, text(&outcome.stdout.bytes))
}

async fn inside_without(line: &str, layers: &[Layer]) -> End {
    let (cell, _out) = without(line, layers);
    let outcome = end_of(&cell).await;
    assert_eq!(outcome.degraded.len(), layers.len(), "the outcome says what was off");
    outcome.end
}

fn without(line: &str, layers: &[Layer]) -> (Cell, tempfile::TempDir) {
    let (mut cell, out) = hostile(line);
    cell.layers_off = layers.to_vec();
    cell.degraded = true;
    (cell, out)
}

/// BRK-35, NEW-06, BRK-05: calls that no profile has. Outside each works for root; inside each is the end.
#[tokio::test]
async fn forbidden_calls_work_outside_and_kill_inside() {
    let dir = tempfile::tempdir().unwrap();
    let mountable = format!("mount {}", dir.path().display());
    let calls = [
        "inet",
        "inet6",
        "unix",
        "vsock",
        "netlink",
        "packet",
        "fork",
        "ptrace",
        "bpf",
        "unshare",
        "keyctl",
        "userfaultfd",
        "io_uring",
        "memfd",
        "perf",
        "setuid",
        "kill 1",
        &mountable,
    ];
    let mut works = Vec::new();
    for line in calls {
        let output = outside(line);
        // A host may have switched these off for everybody; the others work everywhere.
        let optional = ["userfaultfd", "io_uring", "perf", "vsock", "bpf"].contains(&line);
        assert!(output.status.success() || optional, "{line}: {}", text(&output.stdout));
        works.push((line, output.status.success()));
        assert_eq!(inside(line).await.0, Signaled(SIGSYS), "{line}");
    }
    eprintln!("attack, works outside: {works:?}");
}

/// The filter and not something else is what stops these: with only seccomp off, they work even in a cell.
#[tokio::test]
async fn seccomp_alone_stops_what_namespaces_do_not() {
    for line in ["unix", "netlink", "fork", "unshare", "keyctl", "memfd"] {
        assert_eq!(inside_without(line, &[Layer::Seccomp]).await, Exited(0), "{line}");
    }
}

/// Without seccomp the other layers still hold: Landlock, capabilities, namespaces.
#[tokio::test]
async fn other_layers_hold_without_seccomp() {
    let lines = [
        "mount /tmp",
        "bpf",
        "setuid",
        "packet",
        "perf",
        "symlink /out/link",
        "fifo /out/fifo",
        "mkdir /out/folder",
        "exec /lib64/ld-linux-x86-64.so.2",
        "read /etc/passwd",
        "processes",
    ];
    for line in lines {
        let end = inside_without(line, &[Layer::Seccomp]).await;
        assert_ne!(end, Exited(0), "{line}");
    }
    // And these are Landlock's work: without it too, they succeed.
    for line in ["symlink /out/link", "fifo /out/fifo", "mkdir /out/folder"] {
        let off = [Layer::Seccomp, Layer::Landlock];
        assert_eq!(inside_without(line, &off).await, Exited(0), "{line}");
    }
}

/// BRK-35: no second program, whichever. Outside, the same exec works.
#[tokio::test]
async fn exec_of_anything_else() {
    assert!(outside(&format!("exec {PROBE}")).status.success());
    assert_eq!(inside("exec /bin/hotcell-hostile").await.0, Signaled(SIGSYS));
    let end = inside_without("exec /bin/hotcell-hostile", &[Layer::Seccomp]).await;
    assert_eq!(end, Exited(0), "with seccomp off it is the fenced program itself");
}

/// BRK-35: the launcher's exec is the only one, also by the very numbers that its filter allows.
#[tokio::test]
async fn exec_happens_once() {
    let line = "exec_again /bin/hotcell-hostile";
    assert_eq!(inside_without(line, &[Layer::Seccomp]).await, Exited(0), "the attack");
    assert_eq!(inside(line).await.0, Signaled(SIGSYS));
    assert_eq!(inside("exec_again /lib64/ld-linux-x86-64.so.2").await.0, Signaled(SIGSYS));
}

/// BRK-01: a crash hands the job's memory to nobody. A core limit of 0 stops files only: core(5) says that a program
/// in core_pattern is started, by root and outside of every cell, whatever the limit is, except for 1.
#[tokio::test]
async fn no_core_leaves_the_cell() {
    assert!(outside("core_limit").status.success());
    assert_eq!(inside("core_limit").await.0, Exited(1));
}

/// BRK-01: no file of the host's.
#[tokio::test]
async fn files_of_the_host() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "canary").unwrap();
    let secret = format!("read {}", secret.path().display());
    for line in ["read /etc/passwd", "read /proc/self/status", "read /dev/zero", &secret] {
        if line != "read /dev/zero" {
            assert!(outside(line).status.success(), "{line}");
        }
        let (end, stdout) = inside(line).await;
        assert_eq!((end, stdout.as_str()), (Exited(1), "refused errno=2\n"), "{line}");
    }
    let (end, names) = inside("list /").await;
    assert_eq!(end, Exited(1), "the root itself cannot be listed: {names}");
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

    // With the layer off, and a root that this user may write to, the same attack works.
    let (mut cell, _out) = without("create /etc/x", &[Layer::ReadOnly, Layer::Landlock]);
    let private = tempfile::tempdir().unwrap();
    let program = hotcell_jail::program::Program::resolve(PROBE.as_ref()).unwrap();
    cell.root = hotcell_jail::root::Root::prepare(private.path(), &[program]).unwrap();
    let etc = cell.root.path().join("etc");
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(end_of(&cell).await.end, Exited(0));
    assert!(etc.join("x").exists());
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

/// BRK-35: no new code in memory.
#[tokio::test]
async fn writable_code() {
    for line in ["wx_map", "gain_exec"] {
        assert!(outside(line).status.success(), "{line}");
        assert_eq!(inside_without(line, &[Layer::Mdwe]).await, Exited(0), "{line}");
        assert_eq!(inside(line).await, (Exited(1), "refused errno=13\n".into()), "{line}");
    }
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
