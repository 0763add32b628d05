//! Real media for the tests, made by FFmpeg's own test sources, and the ways to run FFmpeg.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses a part")]

use hotcell_schemas::{
    argv::{INPUT, OUTPUT},
    plan::{Container, Sniffed},
    reject::Failure,
};
use hotcell_validator::{Scanner, sniff};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The FFmpeg that makes clips: one with test sources and many encoders, whichever one is tested.
pub const DISTRIBUTION: &str = "ffmpeg";

/// An empty folder for this test.
pub fn dir(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("validator-{test}"));
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// The FFmpeg under test: `HOTCELL_FFMPEG`, or the one of `make ffmpeg`, as `hotcell up` has it.
pub fn ffmpeg() -> String {
    std::env::var("HOTCELL_FFMPEG").unwrap_or_else(|_| built("ffmpeg"))
}

/// Its prober: `HOTCELL_FFPROBE`, or the one of `make ffmpeg`.
pub fn ffprobe() -> String {
    std::env::var("HOTCELL_FFPROBE").unwrap_or_else(|_| built("ffprobe"))
}

fn built(name: &str) -> String {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/ffmpeg/bin");
    let path = bin.join(name);
    assert!(path.exists(), "{} is missing: run `make ffmpeg`", path.display());
    path.to_str().unwrap().to_owned()
}

/// Runs a program.
pub fn run(program: &str, args: &[String]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program in a folder.
pub fn run_in(folder: &Path, program: &str, args: &[String]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args);
    command.output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// The command line with real paths.
pub fn placed(argv: &[String], input: &Path, output: &Path) -> Vec<String> {
    let place = |token: &String| match token.as_str() {
        INPUT => input.to_str().unwrap().to_owned(),
        OUTPUT => output.to_str().unwrap().to_owned(),
        _ => token.clone(),
    };
    argv.iter().map(place).collect()
}

/// A clip by extra FFmpeg arguments after a picture source (128 x 96, 1 s) and a sound source.
pub fn make(dir: &Path, name: &str, args: &str) -> Vec<u8> {
    let path = dir.join(name);
    let sources = "-hide_banner -nostdin -loglevel error -y \
        -f lavfi -i testsrc2=s=128x96:r=10:d=1 -f lavfi -i sine=d=1";
    let words = sources.split_whitespace().chain(args.split_whitespace()).map(str::to_owned);
    let words: Vec<String> = words.chain([path.to_str().unwrap().to_owned()]).collect();
    let made = run(DISTRIBUTION, &words);
    assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    fs::read(path).unwrap()
}

/// How to make a sample of each container, and its declared type.
pub fn recipe(container: Container) -> (&'static str, &'static str) {
    match container {
        Container::Mp4 => ("-c:v libx264 -c:a aac -f mp4", "video/mp4"),
        Container::Matroska => ("-c:v libx264 -c:a libopus -f matroska", "video/x-matroska"),
        Container::MpegTs => ("-c:v mpeg2video -c:a mp2 -f mpegts", "video/mp2t"),
        Container::Avi => ("-c:v mpeg4 -c:a libmp3lame -f avi", "video/x-msvideo"),
        Container::Flv => ("-c:v flv -c:a libmp3lame -ar 44100 -f flv", "video/x-flv"),
        Container::Wav => ("-map 1:a -f wav", "audio/wav"),
        Container::Mp3 => ("-map 1:a -c:a libmp3lame -f mp3", "audio/mpeg"),
        Container::Aac => ("-map 1:a -c:a aac -f adts", "audio/aac"),
        Container::Flac => ("-map 1:a -c:a flac -f flac", "audio/flac"),
        Container::Ogg => ("-c:v libtheora -c:a libvorbis -f ogg", "video/ogg"),
        Container::Png => ("-map 0:v -frames:v 1 -c:v png -f image2pipe", "image/png"),
        Container::Jpeg => ("-map 0:v -frames:v 1 -c:v mjpeg -f image2pipe", "image/jpeg"),
        Container::Gif => ("-map 0:v -f gif", "image/gif"),
    }
}

/// A sample of a container.
pub fn sample(dir: &Path, container: Container) -> Vec<u8> {
    make(dir, &format!("{container:?}"), recipe(container).0)
}

/// Scans in pieces of `step` bytes, then sniffs.
pub fn verdict_in_steps(bytes: &[u8], declared: &str, step: usize) -> Result<Sniffed, Failure> {
    let mut scanner = Scanner::new();
    bytes.chunks(step).for_each(|piece| scanner.feed(piece));
    sniff(&scanner.finish(), declared)
}

/// Scans and sniffs.
pub fn verdict(bytes: &[u8], declared: &str) -> Result<Sniffed, Failure> {
    verdict_in_steps(bytes, declared, 65_536)
}
