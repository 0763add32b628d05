//! Every word and every bound that the list of arguments names, tried on our own FFmpeg: what is
//! promised to a tenant is what the program takes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use clip::{dir, ffmpeg, make, placed, run};
use hotcell_schemas::{
    argv::line,
    plan::{
        Container,
        encoder::{AudioEncoder, OptionRow, Options as _, Picture, Sound, VideoEncoder},
        filter::{AudioFilter, Filter, VideoFilter},
    },
    request::{AudioCodec, Format, VideoCodec},
};
use hotcell_validator::raw::parse;
use std::{collections::BTreeMap, fs, path::Path};

/// Words and bounds in a rule's text; sides of pictures are left out, as 8192 x 8192 is over the
/// limit of pixels.
fn values(takes: &str) -> Vec<String> {
    let after = |text: &str| takes.strip_prefix(text).map(str::to_owned);
    if let Some(words) = after("one of ") {
        return words.split(", ").map(str::to_owned).collect();
    }
    let range = ["a whole number from ", "a number from ", "bits from "];
    let Some(range) = range.iter().find_map(|text| after(text)) else { return Vec::new() };
    let range = range.split([';', ',']).next().unwrap();
    let bounds: Vec<String> = range.split(" to ").map(str::to_owned).collect();
    if bounds[1] == "8192" { Vec::new() } else { bounds }
}

/// Runs one accepted list.
fn encodes(folder: &Path, format: Format, list: &str) {
    let words: Vec<String> = list.split(' ').map(str::to_owned).collect();
    let tree = parse(format, &words).unwrap_or_else(|refusal| panic!("{list}: {refusal}"));
    let (input, made) = (folder.join("clip"), folder.join("made"));
    let out = run(&ffmpeg(), &placed(&line(Container::Mp4, &tree), &input, &made));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{list}: {said}");
    // An option that is not used by what it was given for.
    assert!(!said.contains("has not been used"), "{list}: {said}");
    fs::remove_file(made).unwrap();
}

fn clip(name: &str) -> std::path::PathBuf {
    let folder = dir(name);
    make(&folder, "clip", "-frames:v 4 -t 0.3 -s 64x48 -c:v libx264 -c:a aac -f mp4");
    folder
}

fn each(folder: &Path, format: Format, rows: &[OptionRow], list: impl Fn(&str, &str) -> String) {
    for row in rows {
        for value in values(&row.takes) {
            encodes(folder, format, &list(row.names[0], &value));
        }
    }
}

#[test]
fn every_value_of_a_video_encoder_encodes() {
    let folder = clip("values-video");
    for (codec, format) in [
        (VideoCodec::H264, Format::Mp4),
        (VideoCodec::H265, Format::Mkv),
        (VideoCodec::Vp9, Format::Webm),
    ] {
        let encoder = VideoEncoder::of(codec);
        let (name, rows) = (encoder.name(), [encoder.rows(), Picture::rows()].concat());
        let quick = if codec == VideoCodec::Vp9 { "-cpu-used 8" } else { "-preset ultrafast" };
        each(&folder, format, &rows, |option, value| {
            let quick = if quick.starts_with(option) { "-g 9" } else { quick };
            let more = match (option, value) {
                ("-maxrate:v", _) => "-b:v 50000 -bufsize:v 1M",
                ("-bufsize:v", _) => "-b:v 50000 -maxrate:v 1M",
                ("-b:v", "0") => "-crf 40",
                // A level is no more than a mark, but a profile must hold the pixels.
                ("-profile:v", "main444-8" | "main444-10" | "high444") => "-pix_fmt yuv444p",
                _ => "-sn",
            };
            format!("-i {{in0}} -c:v {name} {quick} {option} {value} {more} -an {{out0}}")
        });
    }
}

#[test]
fn every_value_of_an_audio_encoder_encodes() {
    let folder = clip("values-audio");
    for (codec, format) in [
        (AudioCodec::Aac, Format::M4a),
        (AudioCodec::Opus, Format::Webm),
        (AudioCodec::Mp3, Format::Mp3),
    ] {
        let encoder = AudioEncoder::of(codec);
        let name = encoder.name();
        let list = |option: &str, value: &str| {
            let more = if value == "512000" { "-ac 2" } else { "-sn" };
            format!("-i {{in0}} -vn -c:a {name} {option} {value} {more} {{out0}}")
        };
        each(&folder, format, &encoder.rows(), list);
        for row in Sound::rows() {
            for value in values(&row.takes) {
                let words: Vec<String> =
                    list(row.names[0], &value).split(' ').map(str::to_owned).collect();
                // Opus has not every rate, MP3 not every number of channels: the parser knows.
                if parse(format, &words).is_ok() {
                    encodes(&folder, format, &list(row.names[0], &value));
                }
            }
        }
    }
}

/// Each filter's example, with one parameter after the other at each of its values.
fn filters<F: Filter>(example: &dyn Fn(&str) -> F, list: &dyn Fn(&str), keep: &str) {
    for row in F::rows() {
        let given: BTreeMap<_, _> = example(row.example).parameters().into_iter().collect();
        list(row.example);
        for parameter in &row.parameters {
            let key = parameter.keys[0];
            for value in values(&parameter.takes) {
                let mut given = given.clone();
                given.insert(key, value);
                let text = |(key, value): (&&str, &String)| match *key {
                    "" => value.clone(),
                    key => format!("{key}={value}"),
                };
                let text: Vec<_> = given.iter().map(text).collect();
                list(&format!("{}={}{keep}", row.name, text.join(":")));
            }
        }
    }
}

#[test]
fn every_value_of_a_filter_filters() {
    let folder = clip("values-filters");
    let before = "scale=1280:720,";
    let video = |chain: &str| {
        let words =
            format!("-i {{in0}} -c:v libx264 -preset ultrafast -vf {before}{chain} -an {{out0}}");
        encodes(&folder, Format::Mkv, &words);
    };
    let read = |example: &str| {
        let list = ["-i", "{in0}", "-c:v", "libx264", "-an", "-vf", example, "{out0}"];
        let tree = parse(Format::Mkv, &list.map(str::to_owned)).unwrap();
        tree.video.unwrap().filters.remove(0)
    };
    filters::<VideoFilter>(&read, &video, "");
    let audio = |chain: &str| {
        encodes(&folder, Format::Mkv, &format!("-i {{in0}} -vn -c:a aac -af {chain} {{out0}}"));
    };
    let read = |example: &str| {
        let list = ["-i", "{in0}", "-vn", "-c:a", "aac", "-af", example, "{out0}"];
        let tree = parse(Format::Mkv, &list.map(str::to_owned)).unwrap();
        tree.audio.unwrap().filters.remove(0)
    };
    filters::<AudioFilter>(&read, &audio, "");
}

/// BRK-57: a replay of a tenant's own arguments is compared by hash, too.
#[test]
fn brk_57_own_arguments_give_the_same_bytes_on_any_number_of_cores() {
    let folder = dir("values-replay");
    make(&folder, "clip", "-c:v libx264 -c:a aac -f mp4");
    for (format, list) in [
        (
            Format::Mp4,
            "-i {in0} -c:v libx264 -preset veryfast -b:v 200k -maxrate 300k -bufsize 300k -bf 3 \
             -vf yadif,hqdn3d,unsharp,scale=320:-2:flags=lanczos,pad=400:300:-1:-1,transpose=clock \
             -c:a aac -af loudnorm=I=-16,volume=-3dB,atempo=1.1,aresample=44100 {out0}",
        ),
        (
            Format::Mkv,
            "-i {in0} -c:v libx265 -preset ultrafast -b:v 100k -vf fade=t=in:d=0.5,fps=25 \
             -pix_fmt yuv420p10le -c:a libmp3lame -q:a 3 -af highpass=f=90,lowpass=f=9000 {out0}",
        ),
        (
            Format::Webm,
            "-i {in0} -c:v libvpx-vp9 -cpu-used 8 -row-mt 1 -b:v 100k -lag-in-frames 16 -vf vflip \
             -pix_fmt yuv444p -c:a libopus -vbr on {out0}",
        ),
    ] {
        let words: Vec<String> =
            list.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let tree = parse(format, &words).unwrap_or_else(|refusal| panic!("{list}: {refusal}"));
        let encode = |name: &str, cores: &str| {
            let made = folder.join(name);
            let mut command = vec!["-c".to_owned(), cores.to_owned(), ffmpeg()];
            command.extend(placed(&line(Container::Mp4, &tree), &folder.join("clip"), &made));
            let out = run("taskset", &command);
            assert!(out.status.success(), "{list}: {}", String::from_utf8_lossy(&out.stderr));
            let bytes = fs::read(&made).unwrap();
            fs::remove_file(made).unwrap();
            bytes
        };
        let first = encode("first", "0,1");
        assert!(first == encode("again", "0,1"), "{list}: not repeatable");
        assert!(first == encode("alone", "0"), "{list}: depends on the number of cores");
    }
}
