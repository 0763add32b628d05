//! Outputs held to their plan: honest ones of every format pass, forged ones do not.

use crate::site::Site;
use hotcell_schemas::{
    RejectCode, argv,
    plan::{
        AudioPlan, Container, Effort, OutputPlan, Rate, Scale, Tree, VideoPlan,
        filter::{Filter, Given},
        tree::MovFlag,
        value::Value,
    },
    report::Report,
    request::{AudioCodec, Format, VideoCodec},
    work::WorkOrder,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

const FFMPEG: &str = "/usr/bin/ffmpeg";
const FFPROBE: &str = "/usr/bin/ffprobe";

const AAC: Option<AudioCodec> = Some(AudioCodec::Aac);

/// What FFmpeg makes of these arguments.
fn media(dir: &Path, name: &str, line: &str) -> Vec<u8> {
    let path = dir.join(name);
    let args = line.split_whitespace();
    let made =
        Command::new(FFMPEG).args(["-v", "error", "-y"]).args(args).arg(&path).status().unwrap();
    assert!(made.success(), "{line}");
    fs::read(path).unwrap()
}

/// Orders `output` of an input in `container`, under a name of its own.
fn planned(
    number: usize,
    container: Container,
    format: Format,
    video: Option<(VideoCodec, Scale)>,
    audio: Option<AudioCodec>,
) -> impl Fn(&mut WorkOrder) + Send + 'static {
    let video = video.map(|(codec, scale)| {
        let rate = Rate::Crf(35);
        VideoPlan { codec, rate, effort: Effort::Fast, scale }
    });
    let audio = audio.map(|codec| AudioPlan { codec, bitrate: 64_000 });
    let name = format!("out{number}.bin").parse().unwrap();
    let content_type = "video/mp4".to_owned();
    let output = OutputPlan { name, format, content_type, video, audio, raw: None };
    move |order| {
        let (argv, filters) = argv::argv(container, &output);
        let (outputs, limits) = (vec![output.clone()], order.plan.limits);
        order.plan.input = container;
        (order.plan.argv, order.plan.filters, order.plan.outputs) = (argv, filters, outputs);
        order.plan.limits = limits;
    }
}

/// The reports on all orders of a site, in order.
async fn reports(site: &Site, count: usize) -> Vec<Report> {
    let all = site.until("all reports", |seen| {
        let reports = seen.done.iter().map(|done| done.report.clone());
        (seen.done.len() == count).then(|| reports.collect())
    });
    site.work(all).await
}

/// Inputs whose honest outputs differ from what their headers say at first sight.
const INPUTS: [(&str, Container, &str, bool); 9] = [
    (
        "odd.mp4",
        Container::Mp4,
        "-f lavfi -i testsrc=s=321x241:r=30000/1001:d=3 -f lavfi -i sine=d=2 -pix_fmt yuv444p",
        true,
    ),
    (
        "more.mkv",
        Container::Matroska,
        "-f lavfi -i testsrc=s=320x180:d=2 -f lavfi -i sine=d=3 -f lavfi -i sine=d=3 \
         -map 0 -map 1 -map 2 -c:v libvpx-vp9 -cpu-used 8 -c:a libopus",
        true,
    ),
    (
        "late.ts",
        Container::MpegTs,
        "-f lavfi -i testsrc=s=320x240:d=2 -output_ts_offset 700",
        false,
    ),
    ("slides.gif", Container::Gif, "-f lavfi -i testsrc=s=320x240:r=0.2:d=10", false),
    ("still.png", Container::Png, "-f lavfi -i testsrc=s=64x64 -frames:v 1 -f image2", false),
    (
        "a.flv",
        Container::Flv,
        "-f lavfi -i testsrc=s=320x240:d=2 -f lavfi -i sine=d=2 -ar 44100",
        true,
    ),
    ("a.wav", Container::Wav, "-f lavfi -i sine=d=2", true),
    ("a.mp3", Container::Mp3, "-f lavfi -i sine=d=2", true),
    ("a.aac", Container::Aac, "-f lavfi -i sine=d=2", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_honest_output_is_as_planned() {
    use {Format as F, Scale as S, VideoCodec as V};
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    let dir = tempfile::tempdir().unwrap();
    let mut expect = Vec::new();
    for (name, container, line, has_sound) in INPUTS {
        let input = media(dir.path(), name, line);
        let pictures: &[_] = match container {
            Container::Wav | Container::Mp3 | Container::Aac => &[],
            Container::Mp4 => &[
                (F::Mp4, V::H264, S::Source, AAC),
                (F::Mp4, V::H265, S::Height(100), AAC),
                (F::Mkv, V::Vp9, S::Width(110), Some(AudioCodec::Mp3)),
                (F::Webm, V::Vp9, S::Exact(64, 48), Some(AudioCodec::Opus)),
                (F::Mp4, V::H264, S::Height(120), None),
            ],
            Container::Matroska
            | Container::MpegTs
            | Container::Avi
            | Container::Flv
            | Container::Flac
            | Container::Ogg
            | Container::Png
            | Container::Jpeg
            | Container::Gif => &[
                (F::Mp4, V::H264, S::Source, AAC),
                (F::Mkv, V::H264, S::Height(50), AAC),
                (F::Webm, V::Vp9, S::Width(90), Some(AudioCodec::Opus)),
            ],
        };
        let mut order = |format, video, audio| {
            let change = planned(expect.len(), container, format, video, audio);
            site.order(&input, change);
            expect.push(format!("{name} to {format:?}"));
        };
        for (format, codec, scale, audio) in pictures {
            order(*format, Some((*codec, *scale)), *audio);
        }
        if has_sound {
            order(F::Mp3, None, Some(AudioCodec::Mp3));
            order(F::M4a, None, AAC);
        }
    }
    for (what, report) in expect.iter().zip(reports(&site, expect.len()).await) {
        assert_eq!(report.failure, None, "{what}: {:?} {:?}", report.input, report.output);
        let verify = report.verify.unwrap();
        assert!(verify.bytes_in > 0 && verify.violation.is_none(), "{what}: {verify:?}");
        let encode = report.encode.unwrap();
        // Counted as the disk counts: whole blocks.
        assert!(encode.bytes_out >= report.files[0].size, "{what}: {encode:?}");
        assert!(encode.bytes_in > 0 && encode.memory_bytes_max > 1 << 20, "{what}: {encode:?}");
    }
}

/// A filter of the tree by its text.
fn filter<F: Filter>(text: &str) -> F {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let given = value.split(':').filter(|part| !part.is_empty());
    let given = given.map(|part| match part.split_once('=') {
        Some((key, value)) => (Some(key), value),
        None => (None, part),
    });
    F::read(name, Given::new(given.collect())).unwrap()
}

/// What a tenant's own arguments change: sizes, lengths, tracks. FFmpeg's arithmetic is the rule's.
#[tokio::test(flavor = "multi_thread")]
async fn what_own_arguments_make_is_as_planned() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    let dir = tempfile::tempdir().unwrap();
    let line = "-f lavfi -i testsrc=s=322x182:r=25:d=8 -f lavfi -i sine=d=8 -f lavfi -i sine=d=5 \
                -map 0 -map 1 -map 2 -pix_fmt yuv420p -preset ultrafast";
    let (mp4, mkv) = (media(dir.path(), "a.mp4", line), media(dir.path(), "a.mkv", line));
    let shapes = [
        "crop=200:100",
        "crop=201:101 scale=w=-2:h=50",
        "pad=400:300:-1:-1",
        "transpose=clock scale=w=100:h=-2",
        "fps=5",
        "scale=w=97:h=-2 pad=98:98",
        "yadif=mode=send_field hflip",
    ];
    let mut expect = Vec::new();
    let mut order =
        |what: &str, (container, input): (Container, &[u8]), change: &dyn Fn(&mut Tree)| {
            let video = Some((VideoCodec::H264, Scale::Source));
            let preset = planned(expect.len(), container, Format::Mp4, video, AAC);
            let mut tree = preset_tree();
            change(&mut tree);
            site.order(input, move |order| {
                preset(order);
                let output = &mut order.plan.outputs[0];
                (output.video, output.audio, output.raw) = (None, None, Some(tree.clone()));
                (order.plan.argv, order.plan.filters) = argv::argv(container, output);
            });
            expect.push(what.to_owned());
        };
    for shape in shapes {
        order(shape, (Container::Mp4, &mp4), &|tree| {
            tree.video.as_mut().unwrap().filters = shape.split(' ').map(filter).collect();
        });
    }
    for (container, input) in [(Container::Mp4, &mp4), (Container::Matroska, &mkv)] {
        let input = (container, input.as_slice());
        order("seek", input, &|tree| tree.window.seek = Value::read("2.5"));
        order("part", input, &|tree| {
            tree.window.seek = Value::read("3");
            tree.window.duration = Value::read("2");
        });
        order("beyond", input, &|tree| tree.window.duration = Value::read("100"));
        order("cut", input, &|tree| tree.duration = Value::read("1.5"));
        order("two tracks", input, &|tree| tree.maps.push(Value::read("0:a:1").unwrap()));
        order("the short track", input, &|tree| tree.maps[1] = Value::read("0:a:1").unwrap());
        order("no such track", input, &|tree| tree.maps[1] = Value::read("0:a:7?").unwrap());
        order("tempo", input, &|tree| {
            tree.audio.as_mut().unwrap().filters = vec![filter("atempo=2")];
        });
        order("fragments", input, &|tree| {
            tree.muxer.flags = vec![MovFlag::FragKeyframe, MovFlag::EmptyMoov];
            tree.maps.truncate(1);
            tree.audio = None;
        });
    }
    for (what, report) in expect.iter().zip(reports(&site, expect.len()).await) {
        assert_eq!(report.failure, None, "{what}: {:?}", report.output);
    }
}

/// The tree of H.264 as large as the input, with its sound.
fn preset_tree() -> Tree {
    let output = OutputPlan {
        name: "out.bin".parse().unwrap(),
        format: Format::Mp4,
        content_type: "video/mp4".to_owned(),
        video: Some(VideoPlan {
            codec: VideoCodec::H264,
            rate: Rate::Crf(35),
            effort: Effort::Fast,
            scale: Scale::Source,
        }),
        audio: Some(AudioPlan { codec: AudioCodec::Aac, bitrate: 64_000 }),
        raw: None,
    };
    output.tree()
}

/// A phone's film: the header's picture lies on its side, players and FFmpeg turn it.
#[tokio::test(flavor = "multi_thread")]
async fn a_turned_film_is_as_planned() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    let dir = tempfile::tempdir().unwrap();
    let flat = "-f lavfi -i testsrc=s=320x180:d=1 -pix_fmt yuv420p";
    media(dir.path(), "flat.mp4", flat);
    let turn = format!("-i {}/flat.mp4 -c copy -metadata:s:v rotate=90", dir.path().display());
    let turned = media(dir.path(), "turned.mp4", &turn);
    for (number, scale) in [Scale::Source, Scale::Height(160), Scale::Width(90)].iter().enumerate()
    {
        let video = Some((VideoCodec::H264, *scale));
        site.order(&turned, planned(number, Container::Mp4, Format::Mp4, video, None));
    }
    for (report, size) in reports(&site, 3).await.iter().zip([(180, 320), (90, 160), (90, 160)]) {
        assert_eq!(report.failure, None);
        let stream = &report.output.as_ref().unwrap().streams[0];
        assert_eq!((stream.width, stream.height), (Some(size.0), Some(size.1)));
    }
}

/// The forger under a name that says what it does.
pub(crate) fn forger(dir: &TempDir, what: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/forger.rs");
    let program = dir.path().join(format!("forger-{what}"));
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-C", "opt-level=0", "-o"])
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(built.success(), "the forger does not compile");
    program
}

/// An honest file with a forged one behind it; prober and player see the first alone.
fn with_tail(honest: &[u8], forged: &[u8]) -> Vec<u8> {
    let size = u64::try_from(forged.len()).unwrap().to_le_bytes();
    [honest, forged, &size].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_not_what_was_planned_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start(&forger(&dir, "tail"), Path::new(FFPROBE)).await;
    let clip = |name: &str, secs: u32, size: &str, line: &str| {
        let line = format!(
            "-f lavfi -i testsrc=s={size}:d={secs} -f lavfi -i sine=d={secs} -pix_fmt yuv420p {line}"
        );
        media(dir.path(), name, &line)
    };
    let honest = clip("honest.mp4", 10, "160x120", "-preset ultrafast");
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let forged = [
        (clip("good.mp4", 10, "160x120", ""), None),
        (clip("codec.mp4", 10, "160x120", "-c:v mpeg4"), Some("video in mpeg4 where h264")),
        (clip("sound.mp4", 10, "160x120", "-c:a mp3"), Some("audio in mp3 where aac")),
        (clip("size.mp4", 10, "162x120", ""), Some("pictures of 162x120 where 160x120")),
        (clip("short.mp4", 2, "160x120", ""), Some("where at least")),
        (clip("long.mp4", 23, "160x120", ""), Some("where at most")),
        (clip("mute.mp4", 10, "160x120", "-an"), Some("0 audio tracks where 1")),
        (clip("more.mp4", 10, "160x120", "-map 0 -map 1 -map 1"), Some("2 audio tracks where 1")),
        (clip("other.webm", 10, "160x120", "-cpu-used 8"), Some("cannot be read")),
        (cut(&clip("cut.mp4", 10, "160x120", "")), Some("cannot be read")),
        (b"#EXTM3U\n/etc/passwd\n".to_vec(), Some("cannot be read")),
    ];
    for (number, (bytes, _)) in forged.iter().enumerate() {
        let video = Some((VideoCodec::H264, Scale::Source));
        let change = planned(number, Container::Mp4, Format::Mp4, video, AAC);
        site.order(&with_tail(&honest, bytes), change);
    }
    let reports = reports(&site, forged.len()).await;
    for (number, (report, (_, words))) in reports.iter().zip(&forged).enumerate() {
        let failure = report.failure.as_ref();
        let said = failure.map(|failure| (failure.code, failure.message.as_str()));
        match words {
            None => assert_eq!(said, None, "an honest tail passes, so it is the file that fails"),
            Some(words) => {
                let (code, message) = said.unwrap();
                assert_eq!(code, RejectCode::OutputInvalid, "{words}: {message}");
                assert!(message.contains(words), "{words}: {message}");
                assert!(message.starts_with(&format!("out{number}.bin ")), "{message}");
                assert!(report.files.is_empty(), "nothing of it is stored");
            }
        }
    }
    let stored = site.seen.lock().unwrap().objects.keys().filter(|key| key.contains("out")).count();
    assert_eq!(stored, 1, "the honest one");
}

/// Each death has its code; what the kernel counted is in the report.
#[tokio::test(flavor = "multi_thread")]
async fn zt_16_a_program_that_was_taken_over_dies_with_its_own_code() {
    let rows = [
        ("socket", RejectCode::CellViolation),
        ("crash", RejectCode::CellCrashed),
        ("hog", RejectCode::ResourceMemory),
        ("nothing", RejectCode::EncodeFailed),
    ];
    for (what, code) in rows {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::start(&forger(&dir, what), Path::new(FFPROBE)).await;
        let line = "-f lavfi -i testsrc=s=160x120:d=1 -pix_fmt yuv420p";
        let video = Some((VideoCodec::H264, Scale::Source));
        let change = planned(0, Container::Mp4, Format::Mp4, video, None);
        site.order(&media(dir.path(), "a.mp4", line), move |order| {
            change(order);
            order.plan.limits.memory_bytes = 512 << 20;
        });
        let [report] = reports(&site, 1).await.try_into().unwrap();
        let failure = report.failure.unwrap();
        assert_eq!(failure.code, code, "{what}: {} {:?}", failure.message, report.encode);
        let used = report.encode.unwrap();
        assert_eq!(used.violation.is_some(), code == RejectCode::CellViolation, "{used:?}");
        if let Some(call) = used.violation {
            assert_eq!(call, "socket", "by name, not by signal alone");
            assert!(failure.message.ends_with(&call), "{}", failure.message);
        }
    }
}
