//! Control groups for the workers of one machine: a folder for each in each of the kernel's
//! hierarchies, owned by its user, so that a worker can bound its cells without being root.
//!
//! Promises: what is made is noted first, so that the next start removes what a SIGKILL left.
//! Refuses to take a worker's word for anything: its own limits are not in its folder.

use crate::{
    args::CgroupArg,
    fail::{Context as _, Fail},
    layout::{Layout, write_private},
    print,
};
use hotcell_jail::cgroup::{Estate, Lot, remove};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The folders' names, in the run folder.
const NOTE: &str = "groups";

/// How long the members of a group may take to be gone after their end.
const GONE: Duration = Duration::from_secs(5);

/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(10);

/// Notes and finds the folders of an installation of this name. Only root can hand groups on; a
/// worker of somebody else looks for what it was started in.
pub(crate) fn find(
    layout: &Layout,
    name: &str,
    cgroup: CgroupArg,
    as_root: bool,
) -> Result<Option<Estate>, Fail> {
    if !as_root || cgroup == CgroupArg::Off {
        return Ok(None);
    }
    let estate = Estate::find(name).or_fail("cannot find the control groups")?;
    let folders = estate.folders().map(|folder| format!("{}\n", folder.display()));
    write_private(&layout.run(NOTE), &folders.collect::<String>())?;
    Ok(Some(estate))
}

/// Makes what one worker gets; nothing without an estate.
pub(crate) fn lot(estate: Option<&Estate>, worker: &str, user: Option<(u32, u32)>) -> Lot {
    match (estate, user) {
        (Some(estate), Some((uid, gid))) => estate.lot(worker, uid, gid),
        _ => Lot::default(),
    }
}

/// Removes what is noted, of this run or an earlier one, once its processes have ended.
pub(crate) fn clear(layout: &Layout) {
    let note = layout.run(NOTE);
    let text = std::fs::read_to_string(&note).unwrap_or_default();
    let until = Instant::now() + GONE;
    for folder in text.lines().map(Path::new) {
        while !remove(folder) {
            if Instant::now() > until {
                print::note(format!("the control group {} has members still", folder.display()));
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
    let _was_none = std::fs::remove_file(note);
}
