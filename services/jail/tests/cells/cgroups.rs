//! Cells in the control groups of this host's kernel. Version 1 where that has the
//! controllers; version 2 on its bare tree, with groups and kill and membership but no controller.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hotcell_jail::Identity;
use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, CgroupVersion, End, run};
use hotcell_jail::cgroup::{Choice, Controller, GroupError, Groups, Slot, Wish};
use hotcell_jail::layers::Layer;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fixture::{USER, end_of, hostile, marker, until, with_argument};

const MIB: u64 = 1 << 20;
const IDENTITY: Identity = Identity { uid: USER, gid: USER };

fn wish(choice: Choice) -> Wish {
    Wish { choice, folders: Vec::new(), cpu_percent: None }
}

/// Every limit, or the test fails: this host has all three.
fn slots(count: usize) -> Vec<Arc<Slot>> {
    let groups = Groups::open(&wish(Choice::Required)).unwrap();
    (0..count).map(|number| Arc::new(groups.slot(number, IDENTITY).unwrap())).collect()
}

fn slot() -> Arc<Slot> {
    slots(1).remove(0)
}

fn in_slot(line: &str, slot: &Arc<Slot>) -> (Cell, TempDir) {
    let (mut cell, out) = hostile(line);
    cell.identity = IDENTITY;
    cell.slot = Some(Arc::clone(slot));
    (cell, out)
}

/// Every group folder whose name starts so.
fn folders(start: &str) -> Vec<PathBuf> {
    fn below(dir: &Path, start: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_str().unwrap().starts_with(start) {
                    found.push(entry.path());
                }
                below(&entry.path(), start, found);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), start, &mut found);
    found
}

fn own_folders() -> Vec<PathBuf> {
    folders(&format!("hotcell-{}-", std::process::id()))
}

#[tokio::test]
async fn brk_33_memory_is_bounded_by_the_group_and_named() {
    let slot = slot();
    let (mut cell, _out) = in_slot("allocate 200000000", &slot);
    cell.limits.tmp_bytes = MIB;
    let enough = end_of(&cell).await;
    assert_eq!(enough.end, End::Exited(0));
    assert!((190 * MIB..300 * MIB).contains(&enough.max_rss_bytes), "{}", enough.max_rss_bytes);
    assert_eq!(enough.cgroup, slot.version());
    assert!(enough.cgroup.is_some());

    cell.limits.memory_bytes = 128 * MIB;
    let little = end_of(&cell).await;
    assert_eq!(little.end, End::Memory);
    // With the pages of the program itself, which are charged to whoever read them first.
    assert!(little.max_rss_bytes <= 140 * MIB, "{}", little.max_rss_bytes);

    // The address space is no limit here, so it is the group and nothing else: without it the same goes through.
    cell.slot = None;
    cell.limits.memory_bytes = 256 * MIB;
    assert_eq!(end_of(&cell).await.end, End::Exited(0));
    // The next cell of the slot starts from nothing.
    cell.slot = Some(slot);
    cell.args = vec!["exit".to_owned(), "0".to_owned()];
    let next = end_of(&cell).await;
    assert_eq!(next.end, End::Exited(0));
    assert!(next.max_rss_bytes < 64 * MIB, "{}", next.max_rss_bytes);
}

/// Memory that no process has: the files of `/tmp` count too.
#[tokio::test]
async fn files_in_memory_count() {
    let slot = slot();
    let (mut cell, _out) = in_slot("fill /tmp/x:60000000", &slot);
    cell.limits.tmp_bytes = 64 * MIB;
    let outcome = end_of(&cell).await;
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.max_rss_bytes > 57 * MIB, "{}", outcome.max_rss_bytes);
}

/// The cached pages of what one cell wrote are neither in the next one's way nor in its account.
#[tokio::test]
async fn files_of_the_last_cell_do_not_count() {
    let slot = slot();
    let (mut cell, _out) = in_slot("fill /out/x:150000000", &slot);
    // On a disk: where /tmp is memory, what is there stays charged for as long as it is there.
    let on_disk = tempfile::tempdir_in("/var/tmp").unwrap();
    cell.out_dir = Some(on_disk.path().to_owned());
    let wrote = end_of(&cell).await;
    assert_eq!(wrote.end, End::Exited(0));
    assert!(wrote.max_rss_bytes > 140 * MIB, "cached pages count: {}", wrote.max_rss_bytes);
    cell.args = ["allocate", "40000000"].map(str::to_owned).to_vec();
    (cell.limits.memory_bytes, cell.limits.tmp_bytes) = (64 * MIB, MIB);
    let next = end_of(&cell).await;
    assert_eq!(next.end, End::Exited(0));
    assert!(next.max_rss_bytes <= 65 * MIB, "{}", next.max_rss_bytes);
}

#[tokio::test]
async fn threads_are_bounded_by_the_group_and_named() {
    let slot = slot();
    let (mut cell, _out) = in_slot("threads 20", &slot);
    cell.limits.procs = 21;
    assert_eq!(end_of(&cell).await.end, End::Exited(0));
    cell.limits.procs = 20;
    assert_eq!(end_of(&cell).await.end, End::Pids);
    // By the group: the rlimit is not met yet.
    cell.slot = None;
    cell.limits.procs = 40;
    assert_eq!(end_of(&cell).await.end, End::Exited(0));
}

/// Processes that fork, which only a cell without seccomp can, and allocate, each less than a process may.
#[tokio::test]
async fn bombs_of_many_processes_end_by_name() {
    let slot = slot();
    for (line, expect) in [("fork_bomb 100 0", End::Pids), ("fork_bomb 20 20000000", End::Memory)] {
        let (mut cell, _out) = in_slot(line, &slot);
        (cell.layers_off, cell.degraded) = (vec![Layer::Seccomp], true);
        (cell.limits.memory_bytes, cell.limits.procs) = (200 * MIB, 32);
        cell.limits.tmp_bytes = MIB;
        assert_eq!(end_of(&cell).await.end, expect, "{line}");
        // With it, there is no second process.
        (cell.layers_off, cell.degraded) = (vec![], false);
        assert_eq!(end_of(&cell).await.end, End::Signaled(31), "{line}");
        cell.args = vec!["exit".to_owned(), "0".to_owned()];
        assert_eq!(end_of(&cell).await.end, End::Exited(0), "after {line}");
    }
}

/// Known causes keep their names, whatever the kernel counted besides.
#[tokio::test]
async fn a_payload_that_ends_well_was_not_refused() {
    let slot = slot();
    let (mut cell, _out) = in_slot("exit 3", &slot);
    assert_eq!(end_of(&cell).await.end, End::Exited(3));
    cell.args = vec!["inet".to_owned()];
    assert_eq!(end_of(&cell).await.end, End::Signaled(31));
    cell.args = vec!["hold".to_owned()];
    cell.limits.wall_secs = 1;
    assert_eq!(end_of(&cell).await.end, End::WallClock);
}

/// A cell with 32 busy threads beside one with a single thread, all on one processor. Each cell has half of what they
/// get there; without groups the single thread is one of 33. On several processors, whatever else runs on the one that
/// the single thread is on takes from it more than from the threads that are on all; on one, it takes from both.
#[tokio::test]
async fn brk_34_a_busy_neighbour_takes_no_more_than_its_share() {
    // Every thread and process that this thread starts from now on has it too.
    let all = sched_getaffinity(None).unwrap();
    let mut single = CpuSet::new();
    single.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &single).unwrap();
    let share = async |slots: &[Option<Arc<Slot>>; 2]| {
        let (mut many, _out) = hostile("spin_threads 32");
        let (mut one, _other) = hostile("spin");
        for (cell, slot) in [&mut many, &mut one].into_iter().zip(slots) {
            cell.identity = IDENTITY;
            cell.slot.clone_from(slot);
            cell.limits.wall_secs = 3;
        }
        let (many, one) = tokio::join!(end_of(&many), end_of(&one));
        assert_eq!((&many.end, &one.end), (&End::WallClock, &End::WallClock));
        one.cpu_ms * 100 / (one.cpu_ms + many.cpu_ms)
    };
    let slots = slots(2);
    let bounded = share(&[Some(Arc::clone(&slots[0])), Some(Arc::clone(&slots[1]))]).await;
    // The kernel's automatic groups, one for each session, part processes in the root group only; a service is in none.
    let together = cpu_group();
    fs::write(together.0.join("cgroup.procs"), "0").unwrap();
    let unbounded = share(&[None, None]).await;
    fs::write(together.0.parent().unwrap().join("cgroup.procs"), "0").unwrap();
    let fair = 50;
    println!(
        "share of the single thread: {bounded} % in groups, {unbounded} % without, fair {fair} %"
    );
    assert!(bounded * 10 >= fair * 7, "{bounded} of {fair}");
    assert!(unbounded * 2 < bounded, "{unbounded} without groups: this test shows nothing");
}

/// A neighbour that takes all the memory it can get ends alone.
#[tokio::test]
async fn brk_33_a_neighbour_without_memory_dies_alone() {
    let slots = slots(2);
    let mark = marker();
    let (mut holder, _out) = in_slot("hold", &slots[0]);
    holder.args.push(mark.clone());
    let (mut greedy, _other) = in_slot("allocate 1000000000", &slots[1]);
    greedy.limits.memory_bytes = 600 * MIB;
    let cancel = CancellationToken::new();
    let work = async {
        until("holder", || with_argument(&mark).len() == 3).await;
        let end = end_of(&greedy).await.end;
        assert_eq!(with_argument(&mark).len(), 3, "the neighbour lives");
        cancel.cancel();
        end
    };
    let (held, end) = tokio::join!(run(&holder, &cancel, Stdout::Discard), work);
    assert_eq!((held.unwrap().end, end), (End::Cancelled, End::Memory));
}

#[tokio::test]
async fn groups_are_removed_and_hold_only_our_thread_between_cells() {
    let groups = Groups::open(&wish(Choice::Required)).unwrap();
    assert_eq!(groups.missing(), []);
    let first = Arc::new(groups.slot(0, IDENTITY).unwrap());
    let (mut cell, _out) = in_slot("hold", &first);
    let mark = marker();
    cell.args.push(mark.clone());
    {
        let cancel = CancellationToken::new();
        tokio::select! {
            outcome = run(&cell, &cancel, Stdout::Discard) => panic!("{outcome:?}"),
            () = until("running", || with_argument(&mark).len() == 3) => {}
        }
    }
    // A dropped future leaves nothing behind that the next cell would meet.
    cell.args = vec!["exit".to_owned(), "0".to_owned()];
    assert_eq!(end_of(&cell).await.end, End::Exited(0));
    for dir in
        folders("slot-0").iter().filter(|dir| own_folders().iter().any(|own| dir.starts_with(own)))
    {
        let tasks = fs::read_to_string(dir.join("tasks")).unwrap();
        let thread = tasks.trim().parse::<u32>().unwrap();
        let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap();
        assert_eq!(name.trim(), "cell-slot-0", "{}", dir.display());
    }
    assert!(!own_folders().is_empty());
    drop((cell, first));
    drop(groups);
    assert_eq!(own_folders(), Vec::<PathBuf>::new());
}

/// What a worker left that was killed is removed by the next.
#[tokio::test]
async fn groups_of_the_dead_are_removed() {
    let groups = Groups::open(&wish(Choice::Required)).unwrap();
    let own = own_folders();
    drop(groups);
    let dead: Vec<PathBuf> =
        own.iter().map(|dir| dir.with_file_name("hotcell-4194304-1").join("slot-0")).collect();
    dead.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    drop(Groups::open(&wish(Choice::Auto)).unwrap());
    assert!(!dead.is_empty() && dead.iter().all(|dir| !dir.exists()));
}

#[test]
fn off_is_off_and_required_says_what_is_missing() {
    let none = Groups::open(&wish(Choice::Off)).unwrap();
    assert_eq!((none.version(), none.missing()), (None, Controller::ALL.as_slice()));
    // A hierarchy that has none of what is needed.
    let elsewhere = Wish { folders: vec![bare_v2().1], ..wish(Choice::Required) };
    let GroupError::Missing { missing, .. } = Groups::open(&elsewhere).unwrap_err() else {
        panic!("another error")
    };
    assert_eq!(missing, "memory pids cpu");
    let nowhere = Wish { folders: vec!["/tmp".into()], ..wish(Choice::Auto) };
    assert!(matches!(Groups::open(&nowhere), Err(GroupError::NoHierarchy(_))));
}

/// A group of the processor controller, of version 1, for what is not in a cell's.
fn cpu_group() -> Removed {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let has_cpu = |line: &&str| {
        let options = line.rsplit(' ').next().unwrap();
        line.contains(" - cgroup ") && options.split(',').any(|option| option == "cpu")
    };
    let mount = mounts.lines().find(has_cpu).and_then(|line| line.split(' ').nth(4)).unwrap();
    let dir = Path::new(mount).join(format!("hotcell-test-{}", marker()));
    fs::create_dir(&dir).unwrap();
    Removed(dir)
}

/// A folder of version 2, and its guard.
fn bare_v2() -> (Removed, PathBuf) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    let mount = line.split(' ').nth(4).unwrap();
    let dir = Path::new(mount).join(format!("hotcell-test-{}", marker()));
    fs::create_dir(&dir).unwrap();
    (Removed(dir.clone()), dir)
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

/// Runs a cell that holds, looks at its group, and kills it as the supervisor does when a launcher does not answer.
async fn born_and_killed(dir: &Path, slot: &Arc<Slot>, identity: Identity) {
    let (mut cell, _out) = in_slot("hold", slot);
    cell.identity = identity;
    let mark = marker();
    cell.args.push(mark.clone());
    let look = async {
        until("running", || with_argument(&mark).len() == 3).await;
        let cells = children(dir);
        let [own] = cells.as_slice() else { panic!("{cells:?}") };
        let members = fs::read_to_string(own.join("cgroup.procs")).unwrap();
        let mut members: Vec<i32> = members.lines().map(|pid| pid.parse().unwrap()).collect();
        members.sort_unstable();
        let mut all = with_argument(&mark);
        all.sort_unstable();
        // Process 1 and the payload; the launcher stays outside, and reports.
        assert_eq!(members, all[1..]);
        fs::write(own.join("cgroup.kill"), "1").unwrap();
    };
    let never = CancellationToken::new();
    let (outcome, ()) = tokio::join!(run(&cell, &never, Stdout::Discard), look);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.end, outcome.cgroup), (End::Signaled(9), Some(CgroupVersion::V2)));
    assert_eq!(children(dir), Vec::<PathBuf>::new());
}

fn open_v2(dir: &Path) -> Arc<Groups> {
    let folders = vec![dir.to_owned()];
    let groups = Groups::open(&Wish { folders, ..wish(Choice::Auto) }).unwrap();
    assert_eq!(groups.version(), Some(CgroupVersion::V2));
    groups
}

/// CLONE_INTO_CGROUP, membership, cgroup.kill and removal, on version 2 without controllers: the process is root and its
/// cells are not, as when a worker is started as root.
#[tokio::test]
async fn version_2_cells_are_born_into_a_group_of_their_own() {
    let (_removed, dir) = bare_v2();
    let groups = open_v2(&dir);
    let slot = Arc::new(groups.slot(0, IDENTITY).unwrap());
    born_and_killed(&dir, &slot, IDENTITY).await;

    // Dropped in the middle: killed by the group, and gone at the latest with the next.
    let (mut cell, _out) = in_slot("hold", &slot);
    let mark = marker();
    cell.args.push(mark.clone());
    let never = CancellationToken::new();
    {
        tokio::select! {
            outcome = run(&cell, &never, Stdout::Discard) => panic!("{outcome:?}"),
            () = until("running", || with_argument(&mark).len() == 3) => {}
        }
    }
    until("gone", || with_argument(&mark).is_empty()).await;
    cell.args = vec!["spin".to_owned()];
    cell.limits.wall_secs = 1;
    let outcome = end_of(&cell).await;
    assert_eq!(outcome.end, End::WallClock);
    // As little as a busy machine may have given it in that second.
    assert!(outcome.cpu_ms > 10, "{}", outcome.cpu_ms);
    drop((cell, slot));
    drop(groups);
    assert_eq!(children(&dir), Vec::<PathBuf>::new(), "and this process has left its leaf");
}

/// In a container, whose engine refuses clone3 because a filter cannot see its flags: the cell moves itself.
#[tokio::test]
async fn version_2_where_clone3_is_refused() {
    let filter = crate::refusal::without_call("clone3", libc::ENOSYS, &serde_json::Value::Null);
    // For this thread and what it starts.
    seccompiler::apply_filter(&filter).unwrap();
    let (_removed, dir) = bare_v2();
    let groups = open_v2(&dir);
    let slot = Arc::new(groups.slot(0, IDENTITY).unwrap());
    born_and_killed(&dir, &slot, IDENTITY).await;
}

/// A worker that never was root, in a folder that root gave it and moves it into, as `hotcell up` and systemd do.
#[tokio::test]
async fn version_2_delegated_to_a_user() {
    const FOLDER: &str = "HOTCELL_TEST_FOLDER";
    if let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) {
        let identity = Identity::for_this_process();
        assert_eq!(identity, IDENTITY);
        let groups = open_v2(&dir);
        let slot = Arc::new(groups.slot(0, identity).unwrap());
        born_and_killed(&dir, &slot, identity).await;
        return;
    }
    let (_removed, dir) = bare_v2();
    let leaf = dir.join("supervisor");
    fs::create_dir(&leaf).unwrap();
    let _leaf = Removed(leaf.clone());
    let file = |file: &str| dir.join(file);
    let given = [
        dir.clone(),
        leaf.clone(),
        file("cgroup.procs"),
        file("cgroup.subtree_control"),
        leaf.join("cgroup.procs"),
    ];
    given.iter().for_each(|path| chown(path, Some(USER), Some(USER)).unwrap());
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cgroups::version_2_delegated_to_a_user", "--nocapture"])
        .env(FOLDER, &dir)
        .uid(USER)
        .gid(USER)
        .spawn()
        .unwrap();
    // Until then the worker waits.
    fs::write(leaf.join("cgroup.procs"), worker.id().to_string()).unwrap();
    assert!(worker.wait().unwrap().success());
    assert_eq!(children(&dir), Vec::<PathBuf>::new());
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.is_dir() && !path.ends_with("supervisor")).collect()
}
