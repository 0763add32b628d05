//! What of cells could stay: looked at before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fixture::{marker, with_argument};

/// Objects of the kernel's that a cell has, by the name of their cache (slabinfo(5)). A name that the
/// running kernel has merged with another is not there.
const OBJECTS: [&str; 7] = [
    "pid_namespace",
    "user_namespace",
    "net_namespace",
    "uts_namespace",
    "mnt_cache",
    "nsproxy",
    "key_jar",
];

/// Lines of the host's mount table that name this folder.
pub(crate) fn mounts_in(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = folder.to_str().unwrap();
    table.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
}

/// Every path below a folder.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_in(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}

/// Every control group, of whichever version, that has this in its path.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        // A group may go while we look.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                below(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), &mut found);
    found.retain(|path| path.to_string_lossy().contains(name));
    found
}

/// A folder of version 2 of control groups, without a controller, and everything below it; gone with this value.
#[derive(Debug)]
pub(crate) struct Unified(pub(crate) PathBuf);

impl Unified {
    pub(crate) fn new() -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        let mount = line.split(' ').nth(4).unwrap();
        let folder = Path::new(mount).join(format!("hotcell-test-{}", marker()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// Groups in it, but for the supervisor's own.
    pub(crate) fn cells(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.0).unwrap().flatten();
        let all = all.filter(|entry| entry.file_type().unwrap().is_dir()).map(|it| it.path());
        all.filter(|path| !path.ends_with("supervisor")).collect()
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        drop(fs::remove_dir(self.0.join("supervisor")));
        drop(fs::remove_dir(&self.0));
    }
}

/// Children of this process, the dead that nobody has waited for among them.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let parent = |stat: &str| {
        stat.rsplit_once(')')?.1.split_whitespace().nth(1).map(|pid| pid == own.as_str())
    };
    stats.filter(|stat| parent(stat) == Some(true)).collect()
}

/// What this process and the kernel hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) mounts: usize,
    pub(crate) children: Vec<String>,
    pub(crate) marked: Vec<i32>,
    pub(crate) files: Vec<PathBuf>,
}

impl Kept {
    /// `mark` is an argument of every process of the cells, `folders` are theirs.
    pub(crate) fn now(mark: &str, folders: &[&Path]) -> Self {
        let count = |path: &str| fs::read_dir(path).unwrap().count();
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            mounts: folders.iter().map(|folder| mounts_in(folder).len()).sum(),
            children: children(),
            marked: with_argument(mark),
            files: folders.iter().flat_map(|folder| files_in(folder)).collect(),
        }
    }
}

/// Bytes of memory that this process holds.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// How many of each kind of object the kernel has, and keys of every user together.
pub(crate) fn kernel_objects() -> BTreeMap<String, u64> {
    let number = |word: Option<&str>| word.unwrap().parse::<u64>().unwrap();
    let mut all = BTreeMap::new();
    for line in fs::read_to_string("/proc/slabinfo").unwrap().lines() {
        let mut words = line.split_whitespace();
        if let Some(name) = words.next().filter(|name| OBJECTS.contains(name)) {
            all.insert(name.to_owned(), number(words.next()));
        }
    }
    assert!(all.len() > OBJECTS.len() / 2, "the kernel tells too little: {all:?}");
    // "uid: users keys/..." for each user: proc_key_users(5).
    let users = fs::read_to_string("/proc/key-users").unwrap();
    let keys = users.lines().filter_map(|line| line.split_whitespace().nth(2)?.split('/').next());
    let keys = keys.map(|keys| number(Some(keys)));
    all.insert("keys".to_owned(), keys.sum());
    all
}

/// Waits until the kernel has no more than `extra` objects of any kind above `before`: it lets go of namespaces late,
/// and other tests have some.
pub(crate) fn until_objects(before: &BTreeMap<String, u64>, extra: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = kernel_objects();
        let over = now.iter().find(|(name, count)| **count > before[*name] + extra);
        let Some((name, count)) = over else { return };
        assert!(Instant::now() < deadline, "{name}: {count} after {}", before[name]);
        std::thread::sleep(Duration::from_millis(50));
    }
}
