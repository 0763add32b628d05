//! The file tree of a cell: a read-only root, its inputs, one output folder and a small `/tmp`.
//!
//! Promises: each mount is detached and restricted before it is attached anywhere, and the host's tree is gone when
//! [`enter`] returns. Refuses sources that are symbolic links or of the wrong type.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};
use thiserror::Error;

use crate::layers::Layer;
use crate::limits::TMP_FILES_MAX;
use crate::plan::Plan;

/// Where the payload finds its output folder.
pub(crate) const OUT: &str = "/out";
/// Where the payload finds its inputs: `/in/0`, `/in/1`, ...
pub(crate) const IN: &str = "/in";
/// Where the payload may leave scratch files.
pub(crate) const TMP: &str = "/tmp";

/// On every mount of the cell.
const FIXED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// On those whose content the payload, or whoever sent the job, chooses.
const DATA: MountAttrFlags =
    FIXED.union(MountAttrFlags::MOUNT_ATTR_NOEXEC).union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);

#[derive(Debug, Error)]
pub(crate) enum MountError {
    #[error("cannot take {0:?} into the cell")]
    Detach(PathBuf, #[source] Errno),
    #[error("cannot restrict the mount of {0:?}")]
    Restrict(PathBuf, #[source] std::io::Error),
    #[error("{0:?} must be a {1}, and not a symbolic link to one")]
    WrongType(PathBuf, &'static str),
    #[error("cannot attach {0:?}: is it a root folder made by this version")]
    Attach(PathBuf, #[source] Errno),
    #[error("cannot make /tmp")]
    Tmp(#[source] Errno),
    #[error("cannot leave the host's file tree")]
    Pivot(#[source] Errno),
}

/// Detached mounts, the root first.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// With the place of each, relative to the root.
    beneath: Vec<(OwnedFd, String)>,
}

impl Tree {
    /// Takes every source, restricted, out of the tree that this process sees.
    pub(crate) fn detach(plan: &Plan, off: &[Layer]) -> Result<Self, MountError> {
        use MountAttrFlags as Attr;
        let flags = !off.contains(&Layer::MountFlags);
        let fixed = if flags { FIXED } else { Attr::empty() };
        let data = if flags { DATA } else { Attr::empty() };
        let writable = off.contains(&Layer::ReadOnly);
        let read_only = if writable { Attr::empty() } else { Attr::MOUNT_ATTR_RDONLY };
        let root = fixed | read_only;
        let mut beneath = Vec::new();
        for (number, input) in plan.inputs.iter().enumerate() {
            let mount = detach(input, FileType::RegularFile, data | read_only)?;
            beneath.push((mount, format!("{IN}/{number}")));
        }
        if let Some(out) = &plan.out_dir {
            beneath.push((detach(out, FileType::Directory, data)?, OUT.to_owned()));
        }
        Ok(Self { root: detach(&plan.root, FileType::Directory, root)?, beneath })
    }

    /// Builds the cell's tree over `root` (its own path on the host), makes it `/` and forgets the host's.
    pub(crate) fn enter(
        self,
        root: &Path,
        tmp_bytes: u64,
        off: &[Layer],
    ) -> Result<(), MountError> {
        let place = |path: &str| root.join(path.trim_start_matches('/'));
        attach(&self.root, root)?;
        for (mount, path) in &self.beneath {
            attach(mount, &place(path))?;
        }
        attach(&tmpfs(tmp_bytes, off).map_err(MountError::Tmp)?, &place(TMP))?;
        if off.contains(&Layer::Root) {
            return chdir(root).map_err(MountError::Pivot);
        }
        chdir(root)
            .and_then(|()| pivot_root(".", "."))
            .and_then(|()| unmount(".", UnmountFlags::DETACH))
            .and_then(|()| chdir("/"))
            .map_err(MountError::Pivot)
    }
}

/// Every step of [`Tree`] once, with an empty tree and over a folder that is there wherever a cell can start. For a
/// process that has entered its namespaces and has nothing to lose.
pub(crate) fn rehearse() -> Result<(), MountError> {
    let place = Path::new("/proc");
    make_private()?;
    attach(&tmpfs(0, &[]).map_err(MountError::Tmp)?, place)?;
    let root = detach(place, FileType::Directory, FIXED | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(&root, place)?;
    chdir(place)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .map_err(MountError::Pivot)
}

/// What `/` of the cell is called within it: another name than `/` only while the host's tree is still there.
pub(crate) fn top<'a>(root: &'a Path, off: &[Layer]) -> &'a Path {
    if off.contains(&Layer::Root) { root } else { Path::new("/") }
}

/// Nothing that is mounted from here on can show up outside, nor the other way round.
pub(crate) fn make_private() -> Result<(), MountError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(MountError::Pivot)
}

fn detach(path: &Path, kind: FileType, attributes: MountAttrFlags) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let failed = |errno| MountError::Detach(path.to_owned(), errno);
    let mount = open_tree(CWD, path, flags).map_err(failed)?;
    let stat = fstat(&mount).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        let wanted = if kind == FileType::Directory { "folder" } else { "regular file" };
        return Err(MountError::WrongType(path.to_owned(), wanted));
    }
    crate::sys::restrict_mount(mount.as_fd(), attributes.bits())
        .map_err(|error| MountError::Restrict(path.to_owned(), error))?;
    Ok(mount)
}

fn attach(mount: &OwnedFd, place: &Path) -> Result<(), MountError> {
    move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| MountError::Attach(place.to_owned(), errno))
}

fn tmpfs(bytes: u64, off: &[Layer]) -> Result<OwnedFd, Errno> {
    // A tmpfs of size 0 is unlimited, so nothing below one page is asked for.
    let size = bytes.max(4096).to_string();
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !off.contains(&Layer::Limits) {
        fsconfig_set_string(context.as_fd(), "size", size.as_str())?;
        fsconfig_set_string(context.as_fd(), "nr_inodes", TMP_FILES_MAX.to_string().as_str())?;
    }
    fsconfig_set_string(context.as_fd(), "mode", "0700")?;
    fsconfig_create(context.as_fd())?;
    let flags = !off.contains(&Layer::MountFlags);
    let attributes = if flags { DATA } else { MountAttrFlags::empty() };
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
