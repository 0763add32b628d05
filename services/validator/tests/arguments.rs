//! A tenant's own FFmpeg arguments: what is accepted, and what holds for everything that is. `UPDATE_GOLDEN=1` writes docs/arguments.md anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/accounted.rs"]
mod accounted;

use hotcell_schemas::{
    argv::line,
    limits::{RAW_ARGUMENT_BYTES_MAX, RAW_ARGUMENTS_MAX},
    plan::{
        Container, Tree,
        encoder::{AudioEncoder, OptionRow, Options as _, Picture, Set, Sound, VideoEncoder},
        filter::{AudioFilter, Filter, FilterRow, VideoFilter},
    },
    request::{AudioCodec, Format, TranscodeRequest, VideoCodec},
};
use hotcell_validator::raw::{arguments_md, explain, parse};
use proptest::prelude::*;
use std::{fs, path::Path, sync::LazyLock};

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn mp4(text: &str) -> Tree {
    let tree = parse(Format::Mp4, &words(text));
    tree.unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
}

fn owned(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|token| (*token).to_owned()).collect()
}

/// The request that the page shows is accepted, and becomes a command line.
#[test]
fn the_page_s_example_compiles() {
    let page = arguments_md();
    let example = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let request: TranscodeRequest = serde_json::from_str(example).unwrap();
    let output = &request.outputs[0];
    let tree = parse(output.format, &output.ffmpeg_args).unwrap();
    let tokens = line(Container::Mp4, &tree);
    for pair in [["-ss", "1.5"], ["-crf", "21"], ["-b:a", "128000"]] {
        assert!(tokens.windows(2).any(|tokens| tokens == pair), "{pair:?}");
    }
    let without_length = words("-t 0 -i {in0} -c:v libx264 -an {out0}");
    assert_eq!(parse(Format::Mp4, &without_length).unwrap_err().at, 1);
}

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/arguments.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, arguments_md()).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert!(kept == arguments_md(), "docs/arguments.md is stale: UPDATE_GOLDEN=1");
}

#[test]
fn an_accepted_list_becomes_this_command_line() {
    let tree = mp4(
        "-ss 00:00:01.5 -t 10 -i {in0} -map 0:v:0 -map 0:a:1? -c:v libx264 -crf 21 -preset slow \
         -vf crop=640:360,scale=w=320:h=-2:flags=lanczos,fps=30000/1001,setdar=16/9 -pix_fmt yuv420p \
         -g 60 -c:a aac -b:a 96k -af volume=-3dB,loudnorm=I=-16 -ar 44100 -metadata title=Teil2 \
         -metadata:s:a:0 language=deu -sn -movflags faststart -f mp4 -t 9.25 {out0}",
    );
    let argv = line(Container::Gif, &tree).join(" ");
    let (_, after) = argv.split_once("-threads 4 ").unwrap();
    let expect = "-ss 1.5 -t 10 -i {in0} -map 0:v:0 -map 0:a:1? -map_metadata -1 -map_chapters -1 \
        -sn -dn -c:v libx264 -preset slow -threads:v 4 \
        -x264-params sync-lookahead=0:lookahead-threads=1 -crf 21 -vf crop=w=640:h=360,\
        scale=w=320:h=-2:flags=lanczos+accurate_rnd+full_chroma_int+bitexact,fps=fps=30000/1001,\
        setdar=16/9 -sws_flags bicubic+accurate_rnd+full_chroma_int+bitexact -pix_fmt yuv420p -g 60 \
        -fps_mode vfr -c:a aac -b:a 96000 -ar 44100 -af volume=volume=-3dB,loudnorm=I=-16 -metadata \
        title=Teil2 -metadata:s:a:0 language=deu -fflags +bitexact -flags:v +bitexact -flags:a \
        +bitexact -movflags +faststart -f mp4 -t 9.25 -n {out0}";
    assert_eq!(after, expect);
    assert_eq!(tree.filters(), ["crop", "scale", "fps", "setdar", "volume", "loudnorm"]);
    accounted::check(&tree, |list| parse(Format::Mp4, list).ok());
}

#[test]
fn every_filter_s_example_is_accepted() {
    for row in VideoFilter::rows() {
        mp4(&format!("-i {{in0}} -c:v libx264 -vf {} -an {{out0}}", row.example));
    }
    for row in AudioFilter::rows() {
        mp4(&format!("-i {{in0}} -vn -c:a aac -af {} {{out0}}", row.example));
    }
}

#[test]
fn what_is_cut_off_too_long_or_says_nothing_is_refused() {
    let refused = |list: &[String], at: usize| {
        assert_eq!(parse(Format::Mp4, list).unwrap_err().at, at, "{list:?}");
    };
    refused(&words(""), 0);
    refused(&words("{out0}"), 0);
    refused(&words("-i"), 0);
    refused(&words("-i {in0}"), 2);
    refused(&words("-i {in0} {out0}"), 2);
    refused(&words("-i {in0} -c:v libx264 {out0}"), 4);
    refused(&words("-i {in0} -c:a aac {out0}"), 4);
    refused(&words("-i {in0} -vn -an {out0}"), 4);
    refused(&words("-i {in0} -c:v libx264 -an -crf"), 5);
    refused(&words("-i {in0} -c:v libvpx-vp9 -an {out0}"), 3);
    refused(&words("-i {in0} -vn -c:a libmp3lame {out0}"), 4);
    refused(&words("-i {in0} -c:v libx264 -c:a aac -map 0:v:0 {out0}"), 8);
    refused(&words("-i {in0} -c:v libx264 -an -metadata:s:a:0 language=deu {out0}"), 5);
    refused(&words("-i {in0} -c:v libx264 -an -metadata title=a -metadata title=b {out0}"), 7);
    let long = format!("title={}", "x".repeat(RAW_ARGUMENT_BYTES_MAX));
    let list = owned(&["-i", "{in0}", "-c:v", "libx264", "-an", "-metadata", &long, "{out0}"]);
    refused(&list, 6);
    refused(&vec!["-sn".to_owned(); RAW_ARGUMENTS_MAX + 1], RAW_ARGUMENTS_MAX);
    let chain = vec!["hflip"; 17].join(",");
    refused(&words(&format!("-i {{in0}} -c:v libx264 -vf {chain} -an {{out0}}")), 5);
    for (format, list, at) in [
        (Format::Mkv, "-i {in0} -c:v libx264 -an -movflags faststart {out0}", 5),
        (Format::Mkv, "-i {in0} -vn -c:a libopus -ar 44100 {out0}", 6),
        (Format::Mp3, "-i {in0} -c:a libmp3lame -ac 6 {out0}", 5),
        (Format::Mp3, "-i {in0} -c:a libmp3lame -b:a 128k -q:a 2 {out0}", 4),
        (Format::Mp3, "-i {in0} -c:v libx264 -c:a libmp3lame {out0}", 3),
        (Format::Mp3, "-i {in0} -c:a libmp3lame -map 0:a:0 -map 0:a:1 {out0}", 7),
        (Format::Webm, "-i {in0} -c:v libx264 -c:a libopus {out0}", 3),
    ] {
        assert_eq!(parse(format, &words(list)).unwrap_err().at, at, "{list}");
    }
}

#[test]
fn each_accepted_argument_names_its_rule() {
    let list = words("-i {in0} -crf 20 -c:v libx264 -an -vf scale=64:64 -g 30 {out0}");
    let (decisions, tree) = explain(Format::Mp4, &list);
    assert!(tree.is_ok());
    let rules: Vec<_> = decisions.iter().map(|d| (d.at, d.rule.as_str())).collect();
    assert_eq!(
        rules,
        [
            (0, "-i"),
            (2, "-crf of libx264"),
            (4, "-c:v"),
            (6, "-an"),
            (7, "-vf"),
            (9, "-g of every video encoder"),
            (11, "{out0}"),
        ]
    );
    assert_eq!(decisions.iter().map(|d| d.tokens).sum::<usize>(), list.len());
}

/// Values for any option and any parameter: some fit, most do not.
const POOL: &str = "0 1 2 3 5 7 16 20 30 44100 48000 64 100 800k 2M 96000 -1 -2 -16 1.25 0.5 -3dB \
16/9 30000/1001 25 00:00:01 fast veryslow film grain main high 4.1 good yuv420p yuv444p10le on off \
audio 20 in out clock black send_field tff interlaced fltp stereo bicubic lanczos ../x :/ -i";

/// Every option of an encoder with every value of the pool that it takes.
fn fitting(rows: Vec<OptionRow>, set: impl Fn(&str, &str) -> Set) -> Vec<Vec<String>> {
    let names = rows.iter().flat_map(|row| row.names.iter());
    let fits = names.flat_map(|name| {
        let values = POOL.split_whitespace().filter(|value| set(name, value) == Set::Done);
        values.map(|value| owned(&[name, value])).collect::<Vec<_>>()
    });
    fits.collect()
}

/// Texts of filters: the examples, and each with every pair of values of the pool that it takes.
fn texts(rows: &[FilterRow], fits: impl Fn(&str) -> bool) -> Vec<String> {
    let mut texts = Vec::new();
    for row in rows {
        texts.push(row.example.to_owned());
        let keys: Vec<_> = row.parameters.iter().map(|p| *p.keys.last().unwrap()).collect();
        for value in POOL.split_whitespace() {
            texts.extend(keys.iter().map(|key| format!("{}={key}={value}", row.name)));
            let several = row.parameters.iter().filter(|p| p.needed).count() > 1;
            for other in POOL.split_whitespace().filter(|_| several) {
                texts.extend(
                    keys.windows(2).map(|keys| {
                        format!("{}={}={value}:{}={other}", row.name, keys[0], keys[1])
                    }),
                );
            }
        }
    }
    texts.retain(|text| fits(text));
    texts
}

static VIDEO_FILTERS: LazyLock<Vec<String>> = LazyLock::new(|| {
    texts(&VideoFilter::rows(), |text| {
        let list = owned(&["-i", "{in0}", "-c:v", "libx264", "-an", "-vf", text, "{out0}"]);
        parse(Format::Mp4, &list).is_ok()
    })
});

static AUDIO_FILTERS: LazyLock<Vec<String>> = LazyLock::new(|| {
    texts(&AudioFilter::rows(), |text| {
        let list = owned(&["-i", "{in0}", "-vn", "-c:a", "aac", "-af", text, "{out0}"]);
        parse(Format::Mp4, &list).is_ok()
    })
});

fn video_options(codec: VideoCodec) -> Vec<Vec<String>> {
    let encoder = VideoEncoder::of(codec);
    let mut all = fitting(encoder.rows(), |n, v| VideoEncoder::of(codec).set(n, v));
    all.extend(fitting(Picture::rows(), |n, v| Picture::default().set(n, v)));
    all.push(owned(&["-c:v", encoder.name()]));
    all
}

fn audio_options(codec: AudioCodec) -> Vec<Vec<String>> {
    let encoder = AudioEncoder::of(codec);
    let mut all = fitting(encoder.rows(), |n, v| AudioEncoder::of(codec).set(n, v));
    all.extend(fitting(Sound::rows(), |n, v| Sound::default().set(n, v)));
    all.push(owned(&["-c:a", encoder.name()]));
    all
}

/// Lists of good parts in any order, now and then with a token that is none.
fn any_list() -> impl Strategy<Value = (Format, Vec<String>)> {
    let case = prop::sample::select(vec![
        (Format::Mp4, VideoCodec::H264, AudioCodec::Aac),
        (Format::Mkv, VideoCodec::H265, AudioCodec::Mp3),
        (Format::Mkv, VideoCodec::Vp9, AudioCodec::Opus),
    ]);
    case.prop_flat_map(|(format, video, audio)| {
        let (v, a) = (video_options(video), audio_options(audio));
        let chain = |texts: &'static LazyLock<Vec<String>>| {
            let text = prop::sample::select(texts.as_slice());
            prop::option::of(prop::collection::vec(text, 1..4).prop_map(|texts| texts.join(",")))
        };
        let more = [
            "-map 0:v:0 -map 0:a:0?",
            "-map 0:V:3 -map 0:a:7 -map 0:a:1",
            "-metadata title=x.1",
            "-metadata:s:a:0 language=deu",
            "-t 3.5",
            "-t 00:10:00",
            "-sn",
            "-dn",
            "-f mp4",
            "-movflags +faststart",
            "-y",
            "-report",
            "-ss 1",
            "/etc/passwd",
            "-crf",
        ];
        let more = prop::sample::subsequence(more.to_vec(), 0..4);
        let start = prop::sample::select(vec!["-i {in0}", "-ss 5 -i {in0}", "-t 1 -i {in0}"]);
        let (name, sound) = (VideoEncoder::of(video).name(), AudioEncoder::of(audio).name());
        let parts = (
            start,
            prop::collection::vec(prop::sample::select(v), 0..5),
            prop::collection::vec(prop::sample::select(a), 0..3),
            chain(&VIDEO_FILTERS),
            chain(&AUDIO_FILTERS),
            more,
        );
        parts.prop_map(move |(start, v, a, vf, af, more)| {
            let mut list = words(start);
            list.extend(owned(&["-c:v", name, "-c:a", sound]));
            // An encoder that is named once more is refused: keep some of the cases.
            list.extend(
                v.into_iter()
                    .chain(a)
                    .filter(|pair| pair[0].len() > 4 || pair[0] == "-g")
                    .flatten(),
            );
            list.extend(vf.into_iter().flat_map(|chain| ["-vf".to_owned(), chain]));
            list.extend(af.into_iter().flat_map(|chain| ["-af".to_owned(), chain]));
            list.extend(more.into_iter().flat_map(words));
            list.push("{out0}".to_owned());
            (format, list)
        })
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn new_07_whatever_is_accepted_is_accounted_for_and_reads_back((format, list) in any_list()) {
        if let Ok(tree) = parse(format, &list) {
            accounted::check(&tree, |list| parse(format, list).ok());
        }
    }

    #[test]
    fn arbitrary_tokens_break_nothing(
        list in prop::collection::vec("-?[a-z:/_]{0,6}|.{0,8}|\\{(in|out)0\\}|-i|-c:v|libx264", 0..9),
    ) {
        if let Ok(tree) = parse(Format::Mkv, &list) {
            accounted::check(&tree, |list| parse(Format::Mkv, list).ok());
        }
    }
}

/// The property is not empty: enough of what is generated is accepted.
#[test]
fn the_generator_makes_enough_lists_that_are_accepted() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let accepted = (0..500).filter(|_| {
        let (format, list) = any_list().new_tree(&mut runner).unwrap().current();
        parse(format, &list).is_ok()
    });
    let accepted = accepted.count();
    assert!(accepted > 50, "only {accepted} of 500");
}
