//! Known ways to make FFmpeg read or write what it was not meant to, by its own arguments: what
//! the parser says to each, and for many of them that plain FFmpeg does it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use clip::{DISTRIBUTION, dir, make, run_in};
use hotcell_schemas::request::Format;
use hotcell_validator::raw::parse;
use std::{fs, path::Path};

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn owned(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|token| (*token).to_owned()).collect()
}

/// NEW-07, ZT-11: each bypass that is known, put between a good beginning and a good end; where it
/// is refused, counted from its first token, and a part of the sentence.
const BYPASSES: &[(&[&str], usize, &str)] = &[
    // Stream specifiers, abbreviations and spellings that FFmpeg knows.
    (&["-c:v:0", "libx264"], 0, "stream specifier"),
    (&["-filter:v:1", "scale=64:64"], 0, "stream specifier"),
    (&["-b:v:0", "800k"], 0, "stream specifier"),
    (&["-b:v:m:language:eng", "800k"], 0, "stream specifier"),
    (&["-map_metadata:s:v:0", "0:s:v:0"], 0, "stream specifier"),
    (&["-metadata:g", "title=x"], 0, "stream specifier"),
    (&["-metadata:s:a:8", "title=x"], 0, "stream specifier"),
    (&["-vcod", "libx264"], 0, "not on the list"),
    (&["--crf", "20"], 0, "not on the list"),
    (&["-CRF", "20"], 0, "not on the list"),
    (&["-crf ", "20"], 0, "not on the list"),
    (&["-crf=20"], 0, "not on the list"),
    (&["-noautorotate"], 0, "not on the list"),
    (&["-nostdin"], 0, "set by hotcell"),
    (&["-noaccurate_seek"], 0, "not on the list"),
    (&["\u{2212}crf", "20"], 0, "an option is expected"),
    (&["-\u{0441}rf", "20"], 0, "not on the list"),
    (&["-crf", "\u{ff12}0"], 1, "whole number"),
    (&["-crf", "20\0"], 1, "control character"),
    (&["-crf", "20\n"], 1, "control character"),
    (&["-crf\u{200b}", "20"], 0, "not on the list"),
    (&["-crf", ""], 1, "empty"),
    // Values from files, and files of FFmpeg's own.
    (&["-/filter:v", "/etc/passwd"], 0, "from a file"),
    (&["-/metadata", "/etc/passwd"], 0, "from a file"),
    (&["-filter_script:v", "/etc/passwd"], 0, "stream specifier"),
    (&["-filter_script", "/etc/passwd"], 0, "reads a file"),
    (&["-filter_complex_script", "/etc/passwd"], 0, "reads a file"),
    (&["-vpre", "/etc/passwd"], 0, "reads a file"),
    (&["-fpre", "/etc/passwd"], 0, "reads a file"),
    (&["-attach", "/etc/passwd"], 0, "reads a file"),
    (&["-dump_attachment", "/tmp/x"], 0, "writes a file"),
    (&["-dump_attachment:t", ""], 1, "empty"),
    (&["-report"], 0, "writes a file"),
    (&["-vstats"], 0, "writes a file"),
    (&["-vstats_file", "/tmp/x"], 0, "writes a file"),
    (&["-sdp_file", "/tmp/x"], 0, "writes a file"),
    (&["-pass", "1"], 0, "file between its passes"),
    (&["-passlogfile", "/tmp/x"], 0, "writes a file"),
    (&["-progress", "http://127.0.0.1/"], 0, "writes a file or to an address"),
    (&["-stats_enc_pre", "/tmp/x"], 0, "writes a file"),
    (&["-x264-params", "stats=/tmp/x"], 0, "name files"),
    (&["-x264opts", "qpfile=/etc/passwd"], 0, "name files"),
    (&["-x265-params", "analysis-save=/tmp/x"], 0, "name files"),
    (&["-metadata", "title=a\n;FFMETADATA1"], 1, "control character"),
    (&["-metadata", "title=;FFMETADATA1"], 1, "letters, digits"),
    (&["-metadata", "title=/etc/passwd"], 1, "letters, digits"),
    (&["-metadata", "title=http:x"], 1, "letters, digits"),
    (&["-metadata", "title="], 1, "letters, digits"),
    (&["-metadata", "title"], 1, "letters, digits"),
    (&["-metadata", "encoder=x"], 1, "letters, digits"),
    (&["-metadata", "location=+52.5+13.4"], 1, "letters, digits"),
    (&["-metadata", "title=\u{202e}4pm"], 1, "letters, digits"),
    (&["-metadata:s:v:0", "rotate=90"], 1, "letters, digits"),
    (&["-map_metadata", "1"], 0, "set by hotcell"),
    (&["-map_chapters", "0"], 0, "set by hotcell"),
    // Limits, devices and switches of the program.
    (&["-protocol_whitelist", "file,http"], 0, "limit of the cell"),
    (&["-safe", "0"], 0, "limit of the cell"),
    (&["-max_alloc", "99999999999"], 0, "limit of the cell"),
    (&["-enable_drefs", "1"], 0, "limit of the cell"),
    (&["-init_hw_device", "vaapi=x:/dev/dri/card0"], 0, "device"),
    (&["-hwaccel", "auto"], 0, "device"),
    (&["-loglevel", "report"], 0, "set by hotcell"),
    (&["-v", "trace"], 0, "set by hotcell"),
    (&["-y"], 0, "set by hotcell"),
    (&["-sws_flags", "print_info"], 0, "set by hotcell"),
    (&["-threads", "512"], 0, "set by hotcell"),
    (&["-fflags", "+discardcorrupt"], 0, "set by hotcell"),
    (&["-re"], 0, "without end"),
    (&["-stream_loop", "-1"], 0, "without end"),
    (&["-bsf:v", "filter_units=remove_types=6"], 0, "behind the encoder"),
    (&["-L"], 0, "not on the list"),
    (&["-sources", "v4l2"], 0, "not on the list"),
    // Other inputs and outputs.
    (&["/tmp/second.mp4"], 0, "an option is expected"),
    (&["file:/tmp/second.mp4"], 0, "an option is expected"),
    (&["{in0}"], 0, "an option is expected"),
    (&["{out1}"], 0, "an option is expected"),
    (&["{out0}", "-f", "mp4", "{out0}"], 1, "nothing may follow"),
    (&["-i", "{in0}"], 0, "twice"),
    (&["-i", "/etc/passwd"], 0, "twice"),
    (&["-c:v", "libx264"], 0, "twice"),
    (&["-c:s", "copy"], 0, "dropped"),
    (&["-c", "copy"], 0, "every kind"),
    (&["-codec", "copy"], 0, "every kind"),
    (&["-f", "tee"], 1, "the output's `format`"),
    (&["-f", "lavfi"], 1, "the output's `format`"),
    (&["-f", "concat"], 1, "the output's `format`"),
    (&["-f", "hls"], 1, "the output's `format`"),
    (&["-f", "image2"], 1, "the output's `format`"),
    (&["-f", "segment"], 1, "the output's `format`"),
    (&["-f", "null"], 1, "the output's `format`"),
    (&["-f", "rawvideo"], 1, "the output's `format`"),
    (&["-f", "matroska"], 1, "the output's `format`"),
    (&["-f", "mp4", "-f", "mp4"], 2, "twice"),
    (&["-movflags", "+faststart+rtphint"], 1, "faststart"),
    (&["-movflags", "faststart+faststart"], 1, "faststart"),
    (&["-movflags", "-faststart"], 1, "faststart"),
    (&["-map", "1:v:0"], 1, "0:v:N"),
    (&["-map", "0"], 1, "0:v:N"),
    (&["-map", "0:v"], 1, "0:v:N"),
    (&["-map", "-0:v:0"], 1, "0:v:N"),
    (&["-map", "0:t:0"], 1, "0:v:N"),
    (&["-map", "0:v:32"], 1, "0:v:N"),
    (&["-map", "[out]"], 1, "0:v:N"),
    (&["-map", "0:m:language:eng"], 1, "0:v:N"),
    (&["-map", "0:v:0", "-map", "0:v:0"], 3, "twice"),
    (&["-map", "0:v:0", "-map", "0:v:1"], 3, "at most one picture"),
    (&["-map", "0:v:0?"], 1, "no ?"),
    (&["-filter_complex", "movie=/etc/passwd"], 0, "graphs"),
    (&["-lavfi", "movie=/etc/passwd"], 0, "graphs"),
    (&["-r", "30"], 0, "without end"),
    (&["-ss", "1"], 0, "before -i"),
    (&["-to", "1"], 0, "give -t"),
    (&["-fs", "1"], 0, "not on the list"),
    // Filters.
    (&["-vf", "movie=/etc/passwd"], 1, "filter is not on the list"),
    (&["-vf", "amovie=x"], 1, "filter is not on the list"),
    (&["-vf", "scale=64:64,movie=x"], 1, "filter is not on the list"),
    (&["-vf", "'movie=x'"], 1, "no quotes"),
    (&["-vf", "mo\\vie=x"], 1, "no quotes"),
    (&["-vf", " movie=x"], 1, "no quotes"),
    (&["-vf", "scale=64:64\u{a0},movie=x"], 1, "no quotes"),
    (&["-vf", "[in]scale=64:64[out]"], 1, "no quotes"),
    (&["-vf", "scale=64:64;movie=x"], 1, "no quotes"),
    (&["-vf", "scale='if(gt(iw,1),64,32)':64"], 1, "no quotes"),
    (&["-vf", "scale=iw/2:ih/2"], 1, "scale takes w"),
    (&["-vf", "scale=w=iw:h=64"], 1, "scale takes w"),
    (&["-vf", "scale=w=1e3:h=64"], 1, "scale takes w"),
    (&["-vf", "scale=-1:64"], 1, "scale takes w"),
    (&["-vf", "scale=w=64:h=64:flags=print_info"], 1, "scale takes flags"),
    (&["-vf", "scale=w=64:h=64:flags=bicubic+"], 1, "scale takes flags"),
    (&["-vf", "scale=w=64:h=64:eval=frame"], 1, "no such parameter"),
    (&["-vf", "scale=w=64:h=64@x"], 1, "no quotes"),
    (&["-vf", "scale@id=64:64"], 1, "no quotes"),
    (&["-vf", "scale=w=64:w=64:h=64"], 1, "w twice"),
    (&["-vf", "scale=64:w=64:h=64"], 1, "w twice"),
    (&["-vf", "scale=w=64:64"], 1, "before those with one"),
    (&["-vf", "scale=640x360"], 1, "scale takes w"),
    (&["-vf", "scale=w=64:h=64,"], 1, "must be filters"),
    (&["-vf", "scale==64:64"], 1, "must be filters"),
    (&["-vf", "scale=99999:64"], 1, "scale takes w"),
    (&["-vf", "null"], 1, "filter is not on the list"),
    (&["-vf", "subtitles=/etc/passwd"], 1, "filter is not on the list"),
    (&["-vf", "drawtext=textfile=/etc/passwd"], 1, "filter is not on the list"),
    (&["-vf", "lut3d=file=/etc/passwd"], 1, "filter is not on the list"),
    (&["-vf", "sendcmd=f=/etc/passwd"], 1, "filter is not on the list"),
    (&["-vf", "zmq"], 1, "filter is not on the list"),
    (&["-vf", "metadata=print:file=/tmp/x"], 1, "filter is not on the list"),
    (&["-vf", "vidstabdetect=result=/tmp/x"], 1, "filter is not on the list"),
    (&["-vf", "frei0r=distort0r"], 1, "filter is not on the list"),
    (&["-vf", "fade=in:0:30"], 1, "fade takes t"),
    (&["-vf", "fps=1000"], 1, "fps takes fps"),
    (&["-vf", "scale=64:64", "-filter:v", "scale=64:64"], 2, "twice"),
    (&["-vf", "volume=2"], 1, "filter is not on the list"),
    (&["-af", "amovie=/etc/passwd"], 2, "needs an audio encoder"),
    // Options of others, out of bounds, twice, or against each other.
    (&["-cpu-used", "4"], 0, "of libvpx-vp9, not of libx264"),
    (&["-crf", "52"], 1, "from 0 to 51"),
    (&["-crf", "-1"], 1, "from 0 to 51"),
    (&["-crf", "20", "-crf:v", "21"], 2, "twice"),
    (&["-crf", "20", "-b:v", "1M"], 2, "contradicts -crf"),
    (&["-maxrate", "1M"], 0, "together"),
    (&["-b:v", "1e9"], 1, "bits from"),
    (&["-b:v", "1Gi"], 1, "bits from"),
    (&["-preset", "placebo"], 1, "one of ultrafast"),
    (&["-preset"], 0, "needs a value"),
    (&["-pix_fmt", "rgb24"], 1, "one of yuv420p"),
    (&["-g", "100000"], 1, "from 1 to 600"),
    (&["-vn"], 0, "contradicts -c:v"),
    (&["-sn", "-sn"], 1, "twice"),
];

#[test]
fn new_07_zt_11_every_known_bypass_is_refused_at_its_place() {
    let head = ["-i", "{in0}", "-c:v", "libx264"];
    for (tokens, offset, said) in BYPASSES {
        // The sound's filter is tried before its encoder.
        let tail: &[&str] = if tokens[0] == "-af" { &["-an"] } else { &["-c:a", "aac"] };
        let list = owned(&[&head[..], tokens, tail, &["{out0}"]].concat());
        let refusal = parse(Format::Mp4, &list).expect_err(&format!("{tokens:?}"));
        let wanted = if tokens[0] == "-af" { head.len() } else { head.len() + offset };
        assert_eq!(refusal.at, wanted, "{tokens:?}: {refusal}");
        assert!(refusal.rule.contains(said), "{tokens:?}: {refusal}");
        assert!(refusal.rule.len() <= 300, "{tokens:?}: the API cuts {refusal}");
        for token in tokens.iter().filter(|token| token.contains('/') && token.len() > 9) {
            assert!(!refusal.rule.contains(token), "{tokens:?}: repeated in {refusal}");
        }
    }
    assert!(BYPASSES.len() > 150);
}

#[test]
fn zt_11_no_input_but_the_placeholder_is_opened() {
    for name in [
        "/etc/passwd",
        "clip.mp4",
        "file:/etc/passwd",
        "subfile:,,start,0,end,9,,:/etc/passwd",
        "subfile,,start,0,end,0,,:/etc/passwd",
        "concat:/etc/passwd|/etc/hosts",
        "concatf:/etc/passwd",
        "data:text/plain,x",
        "http://169.254.169.254/",
        "https://x/",
        "tcp://x:1",
        "rtmp://x/",
        "pipe:0",
        "fd:3",
        "pipe:",
        "async:file:/etc/passwd",
        "cache:http://x/",
        "crypto:/etc/passwd",
        "hls+http://x/",
        "-",
        "testsrc2",
        "{in1}",
        "{in0} ",
        "{out0}",
        "x{in0}",
        "tee:x",
        "unix:/run/x",
        "md5:",
        "ftp://x/",
    ] {
        let list = owned(&["-i", name, "-c:v", "libx264", "-an", "{out0}"]);
        let refusal = parse(Format::Mp4, &list).unwrap_err();
        assert_eq!(refusal.at, 1, "{name}: {refusal}");
        assert!(refusal.rule.contains("must be {in0}"), "{name}: {refusal}");
    }
    for name in ["/tmp/x.mp4", "tee:x", "[f=mp4]a|[f=mkv]b", "pipe:1", "{out0}.mkv", "a.m3u8"] {
        let list = owned(&["-i", "{in0}", "-c:v", "libx264", "-an", name]);
        let refusal = parse(Format::Mp4, &list).unwrap_err();
        assert_eq!(refusal.at, 5, "{name}: {refusal}");
    }
    // Before the input: what chooses another demuxer, device or protocol.
    for option in ["-f", "-protocol_whitelist", "-safe", "-re", "-map", "-c:v", "-itsoffset", "-sn"]
    {
        let list = owned(&[option, "x", "-i", "{in0}", "-c:v", "libx264", "-an", "{out0}"]);
        assert_eq!(parse(Format::Mp4, &list).unwrap_err().at, 0, "{option}");
    }
}

/// What an attack does when nothing stops it.
enum Harm {
    /// This file, which the list names, is written.
    Writes(&'static str),
    /// The words of another file are in FFmpeg's messages or in its output.
    Tells,
    /// Another clip is opened: without it FFmpeg fails.
    Opens,
}

/// The words of the file that no job may see.
const CANARY: &str = "canary-7f3a9c";

/// `{in0}` and `{out0}` are the job's; `{dir}` is a folder with the text `canary`, the clips
/// `other.mp4` and `other.srt`, and `attached.mkv`, which has an attachment.
const ATTACKS: &[(&str, Harm)] = &[
    ("-i {dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i file:{dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i subfile,,start,0,end,0,,:{dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i concat:{dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i async:file:{dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i cache:{dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-f lavfi -i movie={dir}/other.mp4 -c:v libx264 -an {out0}", Harm::Opens),
    ("-i {in0} -i {dir}/other.mp4 -map 1:v:0 -c:v libx264 -an {out0}", Harm::Opens),
    (
        "-i {in0} -c:v libx264 -an -vf null[a];movie={dir}/other.mp4[b];[a][b]overlay {out0}",
        Harm::Opens,
    ),
    (
        "-i {in0} -c:v libx264 -an -vf null[a];mov\\ie={dir}/other.mp4[b];[a][b]overlay {out0}",
        Harm::Opens,
    ),
    (
        "-i {in0} -c:v libx264 -an -vf null[a];'movie'={dir}/other.mp4[b];[a][b]overlay {out0}",
        Harm::Opens,
    ),
    ("-i {in0} -c:v libx264 -an -vf subtitles={dir}/other.srt {out0}", Harm::Opens),
    ("-i {in0} -c:v libx264 -an -filter_script:v {dir}/canary {out0}", Harm::Tells),
    ("-i {in0} -an -filter_complex_script {dir}/canary {out0}", Harm::Tells),
    (
        "-i {in0} -c:v libx264 -an -attach {dir}/canary -metadata:s:t mimetype=text/x -f matroska \
         {out0}",
        Harm::Tells,
    ),
    ("-i {in0} -c:v libx264 -an {out0} -c:v libx264 {dir}/new.mp4", Harm::Writes("new.mp4")),
    (
        "-i {in0} -map 0:v:0 -c:v libx264 -an -f tee [f=nut]{out0}|[f=nut]{dir}/new.mp4",
        Harm::Writes("new.mp4"),
    ),
    ("-i {in0} -c:v libx264 -an -f image2 {dir}/new.mp4 {out0}", Harm::Writes("new.mp4")),
    (
        "-i {in0} -c:v libx264 -an -f segment -segment_list {dir}/new.csv {out0}",
        Harm::Writes("new.csv"),
    ),
    (
        "-dump_attachment:t:0 {dir}/new.txt -i {dir}/attached.mkv -c:v libx264 -an {out0}",
        Harm::Writes("new.txt"),
    ),
    ("-i {in0} -c:v libx264 -an -report {out0}", Harm::Writes("ffmpeg-")),
    ("-i {in0} -c:v libx264 -an -vstats_file {dir}/new.log {out0}", Harm::Writes("new.log")),
    ("-i {in0} -c:v libx264 -an -progress {dir}/new.log {out0}", Harm::Writes("new.log")),
    (
        "-i {in0} -c:v libx264 -b:v 100k -an -pass 1 -passlogfile {dir}/new {out0}",
        Harm::Writes("new-0.log"),
    ),
    (
        "-i {in0} -c:v libx264 -an -x264-params pass=1:stats={dir}/new.log {out0}",
        Harm::Writes("new.log"),
    ),
    (
        "-i {in0} -c:v libx264 -an -vf signalstats,metadata=mode=print:file={dir}/new.log {out0}",
        Harm::Writes("new.log"),
    ),
];

/// Runs plain FFmpeg with a list in its own folder.
fn attack(list: &str, folder: &Path) -> (Vec<String>, bool, String) {
    let place = |token: String| token.replace("{dir}", folder.to_str().unwrap());
    let given: Vec<String> = words(list).into_iter().map(place).collect();
    let real = |token: &String| {
        let files = [("{in0}", "clip.mp4"), ("{out0}", "out.mp4")];
        files.iter().fold(token.clone(), |token, (from, to)| {
            token.replace(from, folder.join(to).to_str().unwrap())
        })
    };
    let line: Vec<String> =
        words("-hide_banner -nostdin -y").into_iter().chain(given.iter().map(real)).collect();
    let out = run_in(folder, DISTRIBUTION, &line);
    let mut said = String::from_utf8_lossy(&out.stderr).into_owned();
    let made = fs::read(folder.join("out.mp4")).unwrap_or_default();
    if made.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()) {
        said.push_str(CANARY);
    }
    (given, out.status.success(), said)
}

fn writes(folder: &Path, name: &str) -> bool {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.into_iter().any(|found| found.to_str().unwrap().starts_with(name))
}

/// NEW-07, ZT-11, BRK-01: plain FFmpeg does it; the parser refuses the very same list.
#[test]
fn zt_11_attacks_by_arguments_work_on_plain_ffmpeg_and_are_refused_here() {
    let base = words("-i {in0} -c:v libx264 -an {out0}");
    assert!(parse(Format::Mp4, &base).is_ok(), "what the attacks add is what is refused");
    let folder = dir("attacks");
    let canary = folder.join("canary");
    fs::write(&canary, CANARY).unwrap();
    let srt = "1\n00:00:00,000 --> 00:00:01,000\nhello\n";
    make(&folder, "clip.mp4", "-frames:v 3 -c:v libx264 -an -f mp4");
    let attach = format!(
        "-frames:v 3 -c:v libx264 -an -attach {} -metadata:s:t mimetype=text/x -f matroska",
        canary.display()
    );
    make(&folder, "attached.mkv", &attach);
    for (list, harm) in ATTACKS {
        make(&folder, "other.mp4", "-frames:v 2 -c:v libx264 -an -f mp4");
        fs::write(folder.join("other.srt"), srt).unwrap();
        let (given, done, said) = attack(list, &folder);
        match harm {
            Harm::Tells => assert!(said.contains(CANARY), "does not tell: {list}\n{said}"),
            Harm::Writes(name) => {
                assert!(writes(&folder, name), "does not write: {list}\n{said}");
                for entry in fs::read_dir(&folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.file_name().unwrap().to_str().unwrap().starts_with(name) {
                        fs::remove_file(path).unwrap();
                    }
                }
            }
            Harm::Opens => {
                assert!(done, "does not run: {list}\n{said}");
                fs::remove_file(folder.join("other.mp4")).unwrap();
                fs::remove_file(folder.join("other.srt")).unwrap();
                assert!(!attack(list, &folder).1, "does not open the other file: {list}");
            }
        }
        let refusal = parse(Format::Mp4, &given).expect_err(list);
        assert!(!refusal.rule.contains(folder.to_str().unwrap()), "{refusal}");
    }
    fs::remove_dir_all(folder).unwrap();
}
