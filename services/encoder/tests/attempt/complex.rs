//! ZT-08: limits on what a header does not say and only the jailed prober sees. Transport streams
//! and FLV reach the worker with their length, and mostly with their picture's size, unknown.

use crate::site::Site;
use hotcell_schemas::{
    RejectCode, argv,
    limits::{DURATION_SECS_MAX, STREAMS_MAX},
    plan::Container,
};
use std::{fs, path::Path, process::Command};

const FFMPEG: &str = "/usr/bin/ffmpeg";
const FFPROBE: &str = "/usr/bin/ffprobe";

/// What FFmpeg makes of these arguments.
fn made(name: &str, line: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let args = line.split_whitespace();
    let made = Command::new(FFMPEG).args(["-v", "error"]).args(args).arg(&path).status().unwrap();
    assert!(made.success(), "{line}");
    fs::read(path).unwrap()
}

/// A second of picture whose last frames come five hours later.
fn long_ts() -> Vec<u8> {
    let jump = "-bsf:v setts=ts=if(gt(N\\,20)\\,TS+90000*18000\\,TS)";
    made("a.ts", &format!("-f lavfi -i testsrc=s=320x240:d=1 -c:v mpeg2video {jump}"))
}

/// A second of picture whose metadata say more than four hours.
fn long_flv() -> Vec<u8> {
    let mut bytes = made("a.flv", "-f lavfi -i testsrc=s=320x240:d=1 -c:v flv1");
    let name = b"duration\0";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    let secs = f64::from(DURATION_SECS_MAX) + 1.0;
    bytes[at..at + 8].copy_from_slice(&secs.to_be_bytes());
    bytes
}

/// One frame of 8192 x 4352: 32 lines too many.
fn large_ts() -> Vec<u8> {
    let picture = "-f lavfi -i color=s=8192x4352:d=1:r=1 -frames:v 1";
    made("a.ts", &format!("{picture} -c:v libx264 -preset ultrafast"))
}

/// One track too many.
fn wide_ts() -> Vec<u8> {
    let maps = "-map 0:a ".repeat(STREAMS_MAX + 1);
    made("a.ts", &format!("-f lavfi -i sine=d=0.3 {maps} -c:a mp2"))
}

#[tokio::test(flavor = "multi_thread")]
async fn zt_08_what_only_the_prober_sees_is_held_to_the_limits() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    let cases = [
        ("long.ts", Container::MpegTs, long_ts()),
        ("long.flv", Container::Flv, long_flv()),
        ("large.ts", Container::MpegTs, large_ts()),
        ("wide.ts", Container::MpegTs, wide_ts()),
    ];
    let test = async {
        for (number, (name, container, bytes)) in cases.into_iter().enumerate() {
            site.order(&bytes, move |order| {
                order.plan.input = container;
                let output = &order.plan.outputs[0];
                (order.plan.argv, order.plan.filters) = argv::argv(container, output);
            });
            let done = site.until(name, |seen| seen.done.get(number).cloned()).await;
            let failure = done.report.failure.unwrap();
            assert_eq!(failure.code, RejectCode::InputTooComplex, "{name}: {}", failure.message);
            assert!(done.report.encode.is_none(), "{name} was not encoded");
        }
    };
    site.work(test).await;
}
