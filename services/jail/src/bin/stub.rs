//! Stands in ffmpeg's and ffprobe's place in load tests of the pipeline: same arguments, fixed answers, no media.
//!
//! Promises: the same output for the same arguments; runs in a real cell under the transcode profile. Refuses to look
//! at its input. Installed under a name that ends in `-fixed-MS`, it takes that long in ffmpeg's place.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// What ffprobe prints for 10 s of 720p with sound, as far as anybody asks.
const PROBE: &str = r#"{
  "streams": [
    {"index": 0, "codec_name": "h264", "codec_type": "video", "profile": "High", "width": 1280, "height": 720,
     "pix_fmt": "yuv420p", "level": 31, "field_order": "progressive", "r_frame_rate": "30/1",
     "avg_frame_rate": "30/1", "time_base": "1/15360", "duration": "10.000000", "bit_rate": "2000000",
     "nb_frames": "300", "disposition": {"default": 1, "attached_pic": 0}},
    {"index": 1, "codec_name": "aac", "codec_type": "audio", "profile": "LC", "sample_fmt": "fltp",
     "sample_rate": "48000", "channels": 2, "channel_layout": "stereo", "r_frame_rate": "0/0",
     "avg_frame_rate": "0/0", "time_base": "1/48000", "duration": "10.000000", "bit_rate": "128000",
     "nb_frames": "469", "disposition": {"default": 1, "attached_pic": 0}}
  ],
  "format": {"filename": "/in/0", "nb_streams": 2, "nb_programs": 0, "format_name": "mov,mp4,m4a,3gp,3g2,mj2",
    "start_time": "0.000000", "duration": "10.000000", "size": "2660000", "bit_rate": "2128000",
    "probe_score": 100}
}
"#;
/// What each output holds: 1 KiB that is easy to recognise.
const PAYLOAD: &[u8; 16] = b"hotcell-stub 1k\n";
const PAYLOAD_TIMES: usize = 64;

fn main() -> ExitCode {
    match run(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it if standard error is closed; the exit code says it too.
            drop(writeln!(io::stderr(), "hotcell-stub: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> io::Result<()> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let mut stdout = io::stdout();
    if has("-version") {
        let version = env!("CARGO_PKG_VERSION");
        return writeln!(
            stdout,
            "hotcell-stub {version} writes fixed answers\nconfiguration: none"
        );
    }
    if has("-show_streams") || has("-show_format") || has("-print_format") {
        return stdout.write_all(PROBE.as_bytes());
    }
    let (Some(name), Some(output)) = (args.first(), args.get(1..).and_then(<[_]>::last)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    thread::sleep(Duration::from_millis(fixed_ms(Path::new(name))));
    File::create(output)?.write_all(&PAYLOAD.repeat(PAYLOAD_TIMES))?;
    writeln!(stdout, "frame=300\nout_time_us=10000000\nprogress=end")
}

/// The number at the end of `hotcell-stub-fixed-250`; 0 without one.
fn fixed_ms(name: &Path) -> u64 {
    let name = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once("-fixed-").and_then(|(_, ms)| ms.parse().ok()).unwrap_or(0)
}
