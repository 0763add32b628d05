//! The decoders that may open a track of each container: what FFmpeg's `-codec_whitelist` gets.
//!
//! Promises: a decoder is reachable only from a container that honestly carries its codec; a PNG
//! reaches one decoder of the seventy. Refuses to guess a decoder for a single track: a plan is
//! compiled and signed before any decoder sees the input, and is not changed by what a prober,
//! presumed hostile, says later. FFmpeg picks from these names by the codec that the container
//! states, and by nothing else.
//!
//! Names are FFmpeg's `-decoders`. Where it has two for one codec, both are here, because builds
//! differ in which they have.

use crate::plan::Container;

/// Sound without packets of its own.
const PCM: &str = "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,\
pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw";

/// MPEG audio, layers 2 and 3.
const MPEG_AUDIO: &str = "mp3,mp3float,mp2,mp2float";

/// Cover art, as ID3, FLAC and Vorbis carry it. Other kinds are refused.
const COVERS: &str = "mjpeg,png,gif";

/// What any general container carries.
const COMMON: &str = "h264,hevc,libdav1d,av1,vp8,vp9,mpeg1video,mpeg2video,mpeg4,h263,\
theora,prores,dnxhd,mjpeg,png,gif,rawvideo,\
aac,ac3,eac3,opus,vorbis,flac,alac,adpcm_ima_wav,adpcm_ms";

/// Codecs that only Microsoft's four-letter codes name, in AVI and what took its codes over.
const FOURCC: &str = "msmpeg4v2,msmpeg4,flv,vp6f";

/// Decoders for pictures and sound.
#[must_use]
pub fn decoders(container: Container) -> String {
    let parts: &[&str] = match container {
        Container::Mp4 => &[COMMON, MPEG_AUDIO, PCM],
        Container::Matroska | Container::Avi => &[COMMON, FOURCC, MPEG_AUDIO, PCM],
        Container::MpegTs => &[
            "h264,hevc,libdav1d,av1,mpeg1video,mpeg2video,mpegvideo,mpeg4,aac,ac3,eac3,opus",
            MPEG_AUDIO,
        ],
        Container::Flv => {
            &["flv,vp6f,h264,h263,mpeg4,aac,pcm_u8,pcm_s16le,pcm_s16be,pcm_alaw,pcm_mulaw", MP3]
        }
        Container::Wav => &[PCM, "adpcm_ima_wav,adpcm_ms,aac,ac3", MPEG_AUDIO, COVERS],
        Container::Mp3 => &[MPEG_AUDIO, COVERS],
        Container::Aac => &["aac", COVERS],
        Container::Flac => &["flac", COVERS],
        Container::Ogg => &["theora,vp8,vorbis,opus,flac", COVERS],
        Container::Png => &["png"],
        Container::Jpeg => &["mjpeg"],
        Container::Gif => &["gif"],
    };
    parts.join(",")
}

/// MPEG audio, layer 3.
const MP3: &str = "mp3,mp3float";

/// Decoders for subtitles, which only the prober opens: it opens every track, and gives up when it
/// may not open one.
#[must_use]
pub const fn subtitle_decoders(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "mov_text,webvtt,cc_dec,dvdsub,text",
        Container::Matroska => "subrip,srt,ass,ssa,webvtt,pgssub,dvdsub,dvbsub,text",
        Container::MpegTs => "dvbsub,pgssub,cc_dec",
        Container::Avi => "subrip,srt,ass,ssa",
        Container::Flv | Container::Ogg => "text,srt",
        Container::Wav
        | Container::Mp3
        | Container::Aac
        | Container::Flac
        | Container::Png
        | Container::Jpeg
        | Container::Gif => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_name_is_there_once_and_a_picture_reaches_one_decoder() {
        for container in Container::ALL {
            let (text, subtitles) = (decoders(container), subtitle_decoders(container));
            let names: Vec<&str> = text.split(',').chain(subtitles.split(',')).collect();
            let different: BTreeSet<_> = names.iter().collect();
            assert_eq!(different.len(), names.len(), "{container:?}: {text}");
        }
        for (container, only) in
            [(Container::Png, "png"), (Container::Jpeg, "mjpeg"), (Container::Gif, "gif")]
        {
            assert_eq!(decoders(container), only);
        }
    }
}
