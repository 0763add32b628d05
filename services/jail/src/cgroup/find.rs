//! Where this process's control groups are, from what the kernel says of mounts and memberships. Pure.
//!
//! Promises: a folder is named only where both files agree on it. Refuses to guess: a membership outside of what is
//! mounted here (a container that sees less than all) names nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the kernel can bound or share out by group, of what a cell needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Memory of all kinds, page cache and kernel structures included.
    Memory,
    /// Processes and threads.
    Pids,
    /// Shares of processor time.
    Cpu,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The kernel's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// Those that a list names; others are left out.
    pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Self> {
        let one = |name: &str| Self::ALL.into_iter().find(|known| known.name() == name);
        let mut found: Vec<Self> = names.filter_map(one).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Which of the kernel's two kinds of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    /// One hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
    /// Some controllers here, some there.
    Both,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// The one of version 2; its controllers are listed in its files.
    pub(super) unified: bool,
    /// Controllers of a version 1 hierarchy.
    pub(super) controllers: Vec<Controller>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The folder of the group that this process is in.
    pub(super) own: PathBuf,
}

/// Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and `/proc/self/cgroup` (cgroups(7)).
pub(super) fn hierarchies(mounts: &str, memberships: &str) -> Vec<Hierarchy> {
    mounts.lines().filter_map(|line| hierarchy(line, memberships)).collect()
}

fn hierarchy(line: &str, memberships: &str) -> Option<Hierarchy> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, mount) = (unescaped(fields.next()?), PathBuf::from(unescaped(fields.next()?)));
    let mut rest = rest.split(' ');
    let (kind, options) = (rest.next()?, rest.nth(1).unwrap_or_default());
    let unified = match kind {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let controllers = match unified {
        true => Vec::new(),
        false => Controller::listed(options.split(',')),
    };
    if !unified && controllers.is_empty() {
        return None;
    }
    let path = memberships.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let this = match unified {
            true => names.is_empty(),
            false => Controller::listed(names.split(',')) == controllers,
        };
        this.then_some(path)
    })?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    let strays = below.components().any(|part| part.as_os_str() == "..");
    (!strays).then(|| Hierarchy { unified, controllers, own: mount.join(below), mount })
}

/// Undoes `\040` and the like.
fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((plain, code)) = rest.split_once('\\') {
        text.push_str(plain);
        let octal = code.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => text.push(char::from(byte)),
            None => text.push('\\'),
        }
        rest = octal.and_then(|_| code.get(3..)).unwrap_or(code);
    }
    text.push_str(rest);
    text
}

/// The number behind a name in a file of `name number` lines: memory.events, pids.events, cpu.stat, memory.oom_control.
pub(super) fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| match line.split_once(' ') {
        Some((first, number)) if first == name => number.trim().parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Controller, hierarchies, number, unescaped};

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn check(mounts: &str, memberships: &str, expect: &[(&str, &[Controller])]) {
        let found = hierarchies(mounts, memberships);
        let found: Vec<_> =
            found.iter().map(|one| (one.own.to_str().unwrap(), &*one.controllers)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn every_hierarchy_has_its_own_path() {
        use Controller::{Cpu, Memory};
        let memberships =
            "9:name=systemd:/x\n4:memory:/a/b\n3:freezer:/\n2:cpu,cpuacct:/\n0::/user.slice";
        let expect: [(&str, &[Controller]); 3] = [
            ("/sys/fs/cgroup/cpu,cpuacct/", &[Cpu]),
            ("/sys/fs/cgroup/memory/a/b", &[Memory]),
            ("/sys/fs/cgroup/unified/user.slice", &[]),
        ];
        check(HYBRID, memberships, &expect);
    }

    #[test]
    fn containers() {
        let bound = "1 2 0:3 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate";
        check(bound, "0::/docker/x/y", &[("/sys/fs/cgroup/y", &[])]);
        check(bound, "0::/elsewhere", &[]);
        let own = "1 2 0:3 / /sys/fs/cgroup ro - cgroup2 cgroup rw";
        check(own, "0::/", &[("/sys/fs/cgroup/", &[])]);
        check(own, "0::/../..", &[]);
        check("", "0::/", &[]);
        check("not a mount", "0::/", &[]);
    }

    #[test]
    fn escapes() {
        for (field, expect) in [
            ("/a", "/a"),
            ("/a\\040b", "/a b"),
            ("\\134", "\\"),
            ("/a\\", "/a\\"),
            ("\\99", "\\99"),
        ] {
            assert_eq!(unescaped(field), expect, "{field}");
        }
    }

    #[test]
    fn files_of_version_2_and_1() {
        let events = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 3\n";
        assert_eq!(number(events, "oom_kill"), Some(2));
        assert_eq!(number("max 4\n", "max"), Some(4));
        let stat = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(number(stat, "usage_usec"), Some(1500));
        assert_eq!(number("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", "oom_kill"), Some(5));
        assert_eq!(number("max\nmax x\n", "max"), None);
        assert_eq!(
            Controller::listed("cpuset cpu io pids".split(' ')),
            [Controller::Pids, Controller::Cpu]
        );
    }
}
