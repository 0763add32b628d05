//! ZT-09: of an input only its first picture and its first sound go into an output. Tags, chapters,
//! attachments, cover art, subtitles and data tracks are the tenant's customers' names, places and
//! scripts; none survives unless the request asks for it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use clip::{DISTRIBUTION, dir, ffmpeg, ffprobe, placed, run, verdict};
use hotcell_schemas::{argv::ffprobe_argv, plan::Container, request::TranscodeRequest};
use hotcell_validator::compile;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// In every tag, chapter, subtitle and attachment of the inputs, and nowhere else.
const MARK: &[u8] = b"hc-mark-5f2c";

fn marked(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

/// Files beside the media: a subtitle, chapters with a title, a font, a picture.
fn extras(dir: &Path) {
    let mark = String::from_utf8_lossy(MARK);
    let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
    write("sub.srt", format!("1\n00:00:00,000 --> 00:00:01,000\n{mark} spoken\n"));
    write(
        "meta.txt",
        format!(
            ";FFMETADATA1\ntitle={mark} title\ncomment={mark} comment\nlocation=+27.5916{mark}/\n\
             [CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle={mark} one\n\
             [CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1000\ntitle={mark} two\n"
        ),
    );
    write("font.ttf", format!("\0\x01\0\0{mark} font"));
    ffmpeg_with(dir, "-f lavfi -i color=red:s=32x32 -frames:v 1 cover.png");
}

/// FFmpeg with test sources, in `dir`.
fn ffmpeg_with(dir: &Path, words: &str) {
    let mark = String::from_utf8_lossy(MARK);
    let mut args = vec!["-hide_banner", "-nostdin", "-loglevel", "error", "-y"];
    let words = words.replace("MARK", &mark);
    args.extend(words.split_whitespace());
    let done =
        std::process::Command::new(DISTRIBUTION).args(args).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
}

const SOURCES: &str = "-f lavfi -i testsrc2=s=128x96:r=10:d=1 -f lavfi -i sine=d=1 -i sub.srt \
    -i meta.txt -i cover.png -map_metadata 3 -map_chapters 3";

/// Inputs that have everything, with their declared types.
fn inputs(dir: &Path) -> [(&'static str, &'static str); 3] {
    extras(dir);
    ffmpeg_with(
        dir,
        &format!(
            "{SOURCES} -map 0 -map 1 -map 2 -c:v libx264 -c:a aac -c:s srt \
             -metadata:s:v title=MARKv -metadata:s:a title=MARKa -attach font.ttf \
             -metadata:s:t mimetype=font/ttf -metadata:s:t filename=MARK.ttf all.mkv"
        ),
    );
    ffmpeg_with(
        dir,
        &format!(
            "{SOURCES} -map 0 -map 1 -map 2 -map 4 -c:v:0 libx264 -c:v:1 png \
             -c:a aac -c:s mov_text -disposition:v:1 attached_pic -timecode 01:02:03:04 \
             -metadata:s:v:0 handler_name=MARKh -metadata:s:a title=MARKa all.mov"
        ),
    );
    ffmpeg_with(
        dir,
        "-f lavfi -i sine=d=1 -i cover.png -map 0 -map 1 -c:a libmp3lame -c:v png \
         -metadata title=MARK -metadata artist=MARK -metadata:s:v title=MARK \
         -disposition:v attached_pic all.mp3",
    );
    [("all.mkv", "video/x-matroska"), ("all.mov", "video/quicktime"), ("all.mp3", "audio/mpeg")]
}

/// What FFprobe says of everything in a file.
fn everything(file: &Path) -> Value {
    let args = ["-v", "error", "-show_format", "-show_streams", "-show_chapters", "-of", "json"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.push(file.to_str().unwrap().to_owned());
    let out = run(&ffprobe(), &args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn kinds(all: &Value) -> Vec<&str> {
    all["streams"].as_array().unwrap().iter().map(|s| s["codec_type"].as_str().unwrap()).collect()
}

#[test]
fn zt_09_nothing_but_picture_and_sound_survives() {
    let dir = dir("strip");
    for (name, declared) in inputs(&dir) {
        let input = dir.join(name);
        let bytes = fs::read(&input).unwrap();
        assert!(marked(&bytes), "{name} has no mark");
        let sound_only = declared.starts_with("audio/");
        // FFmpeg's own choice carries the marks along.
        ffmpeg_with(&dir, &format!("-i {name} -map 0:a -c copy plain.mkv"));
        assert!(marked(&fs::read(dir.join("plain.mkv")).unwrap()), "{name}: nothing to strip");
        if !sound_only {
            let before = everything(&input);
            assert!(kinds(&before).contains(&"subtitle"), "{name}: {before}");
            assert_eq!(before["chapters"].as_array().unwrap().len(), 2, "{name}");
        }
        let sniffed = verdict(&bytes, declared).unwrap();
        let formats: &[&str] =
            if sound_only { &["mp3", "m4a"] } else { &["mp4", "mkv", "webm", "mp3", "m4a"] };
        for format in formats {
            let body = json!({"inputs": [{"url": "upload:x"}], "outputFormat": format,
                "preset": {"quality": "low", "resolution": "source"}});
            let request: TranscodeRequest = serde_json::from_value(body).unwrap();
            let plan = compile(&request, &sniffed).unwrap();
            let made = dir.join(format!("{name}.out.{format}"));
            let out = run(&ffmpeg(), &placed(&plan.argv, &input, &made));
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{name} to {format}: {said}");
            stripped(name, format, &made);
        }
    }
}

fn stripped(name: &str, format: &str, made: &Path) {
    assert!(!marked(&fs::read(made).unwrap()), "{name} to {format}: a mark survives");
    let after = everything(made);
    assert_eq!(after["chapters"], json!([]), "{name} to {format}");
    let kinds = kinds(&after);
    let expect: &[&str] =
        if ["mp3", "m4a"].contains(&format) { &["audio"] } else { &["video", "audio"] };
    assert!(kinds == expect || kinds == ["audio"], "{name} to {format}: {kinds:?}");
    // What the muxers write of their own accord, the same for every input.
    let own = [
        "major_brand",
        "minor_version",
        "compatible_brands",
        "language",
        "handler_name",
        "vendor_id",
        "encoder",
        "ENCODER",
        "DURATION",
    ];
    let tags = |of: &Value| -> Vec<String> {
        of["tags"].as_object().map(|tags| tags.keys().cloned().collect()).unwrap_or_default()
    };
    let streams = after["streams"].as_array().unwrap().iter().flat_map(tags);
    let foreign: Vec<String> =
        streams.chain(tags(&after["format"])).filter(|tag| !own.contains(&tag.as_str())).collect();
    assert!(foreign.is_empty(), "{name} to {format}: {foreign:?}");
}

/// ZT-08: what the prober prints does not grow with what a file says of itself: megabytes of
/// tags and twenty attachments. (Only programs of a broadcast lengthen it, up to the limit of the
/// answer: the encoder's probe.rs.)
#[test]
fn zt_08_tags_and_attachments_do_not_lengthen_the_prober_s_answer() {
    let dir = dir("baggage");
    let big = "t".repeat(1 << 20);
    fs::write(dir.join("meta.txt"), format!(";FFMETADATA1\ntitle={big}\ncomment={big}\n")).unwrap();
    fs::write(dir.join("font.ttf"), vec![0; 4096]).unwrap();
    let attach = "-attach font.ttf ".repeat(20);
    ffmpeg_with(
        &dir,
        &format!(
            "-f lavfi -i testsrc2=s=128x96:r=10:d=1 -i meta.txt -map 0 -map_metadata 1 -c:v libx264 \
             {attach} -metadata:s:t mimetype=font/ttf big.mkv"
        ),
    );
    let answer = |name: &str, container| {
        let file = dir.join(name);
        let out = run(&ffprobe(), &placed(&ffprobe_argv(container), &file, &file));
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!marked(&out.stdout), "{name}");
        out.stdout.len()
    };
    assert!(fs::metadata(dir.join("big.mkv")).unwrap().len() > 2 << 20);
    let size = answer("big.mkv", Container::Matroska);
    assert!(size < 8192, "{size} bytes of 21 streams");
}
