//! Valid clips: what the rest mutates, and the proof that a refusal is not for everything.

use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeMap, fs, process::Command};

/// The distribution's: it has test sources and every encoder, which ours has not.
pub(super) const FFMPEG: &str = "/usr/bin/ffmpeg";

/// One second, 128 x 96, in grey: whatever a mutation does to it, it does not become the canary.
const PICTURE: &str = "testsrc2=s=128x96:r=10:d=1,hue=s=0";

/// Below the canary's tone.
const SOUND: &str = "sine=frequency=440:duration=1";

/// Clips by name, and how FFmpeg makes them.
const RECIPES: &[(&str, &str)] = &[
    ("mp4", "-map 0 -map 1 -c:v libx264 -preset ultrafast -c:a aac -f mp4"),
    (
        "fragmented",
        "-map 0 -map 1 -c:v libx264 -preset ultrafast -c:a aac \
         -movflags empty_moov+frag_keyframe -f mp4",
    ),
    ("m4a", "-map 1 -c:a aac -f ipod"),
    ("mkv", "-map 0 -map 1 -c:v libx264 -preset ultrafast -c:a libopus -f matroska"),
    ("webm", "-map 0 -map 1 -c:v libvpx-vp9 -cpu-used 5 -deadline good -c:a libopus -f webm"),
    ("ts", "-map 0 -map 1 -c:v mpeg2video -c:a mp2 -f mpegts"),
    ("avi", "-map 0 -map 1 -c:v mpeg4 -c:a libmp3lame -f avi"),
    ("flv", "-map 0 -map 1 -c:v flv -c:a libmp3lame -ar 44100 -f flv"),
    ("wav", "-map 1 -f wav"),
    ("mp3", "-map 1 -c:a libmp3lame -f mp3"),
    ("aac", "-map 1 -c:a aac -f adts"),
    ("flac", "-map 1 -c:a flac -f flac"),
    ("ogg", "-map 0 -map 1 -c:v libtheora -c:a libvorbis -f ogg"),
    ("opus", "-map 1 -c:a libopus -f ogg"),
    ("png", "-map 0 -frames:v 1 -c:v png -f image2pipe"),
    ("jpg", "-map 0 -frames:v 1 -c:v mjpeg -pix_fmt yuvj420p -f image2pipe"),
    ("gif", "-map 0 -f gif"),
    ("h264", "-map 0 -c:v libx264 -preset fast -f mov"),
    ("hevc", "-map 0 -c:v libx265 -preset ultrafast -x265-params log-level=none -f mov"),
    ("av1", "-map 0 -c:v libaom-av1 -cpu-used 8 -usage realtime -f mp4"),
    ("vp9", "-map 0 -c:v libvpx-vp9 -cpu-used 5 -deadline good -f mp4"),
    ("vp8", "-map 0 -c:v libvpx -cpu-used 5 -deadline good -f matroska"),
    ("mpeg4", "-map 0 -c:v mpeg4 -f mov"),
    ("mpeg2", "-map 0 -c:v mpeg2video -f matroska"),
    ("theora", "-map 0 -c:v libtheora -f matroska"),
    ("prores", "-map 0 -c:v prores -f mov"),
    // A fixed quantizer: by rate control, what each of its threads wrote hung on when it ran.
    ("mjpeg", "-map 0 -c:v mjpeg -q:v 4 -pix_fmt yuvj420p -f mov"),
    ("aacmov", "-map 1 -c:a aac -f mov"),
    ("opusmka", "-map 1 -c:a libopus -f matroska"),
    ("vorbis", "-map 1 -c:a libvorbis -f matroska"),
    ("flacmka", "-map 1 -c:a flac -f matroska"),
    ("mp3mov", "-map 1 -c:a libmp3lame -f mov"),
    ("ac3", "-map 1 -c:a ac3 -f mov"),
    ("alac", "-map 1 -c:a alac -f mov"),
    ("srt", "-map 0 -map 2 -c:v libx264 -preset ultrafast -c:s srt -f matroska"),
    ("wide", "-map 0 -frames:v 2 -vf scale=8192:4320 -c:v libx264 -preset ultrafast -f mov"),
    ("thin", "-map 0 -frames:v 2 -vf scale=8192:16 -c:v libx264 -preset ultrafast -f mpegts"),
    ("dot", "-map 0 -frames:v 2 -vf scale=2:2 -c:v libx264 -preset ultrafast -f mov"),
    ("many", "-map 3 -c:v libx264 -preset ultrafast -f mov"),
];

/// The clips.
#[derive(Debug)]
pub(super) struct Clips(BTreeMap<&'static str, Vec<u8>>);

impl Clips {
    /// Makes all of them in one run of FFmpeg.
    pub(super) fn make() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let subtitles = dir.path().join("lines.srt");
        let line = format!("1\n00:00:00,000 --> 00:00:01,000\n{}\n\n", super::BAGGAGE_TEXT);
        fs::write(&subtitles, line)?;
        let mut command = Command::new(FFMPEG);
        command.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", PICTURE]);
        command.args(["-f", "lavfi", "-i", SOUND, "-i"]).arg(&subtitles);
        // 8192 x 4320 for ten seconds: small as a file, hours of work.
        command.args(["-f", "lavfi", "-i", "color=gray:s=8192x4320:r=1:d=3"]);
        for (name, recipe) in RECIPES {
            command.args(recipe.split(' ')).args(["-map_metadata", "-1", "-fflags", "+bitexact"]);
            command.args(["-flags:v", "+bitexact", "-flags:a", "+bitexact", "-threads", "2"]);
            command.arg(dir.path().join(name));
        }
        let made = command.output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &'static str| Ok((name, fs::read(dir.path().join(name))?));
        RECIPES.iter().map(|(name, _)| read(name)).collect::<Result<_>>().map(Self)
    }

    /// One clip.
    pub(super) fn get(&self, name: &str) -> Result<&[u8]> {
        self.0.get(name).map(Vec::as_slice).with_context(|| format!("no clip {name}"))
    }
}
