//! The lists that show another's film in plain FFmpeg meet three layers, and each holds alone: the
//! sniffer (the whole corpus, beside this file), the command line, and the cell.

use crate::look;
use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    corpus::{Canary, Entry, corpus},
    up::programs,
};
use hotcell_jail::{
    capture::Stdout,
    cell::{Cell, run},
    profile::Profile,
    program::Program,
    root::Root,
};
use hotcell_schemas::{
    argv::{INPUT, ffprobe_argv},
    plan::Container,
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// What the cell's FFmpeg makes: the pixels of up to ten frames.
const FRAMES: &str = "frames.rgb";

/// The canary, the files that show it, and those that are the same without it.
struct Attack {
    dir: TempDir,
    canary: Canary,
    lists: Vec<Entry>,
    clip: Entry,
}

impl Attack {
    fn prepare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("layers-").tempdir_in("/var/tmp")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(dir.path().join("files"))?;
        let canary = Canary::make(dir.path())?;
        let mut lists = corpus(&canary)?;
        let clip = lists.iter().find(|it| it.name == "valid-mp4.mp4").cloned();
        lists.retain(|entry| entry.leaks);
        // The same bytes are declared as everything; here only the bytes count.
        let mut seen = BTreeSet::new();
        lists.retain(|entry| seen.insert(entry.bytes.clone()));
        ensure!(lists.len() >= 4, "{} lists", lists.len());
        Ok(Self { dir, canary, lists, clip: clip.context("a valid clip")? })
    }

    fn write(&self, entry: &Entry) -> Result<PathBuf> {
        let path = self.dir.path().join("files").join(&entry.name);
        fs::write(&path, &entry.bytes)?;
        Ok(path)
    }
}

/// ZT-11: FFmpeg itself, outside of any cell, with the options that each plan has: it takes a list
/// for no container, whatever the list is declared as.
#[test]
fn the_command_line_alone_opens_no_list() -> Result<()> {
    let attack = Attack::prepare()?;
    let opens = |path: &Path, container: Container| -> Result<bool> {
        let place = |token: String| if token == INPUT { path.display().to_string() } else { token };
        let words = ffprobe_argv(container).into_iter().map(place);
        let made = Command::new("/usr/bin/ffprobe").args(words).output()?;
        // Images may be "opened" before anything of them is decoded: a size tells a real one.
        let told = String::from_utf8_lossy(&made.stdout).replace(' ', "");
        Ok(told.contains("\"width\":128"))
    };
    ensure!(opens(&attack.write(&attack.clip)?, Container::Mp4)?, "the control");
    for entry in &attack.lists {
        let path = attack.write(entry)?;
        ensure!(look::file_shows_canary(&path)?, "{} shows nothing without options", entry.name);
        for container in Container::ALL {
            ensure!(!opens(&path, container)?, "{} as {container:?}", entry.name);
        }
    }
    Ok(())
}

/// ZT-10, BRK-01: the distribution's FFmpeg in a cell, with nothing of our command line: it may
/// take the list for a list, and finds no film where the list says.
#[tokio::test]
async fn the_cell_alone_has_no_film_to_show() -> Result<()> {
    let attack = Attack::prepare()?;
    let roots = attack.dir.path().join("roots");
    fs::create_dir(&roots)?;
    let root = Root::prepare(&roots, &[Program::resolve(Path::new("/usr/bin/ffmpeg"))?])?;
    let shows = async |path: PathBuf| -> Result<bool> {
        let out = tempfile::tempdir_in(attack.dir.path())?;
        let launcher = programs().join("hotcell-jail");
        let mut cell = Cell::new(&launcher, &root, "ffmpeg", Profile::Transcode);
        let to = format!("/out/{FRAMES}");
        let words = ["-v", "error", "-nostdin", "-i", "/in/0", "-map", "0:v:0", "-frames:v", "10"];
        let made = ["-vf", look::GRID_FILTER, "-f", "rawvideo", "-pix_fmt", "rgb24", &to];
        cell.args = words.iter().chain(&made).map(|word| (*word).to_owned()).collect();
        cell.inputs = vec![path];
        cell.out_dir = Some(out.path().to_owned());
        let outcome = run(&cell, &CancellationToken::new(), Stdout::Bytes(1 << 10)).await?;
        ensure!(outcome.degraded.is_empty() && outcome.violation.is_none(), "{outcome:?}");
        let pixels = fs::read(out.path().join(FRAMES)).unwrap_or_default();
        Ok(look::pixels_show_canary(&pixels))
    };
    // The film as the cell's own input is seen: the check can fail.
    let own = attack.dir.path().join("own.mp4");
    fs::copy(attack.canary.film(), &own)?;
    ensure!(shows(own).await?, "the control");
    for entry in &attack.lists {
        ensure!(!shows(attack.write(entry)?).await?, "{} shows the film", entry.name);
    }
    Ok(())
}
