//! From the settings of presets and explicit outputs to the tree.
//!
//! Promises: pure; the tree of the same settings is the same for ever, because replays of old jobs
//! compare their command lines. A number that no validator lets through is taken as the nearest
//! that the tree can hold.

use super::{
    AudioPlan, Effort, OutputPlan, Rate, Scale, VideoPlan,
    encoder::{
        Aac, AudioEncoder, Channels, Deadline, Mp3, Opus, Picture, Preset, Sound, Switch,
        VideoEncoder, Vp9, X264, X265,
    },
    filter::{Method, PixelFormat, SampleRate, Scaler, Side, VideoFilter},
    tree::{Audio, Map, MovFlag, Muxer, StreamKind, Tree, Video, Window},
    value::{Bits, Num, Ratio},
};
use crate::request::{AudioCodec, Format, VideoCodec};

/// Frames from one key frame to the next, at most: eight seconds at 30 frames per second.
const KEY_FRAME_INTERVAL_MAX: u32 = 240;

impl OutputPlan {
    /// The tree: the request's own arguments where it gave some, else that of its settings.
    #[must_use]
    pub fn tree(&self) -> Tree {
        if let Some(tree) = &self.raw {
            return tree.clone();
        }
        let faststart = matches!(self.format, Format::Mp4 | Format::M4a);
        Tree {
            window: Window::default(),
            maps: maps(self.video.is_some(), self.audio.is_some()),
            video: self.video.as_ref().map(video),
            audio: self.audio.as_ref().map(audio),
            duration: None,
            tags: Vec::new(),
            muxer: Muxer {
                format: self.format,
                flags: if faststart { vec![MovFlag::Faststart] } else { Vec::new() },
            },
        }
    }
}

/// The streams that are taken where none are named: the first picture, which must be there, and the
/// first sound, which must be there when it is all that is asked for.
#[must_use]
pub fn maps(video: bool, audio: bool) -> Vec<Map> {
    let first = |kind, optional| Map { kind, index: Num::nearest(0), optional };
    let video_map = video.then(|| first(StreamKind::Picture, false));
    let audio_map = audio.then(|| first(StreamKind::Audio, video));
    video_map.into_iter().chain(audio_map).collect()
}

fn video(plan: &VideoPlan) -> Video {
    let encoder = match plan.codec {
        VideoCodec::H264 => VideoEncoder::H264(X264 {
            preset: Some(preset(plan.effort)),
            crf: crf(plan.rate),
            bitrate: bits(plan.rate),
            ..X264::default()
        }),
        VideoCodec::H265 => VideoEncoder::H265(X265 {
            preset: Some(preset(plan.effort)),
            crf: crf(plan.rate),
            // No buffer model beside the target: x265's is not repeatable with frame threads.
            bitrate: bits(plan.rate),
            ..X265::default()
        }),
        VideoCodec::Vp9 => VideoEncoder::Vp9(Vp9 {
            deadline: Some(Deadline::Good),
            cpu_used: Some(Num::nearest(cpu_used(plan.effort))),
            row_threads: Some(Switch::On),
            tile_columns: Some(Num::nearest(1)),
            crf: crf(plan.rate),
            bitrate: bits(plan.rate).or_else(|| Some(Bits(Num::nearest(0)))),
            ..Vp9::default()
        }),
    };
    let picture = Picture {
        pixels: Some(PixelFormat::Yuv420),
        key_max: Some(Num::nearest(KEY_FRAME_INTERVAL_MAX)),
    };
    Video { encoder, picture, filters: scale(plan.scale) }
}

fn audio(plan: &AudioPlan) -> Audio {
    let encoder = match plan.codec {
        AudioCodec::Aac => {
            AudioEncoder::Aac(Aac { bitrate: Some(Bits(Num::nearest(plan.bitrate))) })
        }
        AudioCodec::Opus => AudioEncoder::Opus(Opus {
            bitrate: Some(Bits(Num::nearest(plan.bitrate))),
            ..Opus::default()
        }),
        AudioCodec::Mp3 => AudioEncoder::Mp3(Mp3 {
            bitrate: Some(Bits(Num::nearest(plan.bitrate))),
            ..Mp3::default()
        }),
    };
    // The one rate that all three take, and channels: libopus refuses some layouts of AAC inputs.
    let sound = Sound { channels: Some(Channels::Stereo), rate: Some(SampleRate::Hz48000) };
    Audio { encoder, sound, filters: Vec::new() }
}

fn scale(scale: Scale) -> Vec<VideoFilter> {
    let of = |width, height| {
        let scaler = Scaler(Method::Bicubic);
        VideoFilter::Scale { width, height, scaler }
    };
    let wide = |side| Side::<true>::Pixels(Num::nearest(side));
    let high = |side| Side::<false>::Pixels(Num::nearest(side));
    match scale {
        Scale::Source => vec![of(Side::Even, Side::Even)],
        Scale::Height(height) => vec![of(Side::Shape, high(height))],
        Scale::Width(width) => vec![of(wide(width), Side::Shape)],
        Scale::Exact(width, height) => {
            // Square pixels: who asks for exactly this size does not want it bent back on display.
            let ratio = Ratio { over: Num::nearest(1), under: Num::nearest(1) };
            vec![of(wide(width), high(height)), VideoFilter::SetSar { ratio }]
        }
    }
}

fn crf<const MIN: i32, const MAX: i32>(rate: Rate) -> Option<Num<MIN, MAX>> {
    match rate {
        Rate::Crf(crf) => Some(Num::nearest(crf.into())),
        Rate::Bitrate(_) => None,
    }
}

fn bits<const MIN: i32, const MAX: i32>(rate: Rate) -> Option<Bits<MIN, MAX>> {
    match rate {
        Rate::Crf(_) => None,
        Rate::Bitrate(bits) => Some(Bits(Num::nearest(bits))),
    }
}

/// x264's and x265's name for an effort.
const fn preset(effort: Effort) -> Preset {
    match effort {
        Effort::Fast => Preset::Fast,
        Effort::Medium => Preset::Medium,
        Effort::Slow => Preset::Slow,
    }
}

/// libvpx's number for an effort, near the time that x264 takes at the same one.
const fn cpu_used(effort: Effort) -> u32 {
    match effort {
        Effort::Fast => 5,
        Effort::Medium => 4,
        Effort::Slow => 2,
    }
}
