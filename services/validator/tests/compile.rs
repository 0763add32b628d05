//! Requests: the rules that intake answers with, and what the accepted ones compile to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_schemas::{
    RejectCode,
    argv::{agrees, ffprobe_argv},
    limits::{PIXELS_MAX, STREAMS_MAX, WORKFLOW_BYTES_MAX},
    plan::{Container, Effort, Rate, Scale, Sniffed},
    request::{AudioCodec, Format, TranscodeRequest, VideoCodec},
};
use hotcell_validator::{check_request, compile};
use proptest::prelude::*;
use serde_json::{Value, json};

fn request(body: Value) -> TranscodeRequest {
    let mut whole = json!({"inputs": [{"url": "upload:20260522-143045-clip.mp4"}]});
    whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn clip() -> Sniffed {
    Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(1280),
        height: Some(720),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms: Some(10_000),
        protected: false,
    }
}

#[test]
fn api_12_a_bad_request_is_answered_with_its_field_and_rule() {
    let check = |body: Value, field: &str| {
        let found = check_request(&request(body.clone())).expect_err(&body.to_string());
        assert_eq!(found.field, field, "{body}: {}", found.rule);
        assert!(found.rule.len() > 10);
        let failure = compile(&request(body), &clip()).unwrap_err();
        assert_eq!(failure.code, RejectCode::RequestUnsupported);
        assert!(failure.message.starts_with(field), "{}", failure.message);
    };
    let preset = json!({"quality": "low", "resolution": "480p"});
    let video = |video: Value| json!({"outputs": [{"format": "mp4", "video": video}]});
    let audio = |f: &str, audio: Value| json!({"outputs": [{"format": f, "audio": audio}]});
    let url =
        |url: &str| json!({"inputs": [{"url": url}], "outputFormat": "mp4", "preset": preset});
    check(json!({"inputs": []}), "inputs");
    check(json!({"inputs": [{"url": "upload:a"}, {"url": "upload:b"}]}), "inputs");
    for bad in [
        "",
        "upload:",
        "upload:../x",
        "upload:a/b",
        "upload:.x",
        "file:///etc/passwd",
        "https://example.com/a.mp4",
        "concat:a|b",
        "upload:-i",
        "upload:a b",
        "UPLOAD:a",
    ] {
        check(url(bad), "inputs[0].url");
    }
    check(json!({}), "outputFormat");
    check(json!({"preset": preset}), "outputFormat");
    check(json!({"outputFormat": "mp4"}), "preset");
    let both = json!({"outputFormat": "mp4", "preset": preset, "outputs": [{"format": "mp4"}]});
    check(both, "outputs");
    check(json!({"outputs": [{"format": "mp4"}, {"format": "mp4"}]}), "outputs");
    check(json!({"outputs": [{"format": "mp4"}]}), "outputs[0]");
    for height in [0, 14, 15, 17, 4322, u32::MAX] {
        check(video(json!({"codec": "h264", "height": height})), "outputs[0].video.height");
    }
    for width in [0, 14, 641, 8194, u32::MAX] {
        check(video(json!({"codec": "h264", "width": width})), "outputs[0].video.width");
    }
    for bitrate in [0, 49_999, 100_000_001, u32::MAX] {
        check(video(json!({"codec": "h264", "bitrate": bitrate})), "outputs[0].video.bitrate");
    }
    check(video(json!({"codec": "vp9"})), "outputs[0].video.codec");
    for bitrate in [0, 15_999, 512_001] {
        let field = "outputs[0].audio.bitrate";
        check(audio("m4a", json!({"codec": "aac", "bitrate": bitrate})), field);
    }
    check(audio("mp3", json!({"codec": "mp3", "bitrate": 320_001})), "outputs[0].audio.bitrate");
    check(audio("mp3", json!({"codec": "aac"})), "outputs[0].audio.codec");
    check(audio("webm", json!({"codec": "aac"})), "outputs[0].audio.codec");
    let in_mp3 = json!({"outputs": [{"format": "mp3", "video": {"codec": "h264"}}]});
    check(in_mp3, "outputs[0].video");
    for bad in [String::new(), "a\nb".to_owned(), "x".repeat(WORKFLOW_BYTES_MAX + 1)] {
        let body = json!({"outputFormat": "mp4", "preset": preset, "workflow": bad});
        check(body, "workflow");
    }
}

/// STEP-04: a job by a preset's name has the version and the settings in it, or is refused here.
#[test]
fn step_04_a_job_by_a_preset_s_name_has_its_settings() {
    let preset = json!({"quality": "low", "resolution": "480p"});
    let settled = json!({"outputFormat": "mp4", "preset": preset});
    let with = |more: Value| {
        let mut body = settled.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, field) in [
        (json!({"presetName": "web"}), "presetName"),
        (with(json!({"presetName": "web"})), "presetName"),
        (with(json!({"presetVersion": 1})), "presetVersion"),
        (json!({"presetName": "web", "presetVersion": 1}), "outputFormat"),
        (json!({"presetName": "web", "presetVersion": 1, "preset": preset}), "outputFormat"),
    ] {
        assert_eq!(check_request(&request(body.clone())).unwrap_err().field, field, "{body}");
        let failure = compile(&request(body), &clip()).unwrap_err();
        assert_eq!(failure.code, RejectCode::RequestUnsupported);
    }
    let named = request(with(json!({"presetName": "web", "presetVersion": 1})));
    assert_eq!(compile(&named, &clip()), compile(&request(settled), &clip()));
}

#[test]
fn presets_compile_by_the_table() {
    let check = |quality: &str, resolution: &str, format: &str| {
        let preset = json!({"quality": quality, "resolution": resolution});
        let plan = compile(&request(json!({"outputFormat": format, "preset": preset})), &clip());
        let plan = plan.unwrap();
        assert!(agrees(&plan));
        plan.outputs[0].clone()
    };
    let output = check("medium", "480p", "mp4");
    let video = output.video.unwrap();
    assert_eq!((video.codec, video.rate), (VideoCodec::H264, Rate::Crf(23)));
    assert_eq!((video.effort, video.scale), (Effort::Medium, Scale::Height(480)));
    assert_eq!((output.name.as_str(), output.content_type.as_str()), ("out0.mp4", "video/mp4"));
    let output = check("high", "source", "webm");
    let (video, audio) = (output.video.unwrap(), output.audio.unwrap());
    assert_eq!((video.codec, video.rate), (VideoCodec::Vp9, Rate::Crf(28)));
    assert_eq!((video.effort, video.scale), (Effort::Slow, Scale::Source));
    assert_eq!((audio.codec, audio.bitrate), (AudioCodec::Opus, 192_000));
    let output = check("low", "720p", "mp3");
    assert_eq!((output.video, output.format), (None, Format::Mp3));
    assert_eq!(output.audio.unwrap().bitrate, 96_000);
    assert_eq!(output.name.as_str(), "out0.mp3");
}

#[test]
fn what_the_input_lacks_is_refused_or_left_out() {
    let preset = |format: &str| {
        let preset = json!({"quality": "low", "resolution": "240p"});
        request(json!({"outputFormat": format, "preset": preset}))
    };
    let explicit = request(json!({"outputs": [{"format": "mp4",
        "video": {"codec": "h264"}, "audio": {"codec": "aac"}}]}));
    let silent = Sniffed { has_audio: Some(false), ..clip() };
    let sound = Sniffed { has_video: Some(false), width: None, height: None, ..clip() };
    let unknown = Sniffed { has_video: None, has_audio: None, ..sound.clone() };
    let refused = |request: &TranscodeRequest, input: &Sniffed| {
        let failure = compile(request, input).unwrap_err();
        assert_eq!(failure.code, RejectCode::RequestUnsupported);
    };
    assert_eq!(compile(&preset("mp4"), &silent).unwrap().outputs[0].audio, None);
    refused(&explicit, &silent);
    refused(&preset("mp3"), &silent);
    refused(&preset("mp4"), &sound);
    refused(&explicit, &sound);
    assert!(compile(&preset("mp3"), &sound).is_ok());
    assert!(compile(&explicit, &unknown).is_ok());
}

#[test]
fn a_thin_picture_cannot_be_blown_up() {
    let preset = json!({"quality": "low", "resolution": "2160p"});
    let request = request(json!({"outputFormat": "mp4", "preset": preset}));
    let thin = Sniffed { width: Some(65_535), height: Some(1), ..clip() };
    assert_eq!(compile(&request, &thin).unwrap_err().code, RejectCode::RequestUnsupported);
    assert!(compile(&request, &clip()).is_ok());
}

#[test]
fn memory_follows_the_larger_picture() {
    let preset = |resolution: &str| {
        let preset = json!({"quality": "low", "resolution": resolution});
        request(json!({"outputFormat": "mp4", "preset": preset}))
    };
    let memory = |resolution, width, height| {
        let input = Sniffed { width, height, ..clip() };
        compile(&preset(resolution), &input).unwrap().limits.memory_bytes >> 30
    };
    assert_eq!(memory("1080p", Some(1280), Some(720)), 2);
    assert_eq!(memory("2160p", Some(1280), Some(720)), 4);
    assert_eq!(memory("240p", Some(3840), Some(2160)), 4);
    assert_eq!(memory("240p", Some(8192), Some(4320)), 12);
    assert_eq!(memory("240p", None, None), 4);
}

/// FFmpeg's own arguments for a picture through these filters, and no sound.
fn filtered(filters: &str, preset: &str) -> TranscodeRequest {
    request(json!({"outputs": [{"format": "mp4", "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264",
        "-preset", preset, "-vf", filters, "-an", "{out0}"]}]}))
}

#[test]
fn own_arguments_are_held_to_the_same_sizes_and_tracks() {
    let memory = |filters: &str, preset: &str, input: &Sniffed| {
        let plan = compile(&filtered(filters, preset), input);
        plan.map(|plan| plan.limits.memory_bytes >> 30).map_err(|failure| failure.code)
    };
    let large = Err(RejectCode::RequestUnsupported);
    let unknown = Sniffed { width: None, height: None, ..clip() };
    assert_eq!(memory("hflip", "fast", &clip()), Ok(2));
    assert_eq!(memory("scale=3840:2160,scale=64:64", "fast", &clip()), Ok(4));
    assert_eq!(memory("scale=64:64,pad=8192:4320", "fast", &clip()), Ok(12));
    assert_eq!(memory("pad=8192:4322", "fast", &clip()), large);
    assert_eq!(memory("scale=8192:8192,crop=64:64", "fast", &unknown), large);
    assert_eq!(memory("crop=64:8,scale=8192:-2,scale=-2:4320", "fast", &clip()), large);
    assert_eq!(memory("crop=8:64,transpose=clock,scale=-2:4320", "fast", &clip()), large);
    assert_eq!(memory("hflip", "fast", &unknown), Ok(4));
    assert_eq!(memory("scale=8192:4320", "fast", &unknown), Ok(12));
    assert_eq!(memory("hflip", "veryslow", &clip()), Ok(4));
    // Held upright, a clip of 1280 x 720 becomes 2560 x 4552.
    assert_eq!(memory("scale=2560:-2", "fast", &clip()), Ok(12));
    assert_eq!(memory("scale=720:-2", "fast", &clip()), Ok(2));
    assert_eq!(memory("scale=8192:4320", "veryslow", &clip()), Ok(12));

    let sound = |map: &str| {
        let list = ["-i", "{in0}", "-vn", "-c:a", "aac", "-map", map, "{out0}"];
        request(json!({"outputs": [{"format": "m4a", "ffmpegArgs": list}]}))
    };
    let silent = Sniffed { has_audio: Some(false), ..clip() };
    let blind = Sniffed { has_video: Some(false), ..clip() };
    assert_eq!(memory("hflip", "fast", &blind), large);
    assert!(compile(&sound("0:a:0"), &silent).is_err());
    let plan = compile(&sound("0:a:1"), &clip()).unwrap();
    let output = &plan.outputs[0];
    assert_eq!((output.name.as_str(), output.content_type.as_str()), ("out0.m4a", "audio/mp4"));
    assert_eq!((output.video, output.audio), (None, None));
    assert!(agrees(&plan));
}

#[test]
fn own_arguments_are_refused_with_their_place() {
    let refused = |filters: &str| compile(&filtered(filters, "fast"), &clip()).unwrap_err();
    let failure = refused("scale=64:64,movie=/etc/passwd");
    assert_eq!(failure.code, RejectCode::RequestUnsupported);
    assert!(failure.message.starts_with("outputs[0].ffmpegArgs[7]: "), "{}", failure.message);
    assert!(failure.message.contains("filter 2 of the chain"), "{}", failure.message);
    let list = json!(["-i", "{in0}", "-c:v", "libx264", "-an", "{out0}"]);
    let both = json!({"format": "mp4", "ffmpegArgs": list, "video": {"codec": "h264"}});
    let error = check_request(&request(json!({"outputs": [both]}))).unwrap_err();
    assert_eq!(error.field, "outputs[0].ffmpegArgs");
}

/// Requests of every kind, good and bad, with a tenant's text wherever one fits.
fn any_request() -> impl Strategy<Value = (TranscodeRequest, String)> {
    let format = prop::sample::select(vec!["mp4", "webm", "mkv", "mp3", "m4a"]);
    let quality = prop::sample::select(vec!["low", "medium", "high"]);
    let lines = ["source", "240p", "360p", "480p", "720p", "1080p", "2160p"];
    let preset = (quality, prop::sample::select(lines.to_vec()))
        .prop_map(|(quality, resolution)| json!({"quality": quality, "resolution": resolution}));
    let side = || prop::option::of((8_u32..4400).prop_map(|half| half * 2));
    let video = (prop::sample::select(vec!["h264", "h265", "vp9"]), side(), side(),
        prop::option::of(40_000_u32..110_000_000))
        .prop_map(|(codec, width, height, bitrate)| {
            json!({"codec": codec, "width": width, "height": height, "bitrate": bitrate})
        });
    let audio =
        (prop::sample::select(vec!["aac", "opus", "mp3"]), prop::option::of(10_000_u32..600_000))
            .prop_map(|(codec, bitrate)| json!({"codec": codec, "bitrate": bitrate}));
    let output = (format.clone(), prop::option::of(video), prop::option::of(audio))
        .prop_map(|(f, v, a)| json!({"outputs": [{"format": f, "video": v, "audio": a}]}));
    let simple = (format, preset).prop_map(|(f, p)| json!({"outputFormat": f, "preset": p}));
    (prop_oneof![output, simple], "[A-Z]{12,20}").prop_map(|(mut body, text)| {
        body["workflow"] = json!(format!("-i {text}"));
        body["inputs"] = json!([{"url": format!("upload:{text}.mp4")}]);
        (serde_json::from_value(body).unwrap(), text)
    })
}

/// Every token that may be in a command line and is no number and no filter chain.
const TOKENS: &str = "\
-hide_banner -nostdin -loglevel level+info -nostats -progress pipe:1 -stats_period -max_alloc \
-filter_threads -protocol_whitelist file -format_whitelist -codec_whitelist -max_streams \
-enable_drefs -use_absolute_path -f -max_pixels -threads -i {in0} -map 0:V:0 0:a:0? 0:a:0 \
-map_metadata -1 -map_chapters -sn -dn -c:v libx264 libx265 libvpx-vp9 -preset fast medium slow \
-threads:v -x264-params sync-lookahead=0:lookahead-threads=1 \
-x265-params pools=4:frame-threads=2:log-level=warning \
pools=4:frame-threads=1:log-level=warning -tag:v hvc1 -deadline good \
-cpu-used -row-mt -tile-columns -b:v -crf -vf -pix_fmt yuv420p -g -fps_mode vfr -c:a aac libopus \
libmp3lame -b:a -ac -ar -fflags +bitexact -flags:v -flags:a -movflags +faststart mp4 ipod webm \
matroska mp3 -n {out0}";

fn accounted(option: &str, token: &str, container: Container) -> bool {
    let number = |max: u64| token.parse::<u64>().is_ok_and(|n| n <= max && n.to_string() == token);
    match option {
        "-vf" => token.split([',', ':', '=', '+', '\'']).all(|part| {
            let words = "scale w h flags bicubic accurate_rnd full_chroma_int bitexact setsar \
                max(2 trunc(iw/2)*2) trunc(ih/2)*2) -2";
            let number = part.parse::<u32>().is_ok_and(|n| n <= 8192);
            part.is_empty() || number || words.split_whitespace().any(|word| word == part)
        }),
        "-codec_whitelist" => {
            // The same constant as in the prober's line, which may add to it.
            let line = ffprobe_argv(container);
            line.iter().any(|probe| probe == token || probe.starts_with(&format!("{token},")))
        }
        "-b:v" => number(100_000_000),
        "-b:a" => number(512_000),
        "-crf" => number(63),
        "-max_pixels" => token == PIXELS_MAX.to_string(),
        "-max_streams" => token == STREAMS_MAX.to_string(),
        "-max_alloc" => number(512 << 20),
        "-ar" => token == "48000",
        "-g" => number(240),
        "-ac" | "-threads" | "-threads:v" | "-cpu-used" | "-row-mt" | "-tile-columns"
        | "-stats_period" | "-filter_threads" | "-enable_drefs" | "-use_absolute_path" => number(5),
        "-f" | "-format_whitelist" if token == container.demuxer() => true,
        _ => TOKENS.split_whitespace().any(|known| known == token),
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn every_token_of_an_accepted_request_is_accounted_for(
        (request, text) in any_request(),
        container in prop::sample::select(Container::ALL.to_vec()),
        width in prop::option::of(1_u32..8192),
        height in prop::option::of(1_u32..4320),
    ) {
        let input = Sniffed { container, width, height, ..clip() };
        let ruled = check_request(&request);
        let Ok(plan) = compile(&request, &input) else { return Ok(()) };
        prop_assert!(ruled.is_ok(), "intake would have refused: {:?}", ruled);
        prop_assert!(agrees(&plan));
        let options = std::iter::once("").chain(plan.argv.iter().map(String::as_str));
        for (option, token) in options.zip(&plan.argv) {
            prop_assert!(accounted(option, token, container), "{option} {token}");
            prop_assert!(!token.contains(&text) && !token.contains("upload"));
        }
        let plan_text = serde_json::to_string(&plan).unwrap();
        prop_assert!(!plan_text.contains(&text), "a tenant's text is in the plan");
    }
}
