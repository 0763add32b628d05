//! compose/seccomp.json: under this filter, as an ordinary user, without any capability and with no_new_privs, the cell
//! works; without any of its lines for the cell, the launcher says what to change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hotcell_jail::profile::Profile;
use rustix::thread::{CapabilitySet, Gid, Uid};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::jobs::{LAUNCHER, both_ffmpegs, clip, folder, root_of};

const FILE: &str = include_str!("../../../../compose/seccomp.json");
/// Some user that is neither root nor `nobody`.
const USER: u32 = 4321;
/// Starts the comment of each line that is there for the cell.
const CELL: &str = "CELL: ";

/// The runtime specification's `linux.seccomp`, as far as the file uses it: `architectures` and no `archMap`, no
/// `includes`, so that Docker, containerd, CRI-O and Podman read the same.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: u32,
    architectures: Vec<String>,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    comment: String,
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Arg>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    value_two: u64,
    op: String,
}

fn file() -> File {
    serde_json::from_str(FILE).unwrap()
}

fn program(filter: &Value, target: TargetArch) -> Option<BpfProgram> {
    let text = json!({"it": filter}).to_string();
    compile_from_json(text.as_bytes(), target).ok()?.remove("it")
}

/// Whether a processor has the call; libseccomp, too, leaves out what it has not.
fn known(name: &str, target: TargetArch) -> bool {
    let rules = json!([{"syscall": name}]);
    let filter = json!({"default_action": "log", "filter_action": "allow", "filter": rules});
    program(&filter, target).is_some()
}

/// What libseccomp would make of the rules, in two programs.
fn filters(rules: &[Rule]) -> [BpfProgram; 2] {
    let target = TargetArch::x86_64;
    let of = |rule: &Rule| -> Vec<Value> {
        let condition = |arg: &Arg| {
            let (op, value) = match arg.op.as_str() {
                "SCMP_CMP_EQ" => (json!("eq"), arg.value),
                "SCMP_CMP_MASKED_EQ" => (json!({"masked_eq": arg.value}), arg.value_two),
                other => panic!("{other}"),
            };
            json!({"index": arg.index, "type": "qword", "op": op, "val": value})
        };
        let args: Vec<Value> = rule.args.iter().map(condition).collect();
        let names = rule.names.iter().filter(|name| known(name, target));
        match args.as_slice() {
            [] => names.map(|name| json!({"syscall": name})).collect(),
            args => names.map(|name| json!({"syscall": name, "args": args})).collect(),
        }
    };
    // What the second refuses in its own way, the first allows.
    let all: Vec<Value> = rules.iter().flat_map(of).collect();
    let refused = rules.iter().filter(|rule| rule.action == "SCMP_ACT_ERRNO");
    let refused: Vec<Value> = refused.flat_map(of).collect();
    let (eperm, enosys) = (json!({"errno": 1}), json!({"errno": 38}));
    let allows = json!({"default_action": eperm, "filter_action": "allow", "filter": all});
    let refuses = json!({"default_action": "allow", "filter_action": enosys, "filter": refused});
    [allows, refuses].map(|filter| program(&filter, target).unwrap())
}

/// The launcher as an engine starts it with `user`, `cap_drop: [ALL]`, `no-new-privileges` and this filter.
fn contained(rules: &[Rule], args: &[&str]) -> Output {
    let filters = filters(rules);
    let launcher = folder().join("launcher");
    if !launcher.exists() {
        fs::copy(LAUNCHER, &launcher).unwrap();
    }
    let mut command = Command::new(launcher);
    command.args(args).env_clear().current_dir("/").stdin(Stdio::null());
    let enter = move || -> std::io::Result<()> {
        for bit in 0..=40 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            rustix::thread::remove_capability_from_bounding_set(one)?;
        }
        rustix::thread::clear_ambient_capability_set()?;
        rustix::thread::set_thread_groups(&[])?;
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        rustix::thread::set_no_new_privs(true)?;
        filters.iter().try_for_each(|filter| apply_filter(filter).map_err(std::io::Error::other))
    };
    // SAFETY: between fork and exec only system calls are made: the filters were compiled before.
    unsafe { command.pre_exec(enter) };
    command.output().unwrap()
}

fn without_the_cell_s(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|rule| !rule.comment.starts_with(CELL)).cloned().collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The clip and an empty folder, both the user's.
async fn lent() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    fs::copy(clip().await, &source).unwrap();
    fs::create_dir(&out).unwrap();
    for path in [&source, &out] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    (dir, source, out)
}

/// BRK-37: an encode, from preflight to output, where no engine gives any right.
#[tokio::test]
async fn a_cell_works_in_an_unprivileged_container() {
    let rules = file().syscalls;
    let asked = contained(&rules, &["--preflight"]);
    assert!(asked.status.success(), "{}", text(&asked.stdout));
    for program in both_ffmpegs() {
        let (_dir, source, out) = lent().await;
        let root = root_of(&program);
        let fixed = ["--root", root.path().to_str().unwrap(), "--profile", "transcode"];
        let files = ["--in", source.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let line = "-v error -nostdin -f mov -i /in/0 -c:v libx264 -preset ultrafast -f mp4 /out/a";
        let job: Vec<&str> = line.split(' ').collect();
        let args = [&fixed[..], &files[..], &["--", "/bin/ffmpeg"], &job[..]].concat();
        let output = contained(&rules, &args);
        assert!(output.status.success(), "{program:?}: {}", text(&output.stderr));
        assert!(fs::metadata(out.join("a")).unwrap().len() > 1000);
    }
}

/// ZT-06: under a filter like the engines' own, which have none of our lines, the start fails and the sentence says what
/// to change. Then each of the lines for the cell alone: nothing in the file is more than the launcher needs.
#[test]
fn without_any_of_its_lines_preflight_says_what_to_change() {
    let rules = file().syscalls;
    let mut less = vec![without_the_cell_s(&rules)];
    for (at, rule) in rules.iter().enumerate() {
        if rule.comment.starts_with(CELL) {
            let mut without = rules.clone();
            without.remove(at);
            less.push(without);
        }
    }
    assert!(less.len() > 10, "there are lines for the cell");
    for rules in less {
        let asked = contained(&rules, &["--preflight"]);
        let said = text(&asked.stdout);
        assert_eq!(asked.status.code(), Some(125), "{said}");
        let advice = said.contains("container") || said.contains("run Linux 4.6 or later");
        assert!(advice && said.lines().count() == 1, "{said}");
    }
}

/// BRK-35: one list. What the file adds for the cell is what the profiles refuse to the payload under its name, and what
/// it gives to ordinary programs holds nothing of that but what services need.
#[test]
fn the_file_is_the_profiles_other_side() {
    const FOR_SERVICES: &str = "accept accept4 bind connect listen socketpair sendto sendmsg sendmmsg recvfrom recvmsg \
        recvmmsg getsockopt setsockopt shutdown execve fork vfork clone3 kill tkill rt_sigqueueinfo rt_tgsigqueueinfo \
        pidfd_open memfd_create setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset \
        fchmod fchmodat fchmodat2 fchown fchownat linkat symlinkat mknodat chmod chown lchown link symlink mknod \
        shmget shmat semget msgget clone socket";
    let file = file();
    assert_eq!((file.default_action.as_str(), file.default_errno_ret), ("SCMP_ACT_ERRNO", 1));
    assert_eq!(file.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"], "and no 32-bit ones");
    let profile: Value = serde_json::from_str(Profile::Transcode.text()).unwrap();
    let lists = profile["x86_64"]["named"].as_array().unwrap().iter();
    let named: Vec<&str> = lists
        .flat_map(|list| list["syscalls"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for rule in &file.syscalls {
        let enosys = rule.action == "SCMP_ACT_ERRNO" && rule.errno_ret == Some(38);
        assert!(enosys || (rule.action == "SCMP_ACT_ALLOW" && rule.errno_ret.is_none()));
        let cells = rule.comment.starts_with(CELL);
        for name in &rule.names {
            let here = known(name, TargetArch::x86_64) || known(name, TargetArch::aarch64);
            assert!(here, "no processor has {name}");
            let is_named = named.contains(&name.as_str());
            let service = FOR_SERVICES.split_whitespace().any(|other| other == name);
            assert!(if cells { is_named } else { !is_named || service }, "{name}");
        }
        // pivot_root has no flags; every other line for the cell says which it means.
        assert!(!cells || !rule.args.is_empty() || rule.names == ["pivot_root"], "{rule:?}");
    }
}

/// The compose file uses it.
#[test]
fn the_compose_file_names_the_profile() {
    let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/compose.yaml");
    let text = fs::read_to_string(compose).unwrap();
    let encoder = text.split("\n  encoder:\n").nth(1).unwrap();
    let encoder = encoder.split("\nnetworks:").next().unwrap();
    assert!(
        encoder.contains("seccomp=./seccomp.json") && !text.contains("unconfined\", \"seccomp")
    );
    assert!(!text.contains("seccomp=unconfined") && !text.contains("privileged: true"));
}
