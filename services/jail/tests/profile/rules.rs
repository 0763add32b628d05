//! BRK-35: no line is redundant: without it, some job ends otherwise than with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use hotcell_jail::cell::{End, Outcome};
use hotcell_jail::profile::Profile;
use serde_json::Value;

use crate::jobs::{Job, launcher_of};

/// For each line the cheapest job that needs it.
const PROBE: &[(Job, &str)] = &[
    (Job::Version, "write newfstatat brk mprotect set_robust_list rseq set_tid_address exit_group"),
    (Job::Version, "getrandom execveat arch_prctl prlimit64 readlink"),
    (Job::StubProbe, "pread64 rt_sigaction sigaltstack poll"),
    (Job::Probe, "read lseek close openat mmap munmap futex fcntl"),
    (Job::ProbeOfNothing, "ioctl"),
    (Job::DebianProbe, "access sched_getaffinity getuid geteuid prctl get_mempolicy mlock statfs"),
    (Job::BrokenHeap, "writev rt_sigprocmask getpid gettid tgkill"),
    (Job::Grow, "mremap"),
    (Job::Fstat, "fstat"),
];

const TRANSCODE: &[(Job, &str)] = &[
    (Job::Version, "newfstatat brk mprotect set_robust_list rseq set_tid_address exit_group"),
    (Job::Version, "getrandom execveat arch_prctl prlimit64 readlink write"),
    (Job::Stub, "read pread64 close openat access mmap munmap rt_sigaction sigaltstack poll"),
    (Job::StubSlow, "clock_nanosleep"),
    (Job::StubFrozen, "restart_syscall"),
    (Job::Audio, "lseek fcntl ioctl getrusage"),
    (Job::X264, "madvise futex rt_sigprocmask exit clone clone3"),
    (Job::X265, "clock_gettime getpriority setpriority"),
    (Job::X265WithoutVdso, "gettimeofday"),
    (Job::DebianX264, "sched_getaffinity getuid geteuid prctl get_mempolicy mlock statfs"),
    (Job::DebianX265TwoPass, "rename unlink set_mempolicy"),
    (Job::DebianSvtAv1, "sched_setaffinity"),
    (Job::TooLong, "rt_sigreturn"),
    (Job::BrokenHeap, "writev getpid gettid tgkill"),
    (Job::Grow, "mremap"),
    (Job::Fstat, "fstat"),
];

/// Process 1's lines, the same in both.
const INIT: &[(Job, &str)] =
    &[(Job::Version, "ppoll wait4 write exit_group"), (Job::Violation, "ioctl pidfd_send_signal")];

#[tokio::test]
async fn each_line_of_probe_is_needed() {
    each_line_is_needed(Profile::Probe, PROBE).await;
}

#[tokio::test]
async fn each_line_of_transcode_is_needed() {
    each_line_is_needed(Profile::Transcode, TRANSCODE).await;
}

async fn each_line_is_needed(profile: Profile, payload: &[(Job, &str)]) {
    let file: Value = serde_json::from_str(profile.text()).unwrap();
    let whole = launcher_of(profile.text());
    let mut with: HashMap<Job, Outcome> = HashMap::new();
    for (list, table) in [("payload", payload), ("init", INIT)] {
        let job_of = |call: &str| {
            let row = table.iter().find(|(_, calls)| calls.split(' ').any(|name| name == call));
            row.map(|(job, _)| *job).unwrap_or_else(|| panic!("no job needs {call}"))
        };
        let lines = file["x86_64"][list].as_array().unwrap();
        let proven = table.iter().flat_map(|(_, calls)| calls.split(' ')).count();
        assert_eq!(proven, lines.len(), "the table names what the profile does not list");
        for (at, line) in lines.iter().enumerate() {
            let job = job_of(line["syscall"].as_str().unwrap());
            if let Entry::Vacant(place) = with.entry(job) {
                let outcome = job.run(&whole, profile).await;
                assert!(job.is_as_ever(&outcome), "{job:?}: {outcome:?}");
                place.insert(outcome);
            }
            for less in without(&file, list, at) {
                let outcome = job.run(&launcher_of(&less.to_string()), profile).await;
                let told = |outcome: &Outcome| (outcome.end.clone(), outcome.violation.clone());
                assert_ne!(told(&outcome), told(&with[&job]), "{job:?} without {}", line);
            }
        }
    }
}

/// The profile without the line, and without each of the values of an argument that may have several.
fn without(file: &Value, list: &str, at: usize) -> Vec<Value> {
    let mut less = file.clone();
    let line = less["x86_64"][list].as_array_mut().unwrap().remove(at);
    let mut all = vec![less];
    for (arg, values) in line["args"].as_array().into_iter().flatten().enumerate() {
        let values = values["is"].as_array().unwrap().len();
        for value in (0..values).filter(|_| values > 1) {
            let mut less = file.clone();
            let line = &mut less["x86_64"][list][at]["args"][arg]["is"];
            line.as_array_mut().unwrap().remove(value);
            all.push(less);
        }
    }
    all
}

/// BRK-35: the profiles as they are, in the launcher as it is, for the work that they are there for.
#[tokio::test]
async fn every_job_is_done_under_its_profile() {
    for (profile, table) in [(Profile::Probe, PROBE), (Profile::Transcode, TRANSCODE)] {
        for job in table.iter().map(|(job, _)| *job) {
            let outcome = job.run(crate::jobs::LAUNCHER.as_ref(), profile).await;
            assert!(job.is_as_ever(&outcome), "{} {job:?}: {outcome:?}", profile.name());
            assert_eq!(outcome.profile_hash, profile.hash());
            assert!(outcome.violation.is_none() && outcome.degraded.is_empty());
        }
    }
}

/// Every encoder of the plans at every effort, ours and Debian's. What differs is threads, and so memory and locks.
#[tokio::test]
async fn every_effort_is_done_under_its_profile() {
    let video =
        |codec: &str, effort: &str| format!("-c:v {codec} -preset {effort} -c:a aac -f mp4");
    let mut lines: Vec<String> = Vec::new();
    for effort in ["fast", "medium", "slow"] {
        lines.extend(["libx264", "libx265"].map(|codec| video(codec, effort)));
    }
    for speed in ["5", "4", "2"] {
        let fixed = "-deadline good -row-mt 1 -tile-columns 1 -threads:v 4 -crf 30 -b:v 0";
        lines.push(format!("-c:v libvpx-vp9 {fixed} -cpu-used {speed} -c:a libopus -f webm"));
    }
    lines.extend(
        ["-vn -c:a aac -f ipod", "-vn -c:a libmp3lame -f mp3", "-c:v libx264 -an -f matroska"]
            .map(str::to_owned),
    );
    for line in lines {
        for program in crate::jobs::both_ffmpegs() {
            let outcome = crate::jobs::encode(&program, &line).await;
            assert_eq!(outcome.end, End::Exited(0), "{program:?} {line}: {outcome:?}");
        }
    }
}
