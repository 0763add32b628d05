//! Media for the tests: real clips from FFmpeg's test sources, and hostile files made by hand.

use anyhow::{Result, ensure};
use std::{path::Path, process::Command};

/// A clip of `secs` seconds with picture and sound: H.264 and AAC in MP4.
///
/// # Errors
/// When ffmpeg fails.
pub fn clip(secs: u32, width: u32, height: u32) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("clip.mp4");
    make(&path, &format!("testsrc2=s={width}x{height}:r=25:d={secs}"), secs)?;
    Ok(std::fs::read(path)?)
}

fn make(path: &Path, source: &str, secs: u32) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", source])
        .args(["-f", "lavfi", "-i", &format!("sine=frequency=440:duration={secs}")])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-shortest", "-y"])
        .arg(path)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The streams and the duration of a file, as ffprobe sees them.
///
/// # Errors
/// When ffprobe fails.
pub fn probe(path: &Path) -> Result<serde_json::Value> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-print_format", "json", "-show_format", "-show_streams"])
        .arg(path)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A GIF of 40 bytes that claims 65535 x 65535 pixels.
#[must_use]
pub fn huge_gif() -> Vec<u8> {
    let mut bytes = b"GIF89a\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\xff\xff\xff".to_vec();
    bytes.extend_from_slice(b"\x2c\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x02\x44\x01\x00\x3b");
    bytes.resize(40, 0);
    bytes
}

/// An HLS playlist that names `target`.
#[must_use]
pub fn playlist(target: &str) -> Vec<u8> {
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n")
        .into_bytes()
}
