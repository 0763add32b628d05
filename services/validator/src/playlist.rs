//! Files that name other files. FFmpeg follows them under any extension (measured: an HLS playlist
//! named `.mp4` read another tenant's file by its path), so they are refused by content and never
//! opened.

/// Bytes that are searched. A manifest says what it is in its first lines.
const SEARCHED_BYTES_MAX: usize = 64 << 10;

/// Bytes at the front that decide whether a file is text.
const TEXT_BYTES_MAX: usize = 4096;

/// How playlists begin, after blanks, in lower case.
const STARTS: [&[u8]; 8] = [
    b"#extm3u",
    b"ffconcat version",
    b"[playlist]",
    b"[reference]",
    b"<mpd",
    b"<smoothstreamingmedia",
    b"<asx",
    b"<smil",
];

/// What only a playlist holds, anywhere in a text, in lower case.
const MARKS: [&[u8]; 8] = [
    b"#ext-x-",
    b"#extinf:",
    b"#exts",
    b"<mpd",
    b"<smoothstreamingmedia",
    b"<smil",
    b"xspf.org",
    b"\nfile '",
];

/// Whether the file begins as a text. UTF-16 counts: its byte order mark says so.
pub(crate) fn is_text(head: &[u8]) -> bool {
    let front = head.get(..TEXT_BYTES_MAX.min(head.len())).unwrap_or_default();
    let wide = front.starts_with(&[0xFF, 0xFE]) || front.starts_with(&[0xFE, 0xFF]);
    let control = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0C | 0x1B);
    wide && front.len() % 2 == 0 && !front.starts_with(&[0xFF, 0xFE, 0, 0])
        || (!front.iter().any(control) && utf8_but_for_its_end(front))
}

fn utf8_but_for_its_end(front: &[u8]) -> bool {
    match std::str::from_utf8(front) {
        Ok(_) => true,
        // The window may cut the last character.
        Err(error) => error.error_len().is_none(),
    }
}

/// Whether the file is a playlist, a manifest or a session description.
pub(crate) fn is_playlist(head: &[u8]) -> bool {
    let front = head.get(..SEARCHED_BYTES_MAX.min(head.len())).unwrap_or_default();
    let front = front.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(front);
    let lower: Vec<u8> = front
        .iter()
        .filter(|byte| **byte != 0)
        .map(u8::to_ascii_lowercase)
        .skip_while(|byte| byte.is_ascii_whitespace() || matches!(byte, 0xFF | 0xFE))
        .collect();
    if STARTS.iter().any(|start| lower.starts_with(start)) {
        return true;
    }
    let holds = |mark: &[u8]| lower.windows(mark.len()).any(|window| window == mark);
    let session = lower.starts_with(b"v=0") && (holds(b"\nm=") || holds(b"\no="));
    session || (is_text(head) && MARKS.iter().any(|mark| holds(mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], expect: bool) {
        assert_eq!(is_playlist(text), expect, "{:?}", String::from_utf8_lossy(text));
    }

    #[test]
    fn zt_11_every_kind_of_playlist_is_known() {
        check(b"#EXTM3U\n#EXT-X-VERSION:3\n", true);
        check(b"\xEF\xBB\xBF#EXTM3U\n", true);
        check(b"\r\n  #extm3u\n", true);
        check(b"# comment\n#EXTINF:3,\n/etc/passwd\n", true);
        check(b"#\0E\0X\0T\0M\x003\0U\0", true);
        check(b"\xFF\xFE#\0E\0X\0T\0M\x003\0U\0", true);
        check(b"ffconcat version 1.0\nfile /in/other\n", true);
        check(b"# list\nfile 'a.mp4'\n", true);
        check(b"<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\">", true);
        check(b"<?xml version='1.0'?><SmoothStreamingMedia MajorVersion='2'>", true);
        check(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 1 RTP/AVP 96\r\n", true);
        check(b"[playlist]\nFile1=x\n", true);
        check(b"hello, world", false);
        check(b"version=1", false);
        check(b"", false);
        check(b"\x00\x00\x00\x20ftypisom #EXT-X-", false);
    }
}
