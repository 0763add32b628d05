//! NEW-07: a tenant's own FFmpeg arguments, compiled as the validator does, run by our own FFmpeg in
//! real cells. Every filter and every encoder's options are in one of the jobs.

use crate::site::Site;
use hotcell_schemas::{
    Plan,
    argv::{agrees, line},
    plan::{
        Container, Sniffed,
        filter::{AudioFilter, Filter as _, VideoFilter},
    },
    report::Report,
};
use hotcell_validator::compile;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One job: format, arguments, codecs of the tracks, size of the picture.
type Case = (&'static str, &'static str, &'static [&'static str], Option<(u32, u32)>);

const CASES: [Case; 7] = [
    (
        "mp4",
        "-ss 0.5 -i {in0} -map 0:v:0 -map 0:a:0 -c:v libx264 -preset veryfast -crf 30 -tune film \
         -profile:v high -level 4.0 -bf 2 -refs 3 -g 30 -keyint_min 5 -sc_threshold 0 \
         -vf yadif=mode=send_frame:deint=interlaced,crop=160:120:0:0,hqdn3d=4:3:6:4.5,\
         unsharp=5:5:0.8,scale=320:-2:flags=lanczos,pad=400:300:-1:-1:black,transpose=clock,hflip,\
         vflip,setsar=1,fps=15,fade=t=in:st=0:d=0.5,format=yuv420p \
         -c:a aac -b:a 96k -ac 1 -ar 44100 -af volume=-3dB,highpass=f=80,lowpass=f=12000,\
         afade=t=in:st=0:d=0.5 -metadata title=Fenster -metadata:s:a:0 language=deu \
         -movflags +faststart -f mp4 {out0}",
        &["h264", "aac"],
        Some((300, 400)),
    ),
    (
        "mp4",
        "-i {in0} -c:v libx264 -b:v 200k -maxrate 300k -bufsize 600k -preset ultrafast \
         -pix_fmt yuv420p -c:a aac -movflags frag_keyframe+empty_moov+default_base_moof {out0}",
        &["h264", "aac"],
        Some((320, 240)),
    ),
    (
        "mkv",
        "-i {in0} -t 1.5 -c:v libx265 -preset ultrafast -crf 35 -tune fastdecode -profile:v main10 \
         -pix_fmt yuv420p10le -vf setdar=16/9,scale=w=160:h=120 -c:a libmp3lame -b:a 64k {out0}",
        &["hevc", "mp3"],
        Some((160, 120)),
    ),
    (
        "webm",
        "-t 1 -i {in0} -c:v libvpx-vp9 -deadline good -cpu-used 8 -row-mt 1 -tile-columns 0 -crf 45 \
         -b:v 0 -auto-alt-ref 1 -lag-in-frames 12 -vf scale=160:-2 -c:a libopus -b:a 48k -vbr on \
         -application audio -frame_duration 20 -compression_level 5 -af loudnorm=I=-16:TP=-1.5:LRA=11,\
         aresample=48000,aformat=channel_layouts=stereo {out0}",
        &["vp9", "opus"],
        Some((160, 120)),
    ),
    ("mp3", "-i {in0} -c:a libmp3lame -q:a 4 -af atempo=1.25 {out0}", &["mp3"], None),
    ("m4a", "-i {in0} -vn -c:a aac -b:a 128k -metadata artist=Niemand {out0}", &["aac"], None),
    ("mkv", "-i {in0} -c:v libx264 -preset ultrafast -an {out0}", &["h264"], Some((320, 240))),
];

/// Our own FFmpeg; a missing one fails the test.
fn ours(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/ffmpeg/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make ffmpeg`", path.display());
    path.canonicalize().unwrap()
}

fn clip() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    let sources = "-f lavfi -i testsrc=s=320x240:r=25:d=2 -f lavfi -i sine=d=2 -pix_fmt yuv420p";
    let mut command = Command::new("/usr/bin/ffmpeg");
    command.args(["-v", "error"]).args(sources.split_whitespace()).arg(&path);
    assert!(command.status().unwrap().success());
    fs::read(path).unwrap()
}

fn plan(number: usize, (format, arguments, ..): Case) -> Plan {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let body = serde_json::json!({"inputs": [{"url": "upload:clip.mp4"}],
        "outputs": [{"format": format, "ffmpegArgs": arguments}]});
    let seen = Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(320),
        height: Some(240),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms: Some(2000),
        protected: false,
    };
    let mut plan = compile(&serde_json::from_value(body).unwrap(), &seen).unwrap();
    plan.outputs[0].name = format!("out{number}.bin").parse().unwrap();
    assert!(agrees(&plan), "{arguments:?}");
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn new_07_a_tenant_s_own_arguments_encode_in_a_cell() {
    let site = Site::start(&ours("ffmpeg"), &ours("ffprobe")).await;
    let input = clip();
    for (number, case) in CASES.into_iter().enumerate() {
        site.order(&input, move |order| order.plan = plan(number, case));
    }
    let all = site.until("all reports", |seen| {
        let reports = seen.done.iter().map(|done| done.report.clone());
        (seen.done.len() == CASES.len()).then(|| reports.collect::<Vec<Report>>())
    });
    for (report, (format, arguments, codecs, size)) in site.work(all).await.iter().zip(CASES) {
        assert_eq!(report.failure, None, "{format}: {arguments}");
        let streams = &report.output.as_ref().unwrap().streams;
        let found: Vec<_> = streams.iter().map(|stream| stream.codec.as_str()).collect();
        assert_eq!(found, codecs, "{arguments}");
        assert_eq!(streams[0].width.zip(streams[0].height), size, "{arguments}");
    }
}

#[test]
fn every_filter_is_in_one_of_the_jobs() {
    let used: BTreeSet<String> = CASES.into_iter().flat_map(|case| plan(0, case).filters).collect();
    let rows = VideoFilter::rows().into_iter().chain(AudioFilter::rows());
    assert_eq!(used, rows.map(|row| row.name.to_owned()).collect());
}

/// A plan with a tree that was changed on its way is not obeyed: the command line must be the
/// tree's, and a tree cannot hold what the list does not have.
#[test]
fn zt_11_a_changed_tree_does_not_agree() {
    let plan = plan(0, CASES[0]);
    let text = serde_json::to_string(&plan).unwrap();
    for (from, to) in [
        ("\"veryfast\"", "\"placebo\""),
        ("\"crf\":30", "\"crf\":99"),
        ("\"Fenster\"", "\"a\\nb\""),
        ("\"Fenster\"", "\"/etc/passwd\""),
        ("\"hflip\":{}", "\"movie\":{}"),
        ("\"hflip\":{}", "\"hflip\":{\"file\":\"x\"}"),
        ("\"deu\"", "\"-i x\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from} is not in the plan");
        assert!(serde_json::from_str::<Plan>(&changed).is_err(), "{to} was read");
    }
    let other = text.replacen("\"crf\":30", "\"crf\":31", 1);
    assert!(!agrees(&serde_json::from_str(&other).unwrap()));
    assert_eq!(line(plan.input, &plan.outputs[0].tree()), plan.argv);
}
