//! Checks of the machine: what cells need of the kernel, and what around them would undo it.

use super::{Check, bytes};
use crate::up;
use hotcell_jail::{
    cgroup::{Choice, Groups, Wish},
    layers::Layer,
    preflight::{PreflightError, inspect},
};
use hotcell_stage::service::describe;
use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};
use std::{fs, path::Path, process::Command};

/// Room for one job: 2 GiB of input and 4 GiB of output, twice.
const FREE_BYTES_MIN: u64 = 12 << 30;

/// Below it nothing at all can be done.
const FREE_BYTES_NONE: u64 = 1 << 30;

/// Descriptors of one service: a connection for each tenant that waits, and files beside them.
const OPEN_FILES_MIN: u64 = 4096;

/// All of them; `data` is the installation's folder, made or not.
pub(super) fn checks(launcher: &Path, data: &Path) -> Vec<Check> {
    let mut checks = kernel(launcher);
    checks.extend([cgroups(), open_files(), core_dumps(), swap(), disk(data), broker()]);
    checks
}

/// What the launcher found when it tried.
fn kernel(launcher: &Path) -> Vec<Check> {
    let found = match inspect(launcher) {
        Ok(found) => found,
        Err(PreflightError::Unfit(change)) => {
            return vec![Check::fail("kernel", "no cell can start", change)];
        }
        Err(error) => {
            let change = "build it (make build), so that it is beside this program";
            return vec![Check::fail("kernel", describe(&error), change)];
        }
    };
    let abi = format!("ABI {}", found.offered.landlock_abi);
    let rows = [
        ("user namespaces", Layer::UserNamespace, namespaces()),
        ("landlock", Layer::Landlock, abi),
        ("seccomp", Layer::Seccomp, "filters that kill the process".to_owned()),
        ("write xor execute", Layer::Mdwe, "PR_SET_MDWE".to_owned()),
    ];
    let mut checks = vec![Check::ok("kernel", found.kernel)];
    checks.extend(rows.map(|(name, layer, text)| {
        match found.missing.iter().find(|missing| missing.layer == layer) {
            None => Check::ok(name, text),
            Some(missing) => Check::fail(name, "missing", &missing.change),
        }
    }));
    checks
}

fn namespaces() -> String {
    match read("/proc/sys/user/max_user_namespaces") {
        Some(count) => format!("up to {count}"),
        None => "they work".to_owned(),
    }
}

/// A file of the kernel, one line.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cgroups() -> Check {
    let name = "cgroups";
    let wish = Wish { choice: Choice::Auto, folders: Vec::new(), cpu_percent: None };
    let change = "cells are bounded by rlimits alone, one process at a time: give hotcell a group \
                  of its own (root; systemd: Delegate=yes; a container: writable /sys/fs/cgroup)";
    match Groups::open(&wish) {
        Ok(groups) if groups.missing().is_empty() => Check::ok(name, groups.to_string()),
        Ok(groups) => {
            let why = groups.why().unwrap_or("no hierarchy has the others");
            Check::warn(name, format!("{groups}; {why}"), change)
        }
        Err(error) => Check::warn(name, describe(&error), change),
    }
}

fn open_files() -> Check {
    let name = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES_MIN => {
            let change = format!("raise the hard limit to {OPEN_FILES_MIN} (ulimit -Hn)");
            Check::warn(name, format!("at most {most}"), change)
        }
        Some(most) => Check::ok(name, format!("at most {most}")),
        None => Check::ok(name, "no limit"),
    }
}

/// Cells have a core limit of 0, which a pattern that starts a program ignores (core(5)).
fn core_dumps() -> Check {
    let name = "core dumps";
    match read("/proc/sys/kernel/core_pattern") {
        Some(pattern) if pattern.starts_with('|') => {
            let program = pattern.trim_start_matches('|').split(' ').next().unwrap_or_default();
            let change = "the memory of what crashes goes to that program whatever the limits \
                          are: sysctl kernel.core_pattern=core";
            Check::warn(name, format!("to {program}"), change)
        }
        Some(pattern) => Check::ok(name, format!("to files ({pattern}), which the limits forbid")),
        None => Check::warn(name, "unknown", "mount /proc"),
    }
}

fn swap() -> Check {
    let name = "swap";
    let devices = read("/proc/swaps").map(|text| text.lines().skip(1).count());
    match devices {
        Some(0) => Check::ok(name, "none"),
        Some(count) => {
            let change = "keys and frames may reach the disk: swapoff -a, or encrypt it";
            Check::warn(name, format!("{count} device(s)"), change)
        }
        None => Check::ok(name, "not in this kernel"),
    }
}

fn disk(data: &Path) -> Check {
    let name = "disk space";
    let whole = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let there = whole.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = match statvfs(there) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return Check::fail(name, error.to_string(), "name another folder: --data"),
    };
    let found = format!("{} free at {}", bytes(free), there.display());
    let change = format!("one job may need {}: make room, or use --data", bytes(FREE_BYTES_MIN));
    match free {
        0..FREE_BYTES_NONE => Check::fail(name, found, change),
        FREE_BYTES_NONE..FREE_BYTES_MIN => Check::warn(name, found, change),
        FREE_BYTES_MIN.. => Check::ok(name, found),
    }
}

fn broker() -> Check {
    let name = "nats-server";
    let program = match up::nats_server() {
        Ok(program) => program,
        Err(fail) => return Check::fail(name, fail.message, "tools/setup installs it"),
    };
    let said = Command::new(&program).arg("--version").env_clear().output();
    match said {
        Ok(said) if said.status.success() => {
            let version = String::from_utf8_lossy(&said.stdout);
            Check::ok(name, format!("{} at {}", version.trim(), program.display()))
        }
        Ok(_) | Err(_) => {
            Check::fail(name, format!("{} does not run", program.display()), "tools/setup")
        }
    }
}
