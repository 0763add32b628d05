//! The minimal FFmpeg contains what command lines of ours can name, and nothing else:
//! `tools/ffmpeg-components.txt` against every plan, and against what the built program lists.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_schemas::{
    argv::{argv, ffprobe_argv},
    plan::{
        AudioPlan, Container, Effort, OutputPlan, Rate, Scale, VideoPlan,
        filter::{AudioFilter, Filter as _, VideoFilter},
    },
    request::{AudioCodec, Format, VideoCodec},
};
use hotcell_validator::raw;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Kind and name, as in `decoder` and `h264`.
type Component = (String, String);

/// The ends of every filter graph: FFmpeg has no way to be built without them.
const ENDS: [&str; 4] = ["abuffer", "abuffersink", "buffer", "buffersink"];

/// Kinds that FFmpeg never looks up by itself for what our command lines do, apart from a row that
/// shares the code of another: each such row must be named by a command line.
const NAMED_ONLY: [&str; 5] = ["protocol", "demuxer", "muxer", "encoder", "decoder"];

/// What FFmpeg looks up by itself, besides the parser of a decoder.
const LOOKED_UP: [(&str, &str); 2] = [("filter", "rotate"), ("bsf", "extract_extradata")];

/// One line of the list.
struct Row {
    component: Component,
    why: String,
    needed_by: Option<Component>,
    reason: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(repository().join("tools/ffmpeg-components.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(row).collect()
}

fn row(line: &str) -> Row {
    let mut words = line.split_whitespace();
    let mut word = || words.next().map(str::to_owned);
    let (kind, name) = (word().unwrap(), word().unwrap());
    let name = name.split('=').next().unwrap().to_owned();
    let (why, needed_by) = (word().unwrap(), word());
    let needed_by = needed_by.map(|needed_by| {
        let (kind, name) = needed_by.split_once(':').unwrap();
        (kind.to_owned(), name.to_owned())
    });
    let reason = words.collect::<Vec<_>>().join(" ");
    Row { component: (kind, name), why, needed_by, reason }
}

/// Every output that the types can say; more than the validator lets through.
fn outputs() -> Vec<OutputPlan> {
    let mut videos = vec![None];
    for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp9] {
        for rate in [Rate::Crf(23), Rate::Bitrate(1_000_000)] {
            for effort in [Effort::Fast, Effort::Medium, Effort::Slow] {
                for scale in [Scale::Source, Scale::Height(8), Scale::Width(8), Scale::Exact(8, 8)]
                {
                    videos.push(Some(VideoPlan { codec, rate, effort, scale }));
                }
            }
        }
    }
    let codecs = [AudioCodec::Aac, AudioCodec::Opus, AudioCodec::Mp3];
    let audios = codecs.map(|codec| Some(AudioPlan { codec, bitrate: 96_000 }));
    let mut outputs = Vec::new();
    for format in [Format::Mp4, Format::Webm, Format::Mkv, Format::Mp3, Format::M4a] {
        for video in &videos {
            for audio in audios.iter().chain([&None]) {
                outputs.push(OutputPlan {
                    name: "out0".parse().unwrap(),
                    format,
                    content_type: String::new(),
                    video: *video,
                    audio: *audio,
                    raw: None,
                });
            }
        }
    }
    outputs
}

/// What one command line names.
fn named(line: &[String], filters: &[String], into: &mut BTreeSet<Component>) {
    let mut say = |kind: &str, names: &str| {
        into.extend(names.split(',').map(|name| (kind.to_owned(), name.to_owned())));
    };
    let (mut format, mut chains) = ("demuxer", Vec::new());
    for pair in line.windows(2) {
        let (option, value) = (pair[0].as_str(), pair[1].as_str());
        match option {
            "-i" => format = "muxer",
            "-f" => say(format, value),
            "-format_whitelist" => say("demuxer", value),
            "-codec_whitelist" => say("decoder", value),
            "-protocol_whitelist" => say("protocol", value),
            "-c:v" | "-c:a" => say("encoder", value),
            // A `,` inside a filter's options is in quotes.
            "-vf" | "-af" => {
                let bare = value.split('\'').step_by(2).collect::<String>();
                let names = bare.split(',').map(|filter| filter.split('=').next().unwrap());
                chains.extend(names.map(str::to_owned));
            }
            "-progress" => say("protocol", value.split(':').next().unwrap()),
            _ => {
                let other = ["-bsf", "-filter:", "-filter_complex", "-lavfi", "-c", "-codec"];
                let names = |prefix: &&str| {
                    option == *prefix || prefix.len() > 3 && option.starts_with(prefix)
                };
                assert!(!other.iter().any(names), "{option} is not counted here");
            }
        }
    }
    assert_eq!(chains, filters);
    into.extend(chains.into_iter().map(|name| ("filter".to_owned(), name)));
}

/// One output for each filter that a tenant's own arguments may name.
fn filtered() -> Vec<OutputPlan> {
    let plan = |option: &str, encoder: &str, example: &str| {
        let none = if option == "-vf" { "-an" } else { "-vn" };
        let codec = if option == "-vf" { "-c:v" } else { "-c:a" };
        let list = ["-i", "{in0}", codec, encoder, none, option, example, "{out0}"];
        let tree = raw::parse(Format::Mkv, &list.map(str::to_owned)).unwrap();
        let name = "out0".parse().unwrap();
        let (format, content_type) = (Format::Mkv, String::new());
        OutputPlan { name, format, content_type, video: None, audio: None, raw: Some(tree) }
    };
    let video = VideoFilter::rows().into_iter().map(|row| plan("-vf", "libx264", row.example));
    let audio = AudioFilter::rows().into_iter().map(|row| plan("-af", "aac", row.example));
    video.chain(audio).collect()
}

fn derived() -> BTreeSet<Component> {
    let mut all = BTreeSet::new();
    for container in Container::ALL {
        named(&ffprobe_argv(container), &[], &mut all);
        for output in outputs().into_iter().chain(filtered()) {
            let (line, filters) = argv(container, &output);
            named(&line, &filters, &mut all);
        }
    }
    all
}

#[test]
fn each_listed_component_is_named_by_a_plan_or_needed_by_one_that_is() {
    let (rows, derived) = (rows(), derived());
    let listed: BTreeSet<_> = rows.iter().map(|row| row.component.clone()).collect();
    assert_eq!(listed.len(), rows.len(), "a row is there twice");
    let because = |why| rows.iter().filter(move |row| row.why == why);
    let argv: BTreeSet<_> = because("argv").map(|row| row.component.clone()).collect();
    assert_eq!(argv, derived);
    for row in &rows {
        let (kind, name) = &row.component;
        match (row.why.as_str(), &row.needed_by) {
            ("argv", None) => {}
            ("selected" | "wanted", Some(needed_by)) => {
                assert!(!row.reason.is_empty(), "{kind} {name} gives no reason");
                let program = needed_by.0 == "program" && needed_by.1 == "ffmpeg";
                assert!(program || argv.contains(needed_by), "{name}: no plan names {needed_by:?}");
            }
            (why, needed_by) => panic!("{kind} {name}: {why} and {needed_by:?}"),
        }
        let shares_code =
            row.why == "selected" && row.needed_by.as_ref().unwrap_or(&row.component).0 == *kind;
        let parser = kind == "parser" && row.needed_by.as_ref().is_some_and(|by| by.0 == "decoder");
        let looked_up = parser || LOOKED_UP.contains(&(kind.as_str(), name.as_str()));
        assert!(row.why != "wanted" || looked_up, "{kind} {name}: FFmpeg does not look it up");
        assert!(
            row.why == "argv" || shares_code || !NAMED_ONLY.contains(&kind.as_str()),
            "{kind} {name}: only a command line can need one"
        );
    }
    for (kind, name) in &listed {
        let foreign = ["hls", "dash", "concat", "lavfi", "http", "tcp", "tee", "movie", "subfile"];
        assert!(!foreign.contains(&name.as_str()), "{kind} {name}");
    }
}

/// A file of the build; a missing one fails the test.
fn built(name: &str) -> PathBuf {
    let path = repository().join(".tools/ffmpeg").join(name);
    assert!(path.exists(), "{} is missing: run `make ffmpeg`", path.display());
    path
}

/// What `ffmpeg -KINDs` lists.
fn lists(ffmpeg: &Path, kind: &str) -> BTreeSet<String> {
    let option = format!("-{kind}s");
    let out = Command::new(ffmpeg).args(["-hide_banner", &option]).output().unwrap();
    assert!(out.status.success(), "{option}");
    let text = String::from_utf8(out.stdout).unwrap();
    let after_legend = text.split_once(" --\n").or_else(|| text.split_once(" ------\n"));
    let body = after_legend.map_or(text.as_str(), |(_, body)| body);
    let names = body.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (kind, words.as_slice()) {
            // Titles end with a colon; a filter's legend has `=` where the others have a name.
            (_, [.., last]) if last.ends_with(':') => None,
            ("filter", [_, name, ends, ..]) => ends.contains("->").then_some(*name),
            ("filter", _) => None,
            ("bsf" | "protocol", [name]) => Some(*name),
            (_, [_, name, ..]) => Some(*name),
            _ => None,
        }
    });
    names.map(|name| name.split(',').next().unwrap().to_owned()).collect()
}

/// `tools/ffmpeg` itself stops where FFmpeg's configure turns on another set, parsers included,
/// which no program lists.
#[test]
fn the_built_program_lists_exactly_these() {
    let ffmpeg = built("bin/ffmpeg");
    let rows = rows();
    for kind in ["protocol", "demuxer", "muxer", "encoder", "decoder", "filter", "bsf"] {
        let mut listed: BTreeSet<String> = rows
            .iter()
            .filter(|row| row.component.0 == kind)
            .map(|row| row.component.1.clone())
            .collect();
        if kind == "filter" {
            listed.extend(ENDS.map(str::to_owned));
        }
        assert_eq!(lists(&ffmpeg, kind), listed, "{kind}s");
    }
    assert_eq!(lists(&ffmpeg, "device"), BTreeSet::new());
    assert_eq!(lists(&ffmpeg, "hwaccel"), BTreeSet::new());
}

#[test]
fn the_build_is_the_one_that_its_manifest_says() {
    let manifest = built("MANIFEST");
    let manifest = fs::read_to_string(manifest).unwrap();
    let recipe = ["tools/ffmpeg", "tools/ffmpeg-components.txt"]
        .map(|file| fs::read(repository().join(file)).unwrap())
        .concat();
    let hex = |bytes: &[u8]| {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let says = |line: String| {
        assert!(manifest.lines().any(|found| found == line), "run `make ffmpeg`: {line}");
    };
    says(format!("recipe {}", hex(&recipe)));
    for program in ["ffmpeg", "ffprobe"] {
        let bytes = fs::read(built(&format!("bin/{program}"))).unwrap();
        says(format!("sha256 {}  {program}", hex(&bytes)));
        let text = |needle: &[u8]| bytes.windows(needle.len()).any(|found| found == needle);
        assert!(!text(b"getaddrinfo"), "{program} can ask for addresses");
    }
}
