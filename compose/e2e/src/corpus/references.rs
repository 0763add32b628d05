//! Files that name other files, under every content type that may be declared.
//!
//! Plain FFmpeg opens an HLS list under any extension and shows what it names; the rows that say
//! so are proven to by the test that runs this corpus.

use super::{Canary, Expect, FOREIGN, PLAYLIST, Shelf};

/// Every content type that an upload may declare.
pub(super) const KINDS: [&str; 32] = [
    "video/mp4",
    "video/quicktime",
    "video/x-m4v",
    "video/3gpp",
    "video/3gpp2",
    "audio/mp4",
    "audio/m4a",
    "audio/x-m4a",
    "video/webm",
    "video/matroska",
    "video/x-matroska",
    "audio/webm",
    "audio/x-matroska",
    "video/mp2t",
    "video/x-msvideo",
    "video/vnd.avi",
    "video/avi",
    "video/x-flv",
    "video/ogg",
    "audio/ogg",
    "audio/opus",
    "audio/wav",
    "audio/x-wav",
    "audio/wave",
    "audio/vnd.wave",
    "audio/mpeg",
    "audio/mp3",
    "audio/aac",
    "audio/flac",
    "image/png",
    "image/jpeg",
    "image/gif",
];

/// An HLS list with one segment (RFC 8216).
fn list(target: &str) -> String {
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
}

/// The list with a line before its segment.
fn tagged(tag: &str, target: &str) -> String {
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n{tag}\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
}

fn utf16(text: &str, little: bool) -> Vec<u8> {
    let mark = if little { [0xff, 0xfe] } else { [0xfe, 0xff] };
    let units = text.encode_utf16();
    let bytes = units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() });
    mark.into_iter().chain(bytes).collect()
}

pub(super) fn put(canary: &Canary, shelf: &mut Shelf) {
    let film = canary.film().display().to_string();
    let secret = canary.text().display().to_string();
    shelf.family("playlist");
    for kind in KINDS {
        let stem = format!("as-{}", kind.replace('/', "-"));
        shelf.put(stem, kind, list(&film).into_bytes(), PLAYLIST);
        shelf.leaks();
    }
    let kind = "video/mp4";
    for (name, text) in [
        ("up", list("../film.mp4")),
        ("crlf", list(&film).replace('\n', "\r\n")),
        ("lists-tail", format!("{}{}", list(&film), "#EXT-X-UNKNOWN\n".repeat(20_000))),
    ] {
        shelf.put(name, kind, text.into_bytes(), PLAYLIST);
        shelf.leaks();
    }
    shelf.put("dash-base", kind, dash(&film).into_bytes(), PLAYLIST);
    lists(&film, &secret, shelf);
    others(&film, &secret, shelf);
    hidden(&film, shelf);
}

fn lists(film: &str, secret: &str, shelf: &mut Shelf) {
    let key = |uri: &str| tagged(&format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{uri}\""), film);
    let media = |uri: &str| {
        format!(
            "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",URI=\"{uri}\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\n{uri}\n"
        )
    };
    let variants = "#EXT-X-STREAM-INF:BANDWIDTH=1\nx.m3u8\n".repeat(100_000);
    let rows = [
        ("text", list(secret)),
        ("file", list(&format!("file:{film}"))),
        ("file-slashes", list(&format!("file://{film}"))),
        ("http", list("http://127.0.0.1:9/film.mp4")),
        ("https", list("https://127.0.0.1:9/film.mp4")),
        ("tcp", list("tcp://127.0.0.1:9")),
        ("metadata-address", list("http://169.254.169.254/latest/meta-data/")),
        ("concat", list(&format!("concat:{film}|{secret}"))),
        ("subfile", list(&format!("subfile,,start,0,end,9999,,:{film}"))),
        ("crypto", list(&format!("crypto:{film}"))),
        ("data", list("data:video/mp4;base64,AAAA")),
        ("pipe", list("pipe:0")),
        ("fd", list("fd:3")),
        ("proc-environ", list("/proc/self/environ")),
        ("dev-zero", list("/dev/zero")),
        ("in-other", list("/in/1")),
        ("itself", list("/in/0")),
        ("map", tagged(&format!("#EXT-X-MAP:URI=\"{film}\""), film)),
        ("key-file", key(&format!("file://{secret}"))),
        ("key-http", key("http://127.0.0.1:9/key")),
        ("byte-range", tagged("#EXT-X-BYTERANGE:99999999@0", film)),
        ("media", media(film)),
        ("master-100k", format!("#EXTM3U\n{variants}")),
        ("live-endless", format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n")),
        ("discontinuities", tagged(&"#EXT-X-DISCONTINUITY\n".repeat(1000), film)),
        ("plain-m3u", format!("#EXTM3U\n{film}\n")),
        ("low-latency", tagged(&format!("#EXT-X-PART:DURATION=1,URI=\"{film}\""), film)),
        ("define", tagged(&format!("#EXT-X-DEFINE:NAME=\"f\",VALUE=\"{film}\""), "{$f}")),
    ];
    for (name, text) in rows {
        shelf.put(name, "video/mp4", text.into_bytes(), PLAYLIST);
    }
}

/// MPEG-DASH with one representation that is the film.
fn dash(film: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
         mediaPresentationDuration=\"PT2S\" \
         profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\"><Period duration=\"PT2S\"><AdaptationSet mimeType=\"video/mp4\"><Representation id=\"1\" \
         bandwidth=\"1000\" codecs=\"avc1.42c00b\"><BaseURL>{film}</BaseURL></Representation>\
         </AdaptationSet></Period></MPD>\n"
    )
}

/// Other formats that name files; `{film}` and `{secret}` stand for the canary's paths, `{laughs}`
/// for entities that multiply.
const OTHERS: [(&str, &str, Expect); 25] = [
    (
        "dash-entity",
        "<?xml version=\"1.0\"?>\n<!DOCTYPE a [<!ENTITY x SYSTEM \"file://{secret}\">]>\
         <MPD><BaseURL>&x;</BaseURL></MPD>",
        PLAYLIST,
    ),
    ("dash-laughs", "<!DOCTYPE a [<!ENTITY l0 \"ha\">{laughs}]><MPD>&l9;</MPD>", PLAYLIST),
    (
        "dash-xlink",
        "<?xml version=\"1.0\"?>\n<MPD xmlns:xlink=\"x\"><Period xlink:href=\"{film}\"/></MPD>",
        PLAYLIST,
    ),
    ("smooth", "<SmoothStreamingMedia><StreamIndex Url=\"{film}\"/>", PLAYLIST),
    ("ffconcat", "ffconcat version 1.0\nfile '{film}'\n", PLAYLIST),
    ("concat-sibling", "ffconcat version 1.0\nfile 'film.mp4'\n", PLAYLIST),
    ("concat-up", "ffconcat version 1.0\nfile ../film.mp4\n", PLAYLIST),
    ("concat-options", "ffconcat version 1.0\nfile x\noption safe 0\nfile '{film}'\n", PLAYLIST),
    ("concat-bare", "file '{film}'\nfile '{film}'\n", FOREIGN),
    (
        "sdp",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=video 9 RTP/AVP 96\r\n",
        PLAYLIST,
    ),
    ("pls", "[playlist]\nFile1={film}\nNumberOfEntries=1\n", PLAYLIST),
    ("quicktime-link", "RTSPtextRTSP://127.0.0.1:9/\n{film}\n", FOREIGN),
    ("rtsptext", "rtsptext\nrtsp://127.0.0.1:9/{film}\n", FOREIGN),
    ("asx", "<ASX version=\"3.0\"><Entry><Ref href=\"{film}\"/></Entry></ASX>", PLAYLIST),
    ("asx-reference", "[Reference]\r\nRef1={film}\r\n", PLAYLIST),
    ("smil", "<smil><body><video src=\"{film}\"/></body></smil>", PLAYLIST),
    (
        "xspf",
        "<playlist xmlns=\"http://xspf.org/ns/0/\"><location>{film}</location></playlist>",
        PLAYLIST,
    ),
    ("svg", "<svg xmlns:xlink=\"x\"><image xlink:href=\"file://{film}\"/></svg>", FOREIGN),
    ("wpl", "<?wpl version=\"1.0\"?><smil><media src=\"{film}\"/></smil>", PLAYLIST),
    ("cpl", "<CompositionPlaylist><Id>urn:uuid:1</Id></CompositionPlaylist>", FOREIGN),
    ("ffmetadata", ";FFMETADATA1\ntitle={film}\n", FOREIGN),
    ("vobsub", "# VobSub index file, v7 (do not modify this line!)\nid: {film}\n", FOREIGN),
    ("srt", "1\n00:00:00,000 --> 00:00:09,000\n<img src={film}>\n", FOREIGN),
    (
        "ass",
        "[Script Info]\n[Events]\nDialogue: 0,0:00:00.00,0:00:09.00,,,,0,0,0,,{film}\n",
        FOREIGN,
    ),
    ("webvtt", "WEBVTT\n\n00:00.000 --> 00:09.000\n{film}\n", FOREIGN),
];

fn others(film: &str, secret: &str, shelf: &mut Shelf) {
    let one = |n: u8| format!("<!ENTITY l{n} \"{}\">", format!("&l{};", n - 1).repeat(10));
    let laughs: String = (1..10).map(one).collect();
    for (name, text, expect) in OTHERS {
        let text = text.replace("{film}", film).replace("{secret}", secret);
        let text = text.replace("{laughs}", &laughs);
        shelf.put(name, "video/mp4", text.into_bytes(), expect);
    }
}

/// Lists that do not look like one at first.
fn hidden(film: &str, shelf: &mut Shelf) {
    let list = list(film);
    let with = |front: &[u8]| [front, list.as_bytes()].concat();
    let id3 = super::audio::id3(&[], super::audio::synchsafe(0));
    let boxed = super::isobmff::boxed(b"free", list.as_bytes());
    let rows: [(&str, &'static str, Vec<u8>, Expect); 14] = [
        ("mark", "video/mp4", with(b"\xef\xbb\xbf"), PLAYLIST),
        ("blanks", "video/mp4", with(&[b' '; 3000]), PLAYLIST),
        ("blanks-100k", "video/mp4", with(&[b'\n'; 100_000]), FOREIGN),
        ("zeros", "video/mp4", with(&[0; 64]), FOREIGN),
        ("comment", "video/mp4", with(b"# a comment\n"), PLAYLIST),
        ("utf-16-le", "video/mp4", utf16(&list, true), PLAYLIST),
        ("utf-16-be", "video/mp4", utf16(&list, false), PLAYLIST),
        ("after-id3", "audio/mpeg", with(&id3), FOREIGN),
        ("in-free-box", "video/mp4", boxed, FOREIGN),
        (
            "after-ftyp",
            "video/mp4",
            with(&super::isobmff::boxed(b"ftyp", b"isom\0\0\0\0")),
            FOREIGN,
        ),
        ("after-gif", "image/gif", with(b"GIF89a"), FOREIGN),
        ("after-png", "image/png", with(b"\x89PNG\r\n\x1a\n"), MANGLED),
        ("after-riff", "video/x-msvideo", with(b"RIFF\xff\xff\xff\xffAVI "), MANGLED),
        ("after-flv", "video/x-flv", with(b"FLV\x01\x05\0\0\0\x09\0\0\0\0"), MANGLED),
    ];
    shelf.family("hidden-playlist");
    for (name, kind, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
}

/// A container's signature with a list behind it: nothing in it plays.
const MANGLED: Expect = super::BROKEN;
