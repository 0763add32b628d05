//! A job with FFmpeg's own arguments: every kind of leaf that a tree can have.

use super::jobs::{explicit_request, validated};
use hotcell_schemas::{
    Job, argv,
    plan::{
        Tree,
        encoder::{AudioEncoder, Options as _, Picture, Set, Sound, VideoEncoder},
        filter::{AudioFilter, Filter, Given, VideoFilter},
        tree::{Audio, Map, MovFlag, Muxer, Tag, Video, Window},
        value::Value,
    },
    request::{AudioCodec, Format, OutputRequest, TranscodeRequest, VideoCodec},
};

fn read<T: Value>(text: &str) -> T {
    T::read(text).unwrap()
}

fn filter<F: Filter>(name: &str, parameters: &[(&'static str, &'static str)]) -> F {
    let items = parameters.iter().map(|(key, value)| (Some(*key), *value)).collect();
    F::read(name, Given::new(items)).unwrap()
}

fn tree() -> Tree {
    let mut encoder = VideoEncoder::of(VideoCodec::H264);
    let mut picture = Picture::default();
    for (name, text) in [("-preset", "slow"), ("-crf", "21"), ("-level", "4.1"), ("-refs", "3")] {
        assert_eq!(encoder.set(name, text), Set::Done);
    }
    assert_eq!(picture.set("-g", "60"), Set::Done);
    let mut sound = Sound::default();
    assert_eq!(sound.set("-ac", "2"), Set::Done);
    let mut opus = AudioEncoder::of(AudioCodec::Aac);
    assert_eq!(opus.set("-b:a", "96k"), Set::Done);
    Tree {
        window: Window { seek: Some(read("1.5")), duration: None },
        maps: vec![read::<Map>("0:v:0"), read::<Map>("0:a:1?")],
        video: Some(Video {
            encoder,
            picture,
            filters: vec![
                filter("scale", &[("w", "640"), ("h", "-2")]),
                filter("fps", &[("fps", "30000/1001")]),
                filter::<VideoFilter>("hflip", &[]),
                filter("fade", &[("t", "in"), ("d", "0.5")]),
            ],
        }),
        audio: Some(Audio {
            encoder: opus,
            sound,
            filters: vec![filter::<AudioFilter>("volume", &[("volume", "-3dB")])],
        }),
        duration: Some(read("10")),
        tags: vec![
            Tag::read("-metadata", "title=Blick 2").unwrap(),
            Tag::read("-metadata:s:a:0", "language=deu").unwrap(),
        ],
        muxer: Muxer { format: Format::Mp4, flags: vec![MovFlag::Faststart] },
    }
}

/// Validated, with a tree in its plan.
pub(crate) fn own() -> Job {
    let mut job = validated();
    let line = "-ss 1.5 -i {in0} -map 0:v:0 -map 0:a:1? -c:v libx264 -c:a aac {out0}";
    job.request = TranscodeRequest {
        outputs: vec![OutputRequest {
            format: Format::Mp4,
            video: None,
            audio: None,
            ffmpeg_args: line.split(' ').map(str::to_owned).collect(),
        }],
        ..explicit_request()
    };
    let plan = job.plan.as_mut().unwrap();
    for output in &mut plan.outputs {
        (output.video, output.audio, output.raw) = (None, None, Some(tree()));
        (plan.argv, plan.filters) = argv::argv(plan.input, output);
    }
    job
}
