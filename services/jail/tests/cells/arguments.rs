//! BRK-35: the argument rules of the profiles, each with a right and with a wrong value, in a real cell.

use hotcell_jail::cell::End::{self, Exited, Signaled};
use hotcell_jail::profile::Profile;

use crate::fixture::{end_of, hostile, text};

const KILLED: (End, &str) = (Signaled(31), "");
const DONE: (End, &str) = (Exited(0), "");
const EPERM: (End, &str) = (Exited(1), "refused errno=1\n");
const ENOSYS: (End, &str) = (Exited(1), "refused errno=38\n");
/// The call reached the kernel, which did not like the descriptor.
const EBADF: (End, &str) = (Exited(1), "refused errno=9\n");

async fn check(profile: Profile, nr: i64, args: &[i64], expect: (End, &str)) {
    let numbers: Vec<String> = [nr].iter().chain(args).map(i64::to_string).collect();
    let (mut cell, _out) = hostile(&format!("raw {}", numbers.join(":")));
    cell.profile = profile;
    let outcome = end_of(&cell).await;
    let got = (outcome.end, text(&outcome.stdout.bytes));
    assert_eq!((got.0, got.1.as_str()), expect, "{} {numbers:?}", profile.name());
}

#[tokio::test]
async fn arguments_of_both_profiles() {
    for profile in [Profile::Probe, Profile::Transcode] {
        let check = async |nr, args: &[i64], expect| check(profile, nr, args, expect).await;
        // Another descriptor, another flag; and the right ones, which are right once only.
        check(libc::SYS_execveat, &[999, 0, 0, 0, 0x1000], KILLED).await;
        check(libc::SYS_execveat, &[1000, 0, 0, 0, 0], KILLED).await;
        check(libc::SYS_execveat, &[1000, 0, 0, 0, 0x1000], KILLED).await;
        check(libc::SYS_arch_prctl, &[0x1001, 0], KILLED).await;
        check(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1], EPERM).await;
        check(libc::SYS_prctl, &[libc::PR_CAPBSET_READ.into(), 0], DONE).await;
        let tiocsti = 0x5412;
        check(libc::SYS_ioctl, &[1, tiocsti, 0], EPERM).await;
        // Only the low half of the request counts for the kernel, so only that is compared.
        check(libc::SYS_ioctl, &[1, tiocsti | (1 << 32), 0], EPERM).await;
        check(libc::SYS_fcntl, &[1, libc::F_DUPFD.into(), 0], EPERM).await;
        check(libc::SYS_fcntl, &[1, libc::F_SETOWN.into(), 1], EPERM).await;
        check(libc::SYS_fcntl, &[99, libc::F_GETFD.into(), 0], EBADF).await;
        check(libc::SYS_prlimit64, &[0, 7, 4096, 0], EPERM).await;
        check(libc::SYS_prlimit64, &[0, 7, 0, 0], DONE).await;
        check(libc::SYS_clone3, &[0, 0], ENOSYS).await;
        // The x32 twin of getpid.
        check(libc::SYS_getpid | 0x4000_0000, &[], KILLED).await;
    }
}

#[tokio::test]
async fn arguments_that_differ() {
    let fork = i64::from(libc::SIGCHLD);
    check(Profile::Transcode, libc::SYS_clone, &[fork], KILLED).await;
    check(Profile::Transcode, libc::SYS_clone, &[0x3d_0f00 | 0x1000_0000], KILLED).await;
    check(Profile::Probe, libc::SYS_clone, &[fork], EPERM).await;
    check(Profile::Probe, libc::SYS_clone, &[0x3d_0f00], EPERM).await;
    let here = i64::from(libc::AT_FDCWD);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE | 1] {
        check(Profile::Probe, libc::SYS_openat, &[here, 0, flags.into()], KILLED).await;
    }
    // O_TMPFILE without O_DIRECTORY, too: the kernel would refuse it, and the filter need not know.
    for flags in [libc::O_TMPFILE | libc::O_RDWR, 0x40_0000] {
        check(Profile::Transcode, libc::SYS_openat, &[here, 0, flags.into()], KILLED).await;
    }
    for nr in [libc::SYS_rename, libc::SYS_unlink, libc::SYS_ftruncate] {
        check(Profile::Probe, nr, &[0, 0], KILLED).await;
    }
}
