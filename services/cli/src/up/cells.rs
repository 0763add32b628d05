//! The untrusted tier of one machine: programs, scratch folders and users of the workers.
//!
//! Promises: a worker runs as a user of its own (never root), reads one credential file, and finds
//! its programs in a folder that this user can reach; started as root the folder lies below
//! /var/tmp, because an installation's own folder is closed to others.

use super::{groups, supervise::Spec, users::Users};
use crate::{
    args::CgroupArg,
    fail::{Context as _, Fail},
    layout::{Layout, make_dir, write_owned},
    print,
};
use hotcell_encoder::image::Image;
use hotcell_jail::{
    cgroup::{Estate, Lot},
    root::Root,
};
use hotcell_schemas::{Digest, WorkerId};
use std::{
    fmt, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    str::FromStr,
};

/// How the folder of an installation begins below /var/tmp.
pub(super) const FOLDER: &str = "hotcell-";

/// What runs in the cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CellProgram {
    /// FFmpeg.
    Ffmpeg,
    /// A program that does nothing, for load tests.
    Noop,
    /// A program that sleeps so many milliseconds, for load tests.
    Fixed(u32),
}

impl FromStr for CellProgram {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ffmpeg" => Ok(Self::Ffmpeg),
            "noop" => Ok(Self::Noop),
            other => other
                .strip_prefix("fixed:")
                .and_then(|ms| ms.parse().ok())
                .map(Self::Fixed)
                .ok_or_else(|| "must be `ffmpeg`, `noop` or `fixed:MS`".to_owned()),
        }
    }
}

impl fmt::Display for CellProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ffmpeg => f.write_str("ffmpeg"),
            Self::Noop => f.write_str("noop"),
            Self::Fixed(ms) => write!(f, "fixed:{ms}"),
        }
    }
}

/// The prepared tier.
#[derive(Debug)]
pub(crate) struct Cells {
    dir: PathBuf,
    /// Started as root: each worker gets a user of its own. One for each, so that a worker that was
    /// taken over can neither signal another nor read its files.
    as_root: bool,
    users: Users,
    pub(crate) ffmpeg: PathBuf,
    pub(crate) ffprobe: PathBuf,
    /// Control groups to hand on.
    groups: Option<Estate>,
    /// What the signer's list must name.
    pub(crate) image: Digest,
    /// The cells' file tree.
    pub(crate) root: Root,
    /// Name of the transcoder in it.
    pub(crate) program: String,
}

impl Cells {
    /// Copies the programs, reads FFmpeg with its libraries, builds the cells' root.
    pub(crate) fn prepare(
        layout: &Layout,
        program: &CellProgram,
        programs: &Path,
    ) -> Result<Self, Fail> {
        let as_root = rustix::process::geteuid().is_root();
        let dir = Self::dir(layout);
        // The name is known and /var/tmp is everyone's: whoever made the folder must be us.
        let _made_or_there = fs::create_dir(&dir);
        let found = fs::symlink_metadata(&dir).or_fail("cannot make the cells' folder")?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Err(Fail::config(format!("{} is not ours: remove it", dir.display())));
        }
        let bin = dir.join("bin");
        for folder in [&dir, &bin, &dir.join("roots")] {
            make_dir(folder, 0o755)?;
        }
        copy(&programs.join("hotcell-encoder"), &bin.join("hotcell-encoder"))?;
        copy(&programs.join("hotcell-jail"), &bin.join("hotcell-jail"))?;
        let (ffmpeg, ffprobe) = cell_programs(program, programs, &bin)?;
        let image = Image::read(
            &bin.join("hotcell-encoder"),
            &bin.join("hotcell-jail"),
            &ffmpeg,
            &ffprobe,
            &dir.join("roots"),
        );
        let image = image.or_fail("cannot prepare the cells")?;
        let (root, program) = (image.root, image.ffmpeg.name);
        let (users, groups, image) = (Users::default(), None, image.digest);
        Ok(Self { dir, as_root, users, ffmpeg, ffprobe, groups, image, root, program })
    }

    /// Takes a user for each of `workers`, where this process can give them one.
    pub(crate) fn with_users(mut self, workers: u16) -> Result<Self, Fail> {
        if self.as_root {
            self.users = Users::take(workers, &self.dir)?;
        }
        Ok(self)
    }

    /// Finds what control groups there are to hand on; [`groups::clear`] removes them.
    pub(crate) fn with_groups(mut self, layout: &Layout, cgroup: CgroupArg) -> Result<Self, Fail> {
        let name = format!("{FOLDER}{}", short(layout));
        self.groups = groups::find(layout, &name, cgroup, self.as_root)?;
        Ok(self)
    }

    /// The control groups of one worker, made if they are not there.
    pub(crate) fn lot(&self, number: u16, worker: &WorkerId) -> Lot {
        groups::lot(self.groups.as_ref(), worker.as_str(), self.user(number))
    }

    /// Removes what [`Self::prepare`] made, once nothing runs from it. The roots are made again in
    /// half a second; kept, each folder of a test would leave one.
    pub(crate) fn remove(layout: &Layout) {
        let dir = Self::dir(layout);
        if let Err(error) = fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            print::note(format!("cannot remove {}: {error}", dir.display()));
        }
    }

    /// Where all of it is.
    pub(crate) fn dir(layout: &Layout) -> PathBuf {
        if !rustix::process::geteuid().is_root() {
            return layout.root().join("cells");
        }
        PathBuf::from("/var/tmp").join(format!("{FOLDER}{}", short(layout)))
    }

    pub(crate) fn launcher(&self) -> PathBuf {
        self.dir.join("bin/hotcell-jail")
    }
    pub(crate) fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }
    /// The folder of one worker.
    pub(crate) fn home(&self, worker: &WorkerId) -> PathBuf {
        self.dir.join(worker.as_str())
    }

    /// User and group of the worker with this number, counted from 0.
    fn user(&self, number: u16) -> Option<(u32, u32)> {
        self.as_root.then(|| {
            let id = self.users.get(number).expect("with_users took one for each worker");
            (id, id)
        })
    }

    /// Gives a worker its folder: `files` by name, readable by it alone.
    pub(crate) fn furnish(
        &self,
        number: u16,
        worker: &WorkerId,
        files: &[(&str, Vec<u8>)],
    ) -> Result<(), Fail> {
        let home = self.home(worker);
        let doing = format!("cannot furnish {}", home.display());
        // What an earlier run left may be another user's: nobody runs in it now.
        match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).or_fail(&doing);
            }
            Ok(()) | Err(_) => {}
        }
        for folder in [&home, &home.join("work")] {
            make_dir(folder, 0o700)?;
            self.give(number, folder, &doing)?;
        }
        for (name, bytes) in files {
            write_owned(&home.join(name), bytes, 0o400, |aside| self.give(number, aside, &doing))?;
        }
        Ok(())
    }

    fn give(&self, number: u16, path: &Path, doing: &str) -> Result<(), Fail> {
        match self.user(number) {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).or_fail(doing),
            None => Ok(()),
        }
    }

    /// What to start for one worker.
    pub(crate) fn worker(
        &self,
        number: u16,
        worker: &WorkerId,
        stop_rank: u8,
    ) -> Result<Spec, Fail> {
        let bundle = self.home(worker).join(super::secure::WORKER_BUNDLE);
        Ok(Spec {
            name: worker.to_string(),
            program: self.dir.join("bin/hotcell-encoder"),
            args: vec![self.home(worker).join("worker.toml").display().to_string()],
            join: self.lot(number, worker).join,
            ca: bundle.exists().then_some(bundle),
            user: self.user(number),
            stop_rank,
        })
    }
}

/// What names an installation outside of its own folder.
fn short(layout: &Layout) -> String {
    let own = Digest::of(layout.root().as_os_str().as_encoded_bytes()).to_string();
    own.chars().take(16).collect()
}

fn cell_programs(
    program: &CellProgram,
    programs: &Path,
    bin: &Path,
) -> Result<(PathBuf, PathBuf), Fail> {
    let name = match program {
        CellProgram::Ffmpeg => return ffmpeg(bin),
        CellProgram::Noop => "hotcell-stub".to_owned(),
        CellProgram::Fixed(ms) => format!("hotcell-stub-fixed-{ms}"),
    };
    let stub = bin.join(name);
    copy(&programs.join("hotcell-stub"), &stub)?;
    Ok((stub.clone(), stub))
}

/// `HOTCELL_FFMPEG` and `HOTCELL_FFPROBE`; each else from `make ffmpeg`, else the distribution's.
fn ffmpeg(bin: &Path) -> Result<(PathBuf, PathBuf), Fail> {
    let find = |variable: &str, name: &str| {
        let found = located(variable, name)?;
        if !found.starts_with(built()) {
            return Ok(found);
        }
        // The folder that it was built in may be closed to the workers' user.
        let reachable = bin.join(name);
        copy(&found, &reachable)?;
        Ok(reachable)
    };
    Ok((find("HOTCELL_FFMPEG", "ffmpeg")?, find("HOTCELL_FFPROBE", "ffprobe")?))
}

/// Where `make ffmpeg` puts its programs.
fn built() -> PathBuf {
    super::tools().join("ffmpeg/bin")
}

/// The program that `variable` names, else the one of `make ffmpeg`, else the distribution's.
pub(crate) fn located(variable: &str, name: &str) -> Result<PathBuf, Fail> {
    let (named, built) = (std::env::var_os(variable).map(PathBuf::from), built());
    one_of(named, &[built.as_path(), Path::new("/usr/bin")], name).map_err(|path| {
        Fail::config(format!(
            "{} is missing: install FFmpeg (apt-get install ffmpeg), build ours (make ffmpeg), \
             or name it by {variable}",
            path.display()
        ))
    })
}

/// The named program, or the first of this name in the folders; else the path that was tried last.
fn one_of(named: Option<PathBuf>, folders: &[&Path], name: &str) -> Result<PathBuf, PathBuf> {
    let in_folders = || folders.iter().map(|folder| folder.join(name)).collect();
    let tried: Vec<PathBuf> = named.map_or_else(in_folders, |path| vec![path]);
    let found = tried.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| tried.into_iter().next_back().unwrap_or_default())
}

/// Copies a program through a temporary name: one that runs keeps its old file.
fn copy(from: &Path, to: &Path) -> Result<(), Fail> {
    let doing = format!("cannot copy {}", from.display());
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).or_fail(&doing)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).or_fail(&doing)?;
    fs::rename(&temporary, to).or_fail(&doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that somebody named is that one or an error: never quietly another.
    #[test]
    fn a_named_program_wins_then_the_built_one_then_the_distributions() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        let (built, usr) = (folder("built"), folder("usr"));
        for path in [&built, &usr] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("ffmpeg"), "").unwrap();
        }
        let folders = [built.as_path(), usr.as_path()];
        let find = |named: Option<PathBuf>| one_of(named, &folders, "ffmpeg");
        assert_eq!(find(Some(usr.join("ffmpeg"))), Ok(usr.join("ffmpeg")));
        assert_eq!(find(Some(folder("none"))), Err(folder("none")));
        assert_eq!(find(None), Ok(built.join("ffmpeg")));
        fs::remove_file(built.join("ffmpeg")).unwrap();
        assert_eq!(find(None), Ok(usr.join("ffmpeg")));
        fs::remove_file(usr.join("ffmpeg")).unwrap();
        assert_eq!(find(None), Err(usr.join("ffmpeg")));
    }
}
