//! Golden command lines: what FFmpeg is told changes only where a reviewer sees it.
//! `HOTCELL_BLESS=1` writes the files anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_schemas::{
    argv::{INPUT, OUTPUT, agrees, argv, ffprobe_argv},
    plan::{AudioPlan, CellLimits, Container, Effort, OutputPlan, Plan, Rate, Scale, VideoPlan},
    request::{AudioCodec, Format, VideoCodec},
};
use std::{fs, path::Path};

fn golden(name: &str, tokens: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/argv/{name}.txt"));
    let text = tokens.join("\n") + "\n";
    if std::env::var_os("HOTCELL_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, text, "{} differs: a change of what FFmpeg is told", path.display());
}

fn output(format: Format, video: Option<VideoPlan>, audio: Option<AudioPlan>) -> OutputPlan {
    let name = "out0.bin".parse().unwrap();
    OutputPlan { name, format, content_type: "video/mp4".to_owned(), video, audio, raw: None }
}

const VIDEO: VideoPlan = VideoPlan {
    codec: VideoCodec::H264,
    rate: Rate::Crf(23),
    effort: Effort::Medium,
    scale: Scale::Height(480),
};
const AUDIO: AudioPlan = AudioPlan { codec: AudioCodec::Aac, bitrate: 128_000 };

#[test]
fn zt_11_every_container_has_its_pinned_command_lines() {
    for container in Container::ALL {
        let name = serde_json::to_string(&container).unwrap();
        let name = name.trim_matches('"');
        let (tokens, _) = argv(container, &output(Format::Mp4, Some(VIDEO), Some(AUDIO)));
        golden(&format!("from_{name}"), &tokens);
        golden(&format!("probe_{name}"), &ffprobe_argv(container));
    }
}

#[test]
fn every_output_has_its_pinned_command_line() {
    let vp9 = VideoPlan { codec: VideoCodec::Vp9, rate: Rate::Crf(33), ..VIDEO };
    let h265 = VideoPlan {
        codec: VideoCodec::H265,
        rate: Rate::Bitrate(2_000_000),
        effort: Effort::Slow,
        scale: Scale::Exact(640, 360),
    };
    let width = VideoPlan { scale: Scale::Width(640), effort: Effort::Fast, ..VIDEO };
    let source = VideoPlan { scale: Scale::Source, ..VIDEO };
    let opus = AudioPlan { codec: AudioCodec::Opus, bitrate: 96_000 };
    let mp3 = AudioPlan { codec: AudioCodec::Mp3, bitrate: 192_000 };
    let scale: &[&str] = &["scale"];
    for (name, output, expect) in [
        ("to_webm", output(Format::Webm, Some(vp9), Some(opus)), scale),
        ("to_mp4_h265", output(Format::Mp4, Some(h265), None), &["scale", "setsar"]),
        ("to_mkv_h265", output(Format::Mkv, Some(h265), Some(AUDIO)), &["scale", "setsar"]),
        ("to_mp4_width", output(Format::Mp4, Some(width), Some(AUDIO)), scale),
        ("to_mp4_source", output(Format::Mp4, Some(source), Some(AUDIO)), scale),
        ("to_mp3", output(Format::Mp3, None, Some(mp3)), &[]),
        ("to_m4a", output(Format::M4a, None, Some(AUDIO)), &[]),
    ] {
        let (tokens, filters) = argv(Container::Mp4, &output);
        golden(name, &tokens);
        assert_eq!(filters, expect, "{name}");
        assert_eq!(tokens.iter().any(|token| token == "-vf"), !expect.is_empty(), "{name}");
    }
}

#[test]
fn each_placeholder_stands_alone_and_once() {
    let (tokens, _) = argv(Container::Mp4, &output(Format::Mp4, Some(VIDEO), Some(AUDIO)));
    for place in [INPUT, OUTPUT] {
        assert_eq!(tokens.iter().filter(|token| token.contains(place)).count(), 1, "{place}");
        assert!(tokens.iter().any(|token| token == place), "{place}");
    }
    let probe = ffprobe_argv(Container::Mp4);
    assert_eq!(probe.last().map(String::as_str), Some(INPUT));
}

#[test]
fn a_plan_with_another_command_line_does_not_agree() {
    let output = output(Format::Mp4, Some(VIDEO), Some(AUDIO));
    let (tokens, filters) = argv(Container::Mp4, &output);
    let limits = CellLimits {
        memory_bytes: 1,
        cpu_secs: 1,
        wall_secs: 1,
        output_bytes: 1,
        temp_bytes: 1,
        procs: 1,
        stall_secs: 1,
        files: 1,
    };
    let outputs = vec![output];
    let plan = Plan { input: Container::Mp4, outputs, argv: tokens, filters, limits };
    assert!(agrees(&plan));
    for change in [
        |plan: &mut Plan| plan.argv.push("-report".to_owned()),
        |plan: &mut Plan| plan.argv[0] = "-hide".to_owned(),
        |plan: &mut Plan| plan.input = Container::Gif,
        |plan: &mut Plan| plan.filters.clear(),
        |plan: &mut Plan| plan.outputs.clear(),
        |plan: &mut Plan| plan.outputs.push(plan.outputs[0].clone()),
    ] {
        let mut other = plan.clone();
        change(&mut other);
        assert!(!agrees(&other));
    }
}
