//! What holds for every tree that the parser of FFmpeg arguments accepts, whatever the text was:
//! the property test and the fuzz target call the same function.
//!
//! It shares no table with the parser or the compiler: constants are listed here once more.
#![allow(unreachable_pub, reason = "shared by a test and a fuzz target")]

use hotcell_schemas::{
    argv::{INPUT, OUTPUT, line},
    decoders::decoders,
    plan::{Container, Tree},
};

/// Constants of ours that stand alone.
const FLAGS: [&str; 6] = ["-hide_banner", "-nostdin", "-nostats", "-sn", "-dn", "-n"];

/// Constants of ours with the value that they must have; `#` is any number, `@` the demuxer, `%`
/// the decoders, `&` the two ways to run x265.
const FIXED: &[(&str, &str)] = &[
    ("-loglevel", "level+info"),
    ("-progress", "pipe:1"),
    ("-stats_period", "1"),
    ("-max_alloc", "#"),
    ("-filter_threads", "1"),
    ("-protocol_whitelist", "file"),
    ("-format_whitelist", "@"),
    ("-codec_whitelist", "%"),
    ("-max_streams", "#"),
    ("-enable_drefs", "0"),
    ("-use_absolute_path", "0"),
    ("-max_pixels", "#"),
    ("-threads", "#"),
    ("-map_metadata", "-1"),
    ("-map_chapters", "-1"),
    ("-threads:v", "#"),
    ("-x264-params", "sync-lookahead=0:lookahead-threads=1"),
    ("-x265-params", "&"),
    ("-tag:v", "hvc1"),
    ("-sws_flags", "bicubic+accurate_rnd+full_chroma_int+bitexact"),
    ("-fps_mode", "vfr"),
    ("-fflags", "+bitexact"),
    ("-flags:v", "+bitexact"),
    ("-flags:a", "+bitexact"),
];

/// Options of a tree whose value is one word or number.
const PLAIN: &str = "-ss -t -preset -crf -b:v -maxrate:v -bufsize:v -tune -profile:v -level:v -bf:v \
-refs:v -keyint_min:v -sc_threshold:v -deadline -cpu-used -row-mt -tile-columns -auto-alt-ref \
-lag-in-frames -pix_fmt -g -b:a -vbr -compression_level:a -frame_duration -application -q:a -ac -ar \
-c:v -c:a -f";

/// Words that may be values.
const WORDS: &str = "ultrafast superfast veryfast faster fast medium slow slower veryslow film \
animation grain stillimage fastdecode zerolatency baseline main high high10 high422 high444 main10 \
main422-10 main444-8 main444-10 good best yuv420p yuv422p yuv444p yuv420p10le yuv422p10le \
yuv444p10le off on constrained voip audio lowdelay libx264 libx265 libvpx-vp9 aac libopus libmp3lame \
mp4 ipod webm matroska mp3";

/// Words of chains: filters, parameters and values.
const CHAIN_WORDS: &str = "scale w h flags bicubic bilinear lanczos area neighbor accurate_rnd \
full_chroma_int bitexact fps crop x y pad color black white gray transpose dir clock cclock \
cclock_flip clock_flip hflip vflip setsar setdar format pix_fmts yuv420p yuv422p yuv444p yuv420p10le \
yuv422p10le yuv444p10le yadif mode parity deint send_frame send_field tff bff auto all interlaced \
fade t st d in out hqdn3d luma_spatial chroma_spatial luma_tmp chroma_tmp unsharp lx ly la volume \
loudnorm I LRA TP aresample sample_rate atempo tempo aformat sample_fmts sample_rates \
channel_layouts s16 s16p flt fltp mono stereo 5.1 afade highpass lowpass f";

/// Panics unless every token of the tree's command line is accounted for, and the rest of it, taken
/// as a tenant's arguments, is the same tree again.
pub fn check(tree: &Tree, parse: impl Fn(&[String]) -> Option<Tree>) {
    for container in [Container::Mp4, Container::Gif] {
        let argv = line(container, tree);
        let rest = rest(&argv, container);
        assert_eq!(parse(&rest).as_ref(), Some(tree), "{rest:?} is another tree");
    }
}

/// The tenant's part of a command line.
fn rest(argv: &[String], container: Container) -> Vec<String> {
    let mut rest = Vec::new();
    let mut tokens = argv.iter().map(String::as_str);
    let mut opened = false;
    while let Some(token) = tokens.next() {
        if FLAGS.contains(&token) {
            continue;
        }
        if token == OUTPUT {
            assert_eq!(tokens.next(), None, "something follows the output");
            let has = |option: &str| rest.iter().any(|token| token == option);
            let missing = [("-c:v", "-vn"), ("-c:a", "-an")].map(|(c, n)| (!has(c)).then_some(n));
            rest.extend(missing.into_iter().flatten().map(str::to_owned));
            rest.push(token.to_owned());
            continue;
        }
        let value = tokens.next().unwrap_or_else(|| panic!("{token} has no value"));
        if let Some((_, fixed)) = FIXED.iter().find(|(option, _)| *option == token) {
            let good = match *fixed {
                "#" => value.parse::<u32>().is_ok(),
                "@" => value == container.demuxer(),
                "%" => value == decoders(container),
                "&" => ["1", "2"]
                    .map(|n| format!("pools=4:frame-threads={n}:log-level=warning"))
                    .contains(&value.to_owned()),
                fixed => value == fixed,
            };
            assert!(good, "{token} {value}");
            continue;
        }
        if token == "-f" && !opened {
            assert_eq!(value, container.demuxer());
            continue;
        }
        opened |= token == "-i";
        assert!(accounted(token, value), "{token} {value}");
        rest.extend([token.to_owned(), value.to_owned()]);
    }
    assert_eq!(rest.last().map(String::as_str), Some(OUTPUT));
    rest
}

fn accounted(option: &str, value: &str) -> bool {
    let known = |words: &str, word: &str| words.split_whitespace().any(|known| known == word);
    if option.starts_with("-metadata") {
        let stream = option.strip_prefix("-metadata").unwrap_or(option);
        let digit = stream.strip_prefix(":s:a:").is_some_and(|n| n.len() == 1 && is_number(n));
        let text = |c: char| c.is_alphanumeric() || " .,'!?()&+-_#".contains(c);
        let (key, said) = value.split_once('=').unwrap_or_default();
        let keys = "title artist album genre date copyright description comment language";
        return (stream.is_empty() || stream == ":s:v:0" || digit)
            && known(keys, key)
            && said.starts_with(char::is_alphanumeric)
            && said.chars().all(text);
    }
    match option {
        "-i" => value == INPUT,
        "-map" => {
            let map = value.strip_suffix('?').unwrap_or(value);
            let number = ["0:v:", "0:V:", "0:a:"].iter().find_map(|kind| map.strip_prefix(kind));
            number.is_some_and(|number| number.len() <= 2 && is_number(number))
        }
        "-vf" | "-af" => value.split([',', ':', '=', '+']).all(|part| {
            let decibel = part.strip_suffix("dB").unwrap_or(part);
            let ratio = decibel.split_once('/').unwrap_or((decibel, "1"));
            known(CHAIN_WORDS, part)
                || is_number(ratio.0.strip_prefix('-').unwrap_or(ratio.0)) && is_number(ratio.1)
        }),
        "-movflags" => value.strip_prefix('+').is_some_and(|flags| {
            let words = "faststart frag_keyframe empty_moov default_base_moof";
            flags.split('+').all(|flag| known(words, flag))
        }),
        _ => known(PLAIN, option) && (known(WORDS, value) || is_number(value)),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.replacen('.', "", 1);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() <= 11
}
