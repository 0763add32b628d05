//! The launcher refuses to start, with its own exit code and one sentence on standard error; nothing runs.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotcell_jail::Identity;
use hotcell_jail::cell::{Cell, End};
use hotcell_jail::layers::Layer;
use hotcell_jail::preflight::{Preflight, PreflightError, preflight};
use hotcell_jail::report::Report;
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::json;

use crate::fixture::{LAUNCHER, USER, end_of, hostile, launcher, text, unprivileged};

fn refused(args: &[&str]) -> String {
    let output = Command::new(LAUNCHER).args(args).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.starts_with("hotcell-jail: ") && said.lines().count() == 1, "{said}");
    said
}

async fn refused_cell(change: impl FnOnce(&mut Cell)) -> String {
    let (mut cell, out) = hostile("create /out/ran");
    change(&mut cell);
    let end = end_of(&cell).await.end;
    assert!(!out.path().join("ran").exists());
    let End::LauncherRefused(why) = end else { panic!("not refused: {end:?}") };
    why
}

#[test]
fn this_host_is_fit() {
    let found = preflight(launcher()).unwrap();
    assert!(found.offered.landlock_abi >= 3 && found.offered.seccomp && found.offered.mdwe);
    assert!(matches!(preflight("/nonexistent".as_ref()), Err(PreflightError::Spawn(..))));
    assert!(matches!(preflight("/bin/true".as_ref()), Err(PreflightError::Answer(_))));
}

#[test]
fn bad_command_lines() {
    assert!(refused(&["--bind", "/"]).contains("unknown flag"));
    assert!(refused(&[]).contains("--profile is missing"));
}

#[tokio::test]
async fn bad_cells() {
    let off = refused_cell(|cell| cell.layers_off = vec![Layer::Seccomp]).await;
    assert!(off.contains("remove --layer-off, or add --degraded"), "{off}");
    let root = refused_cell(|cell| cell.identity = Identity { uid: 0, gid: 7 }).await;
    assert!(root.contains("may not be root"), "{root}");
    // To setresuid(2) and setresgid(2) the highest number means "as it is", which here is root.
    let (own, highest) = (USER.to_string(), u32::MAX.to_string());
    for (uid, gid) in [(&highest, &own), (&own, &highest)] {
        let fixed = ["--root", "/", "--profile", "probe", "--uid", uid, "--gid", gid];
        let root = refused(&[&fixed[..], &["--", "/bin/true"]].concat());
        assert!(root.contains("may not be root"), "{root}");
    }
    let program = refused_cell(|cell| cell.program = "none".to_owned()).await;
    assert!(program.contains("is it part of this root folder"), "{program}");
    // The program, as a link to the way out.
    let escape = refused_cell(|cell| cell.program = "../../etc/passwd".to_owned()).await;
    assert!(escape.contains("cannot open the payload"), "{escape}");

    let dir = tempfile::tempdir().unwrap();
    let (link, file) = (dir.path().join("link"), dir.path().join("file"));
    fs::write(&file, "x").unwrap();
    symlink(&file, &link).unwrap();
    for input in [link, dir.path().to_owned()] {
        let why = refused_cell(|cell| cell.inputs = vec![input]).await;
        assert!(why.contains("must be a regular file"), "{why}");
    }
    let why = refused_cell(|cell| cell.out_dir = Some(file)).await;
    assert!(why.contains("must be a folder"), "{why}");
}

/// A launcher without root cannot give the cell another user, and says so.
#[test]
fn another_user_without_root() {
    let dir = tempfile::Builder::new().permissions(open_to_all()).tempdir().unwrap();
    let copy = dir.path().join("launcher");
    fs::copy(LAUNCHER, &copy).unwrap();
    let other = (USER + 1).to_string();
    let fixed = ["--root", "/", "--profile", "probe", "--uid", &other];
    let output = unprivileged(&copy, &[&fixed[..], &["--", "/bin/true"]].concat());
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("only root can give the cell another user"));
}

/// BRK-37: an ordinary user cannot put off the groups of users that it came with, and takes them into the cell.
#[test]
fn a_user_in_root_s_group() {
    let dir = tempfile::Builder::new().permissions(open_to_all()).tempdir().unwrap();
    let copy = dir.path().join("launcher");
    fs::copy(LAUNCHER, &copy).unwrap();
    let user = USER.to_string();
    let preflight = |groups: &str| {
        let ids = ["--reuid", &user, "--regid", &user, "--groups", groups];
        Command::new("setpriv").args(ids).arg(&copy).arg("--preflight").output().unwrap()
    };
    assert!(preflight("42").status.success());
    let refused = preflight("42,0");
    assert_eq!(refused.status.code(), Some(125));
    let said = text(&refused.stdout);
    assert!(said.contains("without root's group"), "{said}");
}

/// ZT-06: without /proc there is no user namespace, and a root that may not change users cannot leave root. The launcher
/// says so in the answer that services show at start-up.
#[test]
fn hosts_that_lack_proc_or_rights() {
    let cases = [
        ("-m", "mount -t tmpfs none /proc && exec \"$0\" \"$@\"", "user: mount /proc"),
        ("-Ur", "exec \"$0\" \"$@\"", "user: start the launcher as an ordinary user"),
    ];
    for (space, script, expect) in cases {
        let args = [space, "sh", "-c", script, LAUNCHER, "--preflight"];
        let output = Command::new("unshare").args(args).output().unwrap();
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(expect) && said.lines().count() == 1, "{said}");
    }
}

fn open_to_all() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// What a lesser kernel, a container's seccomp profile or a security module would do: one call fails.
pub(crate) fn without_call(call: &str, errno: i32, args: &serde_json::Value) -> BpfProgram {
    let rule = json!({"syscall": call, "args": args});
    let filter = json!({"f": {"default_action": "allow", "filter_action": {"errno": errno}, "filter": [rule]}});
    let text = filter.to_string();
    compile_from_json(text.as_bytes(), TargetArch::x86_64).unwrap().remove("f").unwrap()
}

/// ZT-06: fails closed. Whichever step the kernel refuses, the payload does not run and the sentence says why.
#[test]
fn every_missing_layer_refuses() {
    let any = json!(null);
    let first = |value: i32| json!([{"index": 0, "type": "dword", "op": "eq", "val": value}]);
    // seccomp(SECCOMP_SET_MODE_FILTER, flags): with and without SECCOMP_FILTER_FLAG_NEW_LISTENER.
    let set = |flags: u64| json!([{"index": 0, "type": "dword", "op": "eq", "val": 1}, {"index": 1, "type": "dword", "op": "eq", "val": flags}]);
    let (filters, listens) = (set(0), set(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER));
    let steps = [
        ("landlock_create_ruleset", libc::ENOSYS, &any, "Landlock ABI 3 or later is needed"),
        ("landlock_add_rule", libc::EPERM, &any, "Landlock refused a rule"),
        ("landlock_restrict_self", libc::EPERM, &any, "Landlock refused a rule"),
        ("seccomp", libc::ENOSYS, &any, "seccomp filters are not available"),
        ("seccomp", libc::EPERM, &filters, "cannot add the system-call filter"),
        ("seccomp", libc::EBUSY, &listens, "cannot watch over exec"),
        ("prctl", libc::EINVAL, &first(66), "memory-deny-write-execute is not available"),
        ("prctl", libc::EINVAL, &first(65), "cannot forbid writable code"),
        ("prctl", libc::EINVAL, &first(libc::PR_SET_NO_NEW_PRIVS), "cannot refuse new privileges"),
        ("prctl", libc::EINVAL, &first(libc::PR_SET_PDEATHSIG), "cannot tie the cell's life"),
        ("prctl", libc::EPERM, &first(libc::PR_CAPBSET_DROP), "cannot drop capabilities"),
        ("prctl", libc::EPERM, &first(libc::PR_SET_SECUREBITS), "cannot drop capabilities"),
        ("capset", libc::EPERM, &any, "cannot drop capabilities"),
        ("unshare", libc::EPERM, &any, "namespaces are not available"),
        ("setgroups", libc::EPERM, &any, "cannot become the cell's user"),
        ("setresuid", libc::EPERM, &any, "cannot become the cell's user"),
        ("open_tree", libc::ENOSYS, &any, "into the cell"),
        ("mount_setattr", libc::ENOSYS, &any, "cannot restrict the mount"),
        ("move_mount", libc::EPERM, &any, "cannot attach"),
        ("fsopen", libc::EPERM, &any, "cannot make /tmp"),
        ("pivot_root", libc::EPERM, &any, "cannot leave the host's file tree"),
        ("umount2", libc::EPERM, &any, "cannot leave the host's file tree"),
        ("close_range", libc::ENOSYS, &any, "cannot close inherited descriptors"),
        ("setsid", libc::EPERM, &any, "cannot detach"),
        ("execveat", libc::EACCES, &any, "cannot start the payload"),
    ];
    let (cell, _out) = hostile("");
    let root = cell.root.path();
    for (call, errno, args, expect) in steps {
        let filter = without_call(call, errno, args);
        let mut command = Command::new(LAUNCHER);
        command.arg("--root").arg(root).args(["--profile", "transcode", "--"]);
        command.args(["/bin/hotcell-hostile", "environment"]);
        // SAFETY: between fork and exec only system calls are made: the filter was compiled before.
        unsafe { command.pre_exec(move || apply_filter(&filter).map_err(std::io::Error::other)) };
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{call}: {said}");
        assert!(said.contains(expect), "{call}: {said}");
        assert_eq!(said.lines().count(), 1, "{call}: {said}");
        assert_eq!(text(&output.stdout), "", "{call}");
    }
}

/// What a host that lacks a layer would say, and the layer.
fn lesser_hosts() -> [(BpfProgram, Layer, &'static str); 4] {
    let first = |value: i32| json!([{"index": 0, "type": "dword", "op": "eq", "val": value}]);
    let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let new_user = json!([{"index": 0, "type": "dword", "op": {"masked_eq": user}, "val": user}]);
    [
        ("landlock_create_ruleset", libc::ENOSYS, json!(null), Layer::Landlock, "run Linux 6.2"),
        ("seccomp", libc::ENOSYS, json!(null), Layer::Seccomp, "CONFIG_SECCOMP_FILTER"),
        // PR_GET_MDWE
        ("prctl", libc::EINVAL, first(66), Layer::Mdwe, "run Linux 6.3"),
        ("unshare", libc::EPERM, new_user, Layer::UserNamespace, "user.max_user_namespaces"),
    ]
    .map(|(call, errno, args, layer, change)| (without_call(call, errno, &args), layer, change))
}

fn launcher_under(filter: BpfProgram) -> Command {
    let mut command = Command::new(LAUNCHER);
    // SAFETY: between fork and exec only system calls are made: the filter was compiled before.
    unsafe { command.pre_exec(move || apply_filter(&filter).map_err(std::io::Error::other)) };
    command
}

/// A host that lacks a layer is unfit and says what to change. Only `degraded` goes on, without that layer and no other,
/// and the report names it.
#[test]
fn only_degraded_goes_on_without_exactly_what_is_missing() {
    let (cell, _out) = hostile("");
    for (filter, layer, change) in lesser_hosts() {
        let output = launcher_under(filter.clone()).arg("--preflight").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{layer:?}");
        let found: Result<Preflight, String> = serde_json::from_slice(&output.stdout).unwrap();
        let missing = found.unwrap().missing;
        assert_eq!(missing.iter().map(|it| it.layer).collect::<Vec<_>>(), [layer]);
        assert!(missing[0].change.contains(change), "{missing:?}");

        for degraded in [false, true] {
            let (mut near, far) = UnixStream::pair().unwrap();
            let mut command = launcher_under(filter.clone());
            command.arg("--root").arg(cell.root.path()).args(["--profile", "transcode"]);
            command.args(degraded.then_some("--degraded"));
            command.args(["--", "/bin/hotcell-hostile", "exit", "7"]);
            let output = command.stdin(OwnedFd::from(far)).output().unwrap();
            drop(command);
            let mut line = String::new();
            near.read_to_string(&mut line).unwrap();
            let report: Report = serde_json::from_str(&line).unwrap();
            if degraded {
                assert_eq!((report.end, report.degraded), (End::Exited(7), vec![layer]));
            } else {
                assert!(matches!(report.end, End::LauncherRefused(_)), "{layer:?}: {line}");
                assert_eq!((output.status.code(), report.degraded), (Some(125), vec![]));
            }
        }
    }
}

/// The knob itself, turned in a user namespace that has users enough: which it is, is said.
#[test]
fn the_setting_that_forbids_user_namespaces_is_named() {
    let turn = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --preflight";
    let wait = format!("read go && exec sh -c '{turn}' \"$0\"");
    let mut child = Command::new("unshare")
        .args(["--user", "sh", "-c", &wait, LAUNCHER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Path::new("/proc").join(child.id().to_string());
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_link(process.join("ns/user")).unwrap() == own {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(process.join(map), "0 0 70000").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let found: Result<Preflight, String> = serde_json::from_slice(&output.stdout).unwrap();
    let missing = found.unwrap().missing;
    assert_eq!(missing.iter().map(|it| it.layer).collect::<Vec<_>>(), [Layer::UserNamespace]);
    assert!(missing[0].change.ends_with("(here user.max_user_namespaces is 0)"), "{missing:?}");
}

/// Without root there is no cell without a user namespace, degraded or not.
#[test]
fn without_root_a_user_namespace_is_needed() {
    let (filter, ..) = lesser_hosts().into_iter().find(|it| it.1 == Layer::UserNamespace).unwrap();
    let dir = tempfile::Builder::new().permissions(open_to_all()).tempdir().unwrap();
    let copy = dir.path().join("launcher");
    fs::copy(LAUNCHER, &copy).unwrap();
    let mut command = Command::new(&copy);
    command.args(["--root", "/", "--profile", "probe", "--degraded", "--", "/bin/true"]);
    command.uid(USER).gid(USER).current_dir("/");
    // SAFETY: as above.
    unsafe { command.pre_exec(move || apply_filter(&filter).map_err(std::io::Error::other)) };
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("namespaces are not available"));
}
