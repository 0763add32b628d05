//! Leaving the host's view of the world: user, mount, network, process, IPC and host name namespaces, and for process 1
//! that of control groups.
//!
//! Promises: afterwards this process is one unprivileged user on the host. Refuses to run as root's user id, or as
//! somebody whom it cannot become.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, getegid, geteuid, getgroups, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, capabilities, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use thiserror::Error;

use crate::layers::Layer;
use crate::plan::Identity;
use crate::sys;

/// Who the payload is in its own user namespace: `nobody`, whoever it is on the host.
const INSIDE_ID: u32 = 65534;

#[derive(Debug, Error)]
pub(crate) enum NamespaceError {
    #[error("the cell's user and group may not be root: pass --uid and --gid")]
    Root,
    #[error("the cell's user may not be in root's group: start the service without root's group")]
    RootGroup,
    #[error("cannot read this process's groups")]
    Groups(#[source] Errno),
    #[error("only root can give the cell another user: remove --uid and --gid")]
    NotOurs,
    #[error(
        "cannot become the cell's user: start the launcher as an ordinary user, or as a root that may change users \
         (CAP_SETUID and CAP_SETGID, and a mapping for the cell's user if this is a user namespace)"
    )]
    Become(#[source] Errno),
    #[error(
        "namespaces are not available: allow unprivileged user namespaces (user.max_user_namespaces above 0, \
         kernel.unprivileged_userns_clone 1, kernel.apparmor_restrict_unprivileged_userns 0), and in a container use a \
         seccomp profile that allows unshare and mount"
    )]
    Unshare(#[source] io::Error),
    #[error(
        "cannot map the cell's user: mount /proc, and set kernel.apparmor_restrict_unprivileged_userns to 0 if there \
         is one"
    )]
    Map(#[source] io::Error),
}

/// Becomes `identity` for good, then enters new namespaces, without those that are switched off.
pub(crate) fn enter(identity: Identity, off: &[Layer]) -> Result<(), NamespaceError> {
    let Identity { uid, gid } = identity;
    // The highest number is nobody's: setresuid(2) would take it for "as it is".
    let is_root = |id: u32| matches!(id, 0 | u32::MAX);
    if (is_root(uid) || is_root(gid)) && !off.contains(&Layer::User) {
        return Err(NamespaceError::Root);
    }
    let flags = flags(off);
    if !flags.contains(UnshareFlags::NEWUSER) {
        // Only root can; process 1 becomes `identity` once it has mounted everything.
        return sys::unshare(flags).map_err(NamespaceError::Unshare);
    }
    if geteuid().is_root() {
        drop_root(Uid::from_raw(uid), Gid::from_raw(gid)).map_err(NamespaceError::Become)?;
    } else if (geteuid().as_raw(), getegid().as_raw()) != (uid, gid) {
        return Err(NamespaceError::NotOurs);
    } else if getgroups().map_err(NamespaceError::Groups)?.iter().any(|group| group.is_root()) {
        // Only root can put off groups, so the payload keeps those that this process came with.
        return Err(NamespaceError::RootGroup);
    }
    // A process that changed its user is not dumpable, and then may not write its own maps.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(NamespaceError::Become)?;
    sys::unshare(flags).map_err(NamespaceError::Unshare)?;
    let map = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    map("setgroups", "deny".to_owned()).map_err(NamespaceError::Map)?;
    map("uid_map", format!("{INSIDE_ID} {uid} 1")).map_err(NamespaceError::Map)?;
    map("gid_map", format!("{INSIDE_ID} {gid} 1")).map_err(NamespaceError::Map)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(NamespaceError::Become)
}

fn flags(off: &[Layer]) -> UnshareFlags {
    let switched = [
        (Layer::UserNamespace, UnshareFlags::NEWUSER),
        (Layer::Pid, UnshareFlags::NEWPID),
        (Layer::Ipc, UnshareFlags::NEWIPC),
        (Layer::Network, UnshareFlags::NEWNET),
    ];
    let always = UnshareFlags::NEWNS | UnshareFlags::NEWUTS;
    let on = switched.into_iter().filter(|(layer, _)| !off.contains(layer));
    on.fold(always, |flags, (_, flag)| flags | flag)
}

/// For process 1 of a cell without a user namespace: becomes `identity`, and keeps the rights by which it can then give
/// up all of them for good.
pub(crate) fn become_late(identity: Identity) -> Result<(), NamespaceError> {
    let become_it = || {
        set_keep_capabilities(true)?;
        drop_root(Uid::from_raw(identity.uid), Gid::from_raw(identity.gid))?;
        let held = capabilities(None)?.permitted;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable })
    };
    become_it().map_err(NamespaceError::Become)
}

/// Whether this host keeps ordinary users from user namespaces; tried in a process of its own. What else may be wrong
/// is for [`enter`] to say.
pub(crate) fn are_denied(identity: Identity) -> io::Result<bool> {
    const DENIED: u8 = 2;
    let Some(pid) = sys::fork()? else {
        sys::exit_now(match enter(identity, &[]) {
            Err(NamespaceError::Unshare(_)) => DENIED,
            // AppArmor lets a process in, and takes its rights away.
            Err(NamespaceError::Map(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                DENIED
            }
            _ => 0,
        })
    };
    Ok(sys::reap(pid)?.status.code() == Some(DENIED.into()))
}

/// Makes the group that this process is in the root of what it can see. For process 1: with `nsdelegate`, the kernel
/// lets nobody fork into a group that is not below the root of his own namespace.
pub(crate) fn enter_groups() -> Result<(), NamespaceError> {
    sys::unshare(UnshareFlags::NEWCGROUP).map_err(NamespaceError::Unshare)
}

/// Groups first: without root's user id they could not be dropped.
fn drop_root(uid: Uid, gid: Gid) -> Result<(), Errno> {
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
