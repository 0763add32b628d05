//! Why an option is not on the list. Only words for people: an option that this file does not know
//! is refused just the same, because nothing is accepted but what the list has.

use super::list;

/// Options with the reason that they are refused for.
pub(super) const REFUSED: &[(&[&str], &str)] = &[
    (
        &[
            "-filter_script",
            "-filter_complex_script",
            "-vpre",
            "-apre",
            "-fpre",
            "-spre",
            "-attach",
        ],
        "reads a file that it names",
    ),
    (
        &[
            "-report",
            "-vstats",
            "-vstats_file",
            "-sdp_file",
            "-passlogfile",
            "-dump_attachment",
            "-stats_enc_pre",
            "-stats_enc_post",
            "-stats_mux_pre",
            "-progress",
            "-qphist",
        ],
        "writes a file or to an address that it names",
    ),
    (&["-pass"], "needs a file between its passes: give -crf, or -b:v with -maxrate and -bufsize"),
    (
        &["-x264-params", "-x264opts", "-x265-params", "-svtav1-params", "-aom-params"],
        "takes an encoder's own options, some of which name files: give them one by one",
    ),
    (
        &["-filter_complex", "-lavfi", "-complex_filter", "-filter"],
        "takes graphs with labels and sources: give -vf and -af",
    ),
    (
        &[
            "-protocol_whitelist",
            "-protocol_blacklist",
            "-format_whitelist",
            "-codec_whitelist",
            "-safe",
            "-max_alloc",
            "-max_pixels",
            "-max_streams",
            "-enable_drefs",
            "-use_absolute_path",
            "-allowed_extensions",
        ],
        "is a limit of the cell, which no request moves",
    ),
    (
        &[
            "-init_hw_device",
            "-filter_hw_device",
            "-hwaccel",
            "-hwaccel_device",
            "-vaapi_device",
            "-qsv_device",
            "-hwaccel_output_format",
        ],
        "opens a device, and a cell has none",
    ),
    (
        &[
            "-loglevel",
            "-v",
            "-hide_banner",
            "-nostdin",
            "-stdin",
            "-stats",
            "-nostats",
            "-y",
            "-n",
            "-threads",
            "-threads:v",
            "-filter_threads",
            "-fflags",
            "-flags",
            "-fps_mode",
            "-vsync",
            "-sws_flags",
            "-copyts",
            "-xerror",
            "-benchmark",
            "-timelimit",
            "-stats_period",
        ],
        "is set by hotcell, the same for every job",
    ),
    (
        &["-map_metadata", "-map_chapters"],
        "is set by hotcell: what the input says about itself is dropped",
    ),
    (&["-r"], "makes frames without end where timestamps have gaps: give the filter fps"),
    (&["-s"], "is a hidden filter: give the filter scale"),
    (&["-aspect"], "is a hidden filter: give the filter setdar"),
    (&["-to"], "is -t by another reckoning: give -t"),
    (&["-c", "-codec"], "names encoders for streams of every kind: give -c:v and -c:a"),
    (&["-b", "-vb", "-ab"], "is short for another option: give -b:v or -b:a"),
    (&["-c:s", "-scodec", "-c:d"], "subtitles and data are dropped"),
    (&["-stream_loop", "-re", "-readrate", "-itsoffset", "-loop"], "makes an input without end"),
    (&["-bsf", "-bsf:v", "-bsf:a"], "changes packets behind the encoder"),
];

/// The reason for one that is not on the list, or stands where it may not.
pub(super) fn why(name: &str) -> &'static str {
    let listed = REFUSED.iter().find(|(names, _)| names.contains(&name));
    if let Some((_, reason)) = listed {
        return reason;
    }
    let bare = name.split(':').next().unwrap_or(name);
    let known = |name| list::kind(name, true).is_some() || list::kind(name, false).is_some();
    let given = |name: &str| REFUSED.iter().find(|(names, _)| names.contains(&name));
    if !name.starts_with('-') {
        "an option is expected: files are named by -i {in0} and, last, {out0}"
    } else if name.starts_with("-/") {
        "reads a value from a file"
    } else if name == "-ss" {
        "must stand before -i: seeking after it decodes what it drops"
    } else if known(name) {
        "may not stand here"
    } else if bare != name && (known(bare) || known(&format!("{bare}:v")) || given(bare).is_some())
    {
        "this stream specifier is not on the list: one picture, and sound tracks encoded alike"
    } else {
        "is not on the list of accepted options"
    }
}
