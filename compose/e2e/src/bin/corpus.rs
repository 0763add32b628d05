//! Writes the hostile corpus to a folder, for reviewers and for other programs' tests.

use anyhow::{Context as _, Result};
use hotcell_e2e::corpus::{Canary, corpus};
use std::{env, fs, io::Write as _, path::PathBuf, process::ExitCode};

const HELP: &str = "\
Writes hostile and malformed media to a folder.

Usage: corpus DIR

  DIR/files/         the files, each named by its family
  DIR/film.mp4       the canary: magenta frames, which no transcode may show
  DIR/secret.txt     a text that no output, log or record may hold
  DIR/index.tsv      family, name, declared content type, bytes, how it may end,
                     and whether plain FFmpeg 5.1 shows the canary

The playlists name the canary by its absolute path and as ../film.mp4.
The same files come each time on one machine: the seed is fixed (another word in
HOTCELL_CORPUS_SEED mutates elsewhere), and valid clips are made by
/usr/bin/ffmpeg, bit-exact.

The test that takes all of it through a whole installation:
  cargo nextest run -p hotcell-e2e --test corpus
With HOTCELL_CORPUS=png it takes only files with `png` in their name.

  cargo run -p hotcell-e2e --bin corpus -- /tmp/corpus
";

fn main() -> Result<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let (Some(dir), None) = (arguments.next(), arguments.next()) else {
        std::io::stderr().write_all(HELP.as_bytes())?;
        return Ok(ExitCode::from(64));
    };
    if dir == "--help" || dir == "-h" {
        std::io::stdout().write_all(HELP.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if dir.as_encoded_bytes().starts_with(b"-") {
        std::io::stderr().write_all(HELP.as_bytes())?;
        return Ok(ExitCode::from(64));
    }
    let dir = PathBuf::from(dir);
    fs::create_dir_all(dir.join("files")).context("cannot make the folder")?;
    let dir = dir.canonicalize()?;
    let entries = corpus(&Canary::make(&dir)?)?;
    let mut index = "family\tname\ttype\tbytes\tends\tleaks in plain ffmpeg\n".to_owned();
    for entry in &entries {
        fs::write(dir.join("files").join(&entry.name), &entry.bytes)?;
        let mut ends = entry.expect.codes.join(" ");
        if entry.expect.completed {
            ends = format!("completed {ends}");
        }
        let (family, name, kind, size) = (entry.family, &entry.name, entry.kind, entry.bytes.len());
        index += &format!("{family}\t{name}\t{kind}\t{size}\t{}\t{}\n", ends.trim(), entry.leaks);
    }
    fs::write(dir.join("index.tsv"), index)?;
    writeln!(std::io::stdout(), "{} files in {}", entries.len(), dir.display())?;
    Ok(ExitCode::SUCCESS)
}
