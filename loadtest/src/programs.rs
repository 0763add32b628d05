//! Where the programs are: our own beside this one, the broker in the tools folder.

use anyhow::{Context as _, Result, ensure};
use std::{
    env,
    path::{Path, PathBuf},
};

/// Our own programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// Those in `dir`, or beside this program.
    pub(crate) fn find(dir: Option<PathBuf>) -> Result<Self> {
        let own = env::current_exe().context("cannot find this program")?;
        let dir = dir.or_else(|| own.parent().map(Path::to_owned)).unwrap_or_default();
        let dir = dir.canonicalize().with_context(|| format!("{}", dir.display()))?;
        for name in ["hotcell", "hotcell-jail", "hotcell-stub", "hotcell-encoder"] {
            ensure!(
                dir.join(name).is_file(),
                "{} is missing: cargo build --release --workspace --bins",
                dir.join(name).display()
            );
        }
        Ok(Self(dir))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Folders called `.tools` above this folder and above our programs, the nearest first.
    fn tools(&self) -> impl Iterator<Item = PathBuf> {
        let here = env::current_dir().into_iter();
        let above = here.chain([self.0.clone()]);
        let above = above.flat_map(|dir| {
            dir.ancestors().map(|dir| dir.join(".tools")).collect::<Vec<_>>().into_iter()
        });
        above.filter(|dir| dir.is_dir())
    }

    /// `HOTCELL_FFMPEG`, or the one that set-up builds.
    pub(crate) fn ffmpeg(&self) -> Result<PathBuf> {
        let named = env::var_os("HOTCELL_FFMPEG").map(PathBuf::from);
        let mut built = self.tools().map(|tools| tools.join("ffmpeg").join("bin").join("ffmpeg"));
        let found = named.or_else(|| built.find(|path| path.is_file()));
        found.context("there is no .tools/ffmpeg: run tools/ffmpeg, or set HOTCELL_FFMPEG")
    }

    /// `HOTCELL_NATS_SERVER`, or the pinned one of the checkout.
    pub(crate) fn nats_server(&self) -> Result<PathBuf> {
        let named = env::var_os(hotcell_nats_config::binary::OVERRIDE).map(PathBuf::from);
        let tools = self.tools().next().unwrap_or_else(|| PathBuf::from(".tools"));
        Ok(hotcell_nats_config::find_nats_server(named, &tools)?)
    }
}
