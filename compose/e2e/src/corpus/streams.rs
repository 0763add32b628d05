//! MPEG-TS, FLV and Ogg: table counts, lengths, recursion in metadata, pages without end.

use super::{
    BROKEN, COMPLEX, Expect, HUNGRY, MUTANT, Shelf,
    bytes::{Random, back, crc32_msb, find, front, inserted, patched},
    clips::Clips,
};
use anyhow::Result;

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    transport(clips.get("ts")?, shelf);
    flash(clips.get("flv")?, shelf);
    ogg(clips.get("ogg")?, clips.get("opus")?, shelf)
}

/// One packet of a transport stream (ISO/IEC 13818-1 §2.4.3.2), stuffed with 0xff.
fn packet(pid: u16, start: bool, counter: u8, payload: &[u8]) -> Vec<u8> {
    let flags = pid & 0x1fff | (u16::from(start) << 14);
    let [high, low] = flags.to_be_bytes();
    let mut bytes = vec![0x47, high, low, 0x10 | (counter & 15)];
    bytes.extend(payload.iter().take(184));
    bytes.resize(188, 0xff);
    bytes
}

/// A section with its length and checksum, in as many packets as it takes.
fn section(pid: u16, table: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 9).unwrap_or(0) & 0x0fff;
    let [id_high, id_low] = id.to_be_bytes();
    let [high, low] = (0xb000 | length).to_be_bytes();
    let mut bytes = vec![table, high, low, id_high, id_low, 0xc1, 0, 0];
    bytes.extend(body);
    bytes.extend(crc32_msb(&bytes, u32::MAX).to_be_bytes());
    let whole = [vec![0], bytes].concat();
    let parts = (0_u8..).zip(whole.chunks(184));
    parts.flat_map(|(counter, part)| packet(pid, counter == 0, counter, part)).collect()
}

/// A program whose map lists `streams` streams.
fn program(number: u16, streams: u16, kind: u8) -> Vec<u8> {
    let pid = |stream: u16| (0x100 + number.wrapping_mul(190).wrapping_add(stream)) & 0x1fff;
    let row = |stream: u16| {
        let [high, low] = (0xe000 | pid(stream)).to_be_bytes();
        vec![kind, high, low, 0xf0, 0]
    };
    let body = [vec![0xe1, 0, 0xf0, 0], (0..streams).flat_map(row).collect()].concat();
    section(0x20 + number, 2, number, &body)
}

/// Tables of `programs` programs with `streams` streams each.
fn tables(programs: u16, streams: u16, kind: u8) -> Vec<u8> {
    let row = |number: u16| {
        let [number_high, number_low] = number.to_be_bytes();
        let [high, low] = (0xe020 + number).to_be_bytes();
        [number_high, number_low, high, low]
    };
    let pat: Vec<u8> = (1..=programs).flat_map(row).collect();
    let maps = (1..=programs).flat_map(|number| program(number, streams, kind));
    section(0, 0, 1, &pat).into_iter().chain(maps).collect()
}

fn transport(ts: &[u8], shelf: &mut Shelf) {
    let kind = "video/mp2t";
    shelf.family("tracks");
    for (name, programs, streams, expect) in
        [("33", 1, 33, COMPLEX), ("7000", 37, 190, COMPLEX), ("10000", 53, 190, COMPLEX)]
    {
        let bytes = [tables(programs, streams, 0x1b), ts.to_vec()].concat();
        shelf.put(format!("ts-{name}"), kind, bytes, expect);
    }
    shelf.family("ts");
    let rows: [(&str, Vec<u8>, Expect); 9] = [
        ("tables-only", tables(1, 2, 0x1b).repeat(50), BROKEN),
        ("null-packets", packet(0x1fff, false, 0, &[0xff; 184]).repeat(5000), BROKEN),
        ("zero-packets", packet(0x100, true, 0, &[0; 184]).repeat(5000), BROKEN),
        (
            "section-length-max",
            [packet(0, true, 0, &[0, 0, 0xbf, 0xff]), ts.to_vec()].concat(),
            MUTANT,
        ),
        ("pointer-max", [packet(0, true, 0, &[0xff; 184]), ts.to_vec()].concat(), MUTANT),
        ("adaptation-max", adaptation(ts), MUTANT),
        ("pes-lengths", pes(ts), MUTANT),
        ("shifted", back(ts, 100), MUTANT),
        ("random-payloads", noise(ts), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let m2ts: Vec<u8> = ts.chunks(188).flat_map(|one| [&[0; 4], one].concat()).collect();
    shelf.put("m2ts", kind, m2ts, MUTANT);
}

fn each_packet(ts: &[u8], change: impl Fn(usize, &mut [u8])) -> Vec<u8> {
    let mut ts = ts.to_vec();
    for (number, packet) in ts.chunks_mut(188).enumerate() {
        change(number, packet);
    }
    ts
}

/// Every fifth packet says that its adaptation field is longer than the packet.
fn adaptation(ts: &[u8]) -> Vec<u8> {
    each_packet(ts, |number, packet| {
        if number % 5 == 4
            && let Some([flags, length]) = packet.get_mut(3..5)
        {
            *flags |= 0x20;
            *length = 0xff;
        }
    })
}

/// Every packet that begins a PES has another length and header length.
fn pes(ts: &[u8]) -> Vec<u8> {
    each_packet(ts, |_, packet| {
        if packet.get(4..7) == Some(&[0, 0, 1])
            && let Some(rest) = packet.get_mut(8..13)
        {
            rest.copy_from_slice(&[0xff, 0xff, 0x8f, 0xff, 0xff]);
        }
    })
}

fn noise(ts: &[u8]) -> Vec<u8> {
    let payload = Random::of("ts-noise").bytes(170);
    each_packet(ts, |number, packet| {
        if number > 8
            && let Some(rest) = packet.get_mut(18..)
        {
            rest.copy_from_slice(&payload);
        }
    })
}

/// A tag of an FLV file (Adobe FLV 10.1 §E.4.1).
fn tag(kind: u8, ms: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(0);
    let [_, a, b, c] = size.to_be_bytes();
    let [top, x, y, z] = ms.to_be_bytes();
    let head = [kind, a, b, c, x, y, z, top, 0, 0, 0];
    [&head, body, &(size + 11).to_be_bytes()].concat()
}

fn flash(flv: &[u8], shelf: &mut Shelf) {
    let kind = "video/x-flv";
    shelf.family("flv");
    let deep = |depth: usize| {
        let name = [&[2, 0, 10], b"onMetaData".as_slice()].concat();
        let object = [&[3, 0, 1], b"a".as_slice()].concat();
        [name, object.repeat(depth)].concat()
    };
    let array =
        [&[2, 0, 10], b"onMetaData".as_slice(), &[10, 0xff, 0xff, 0xff, 0xff], &[0; 90]].concat();
    let keys = [
        &[2, 0, 10][..],
        b"onMetaData",
        &[3, 0, 9],
        b"keyframes",
        &[3, 0, 13],
        b"filepositions",
        &[10, 0x10, 0, 0, 0],
        &[0; 90],
    ]
    .concat();
    let rows: [(&str, Vec<u8>, Expect); 7] = [
        ("objects-10000-deep", inserted(flv, 13, &tag(18, 0, &deep(10_000))), MUTANT),
        ("objects-1000000-deep", inserted(flv, 13, &tag(18, 0, &deep(1_000_000))), MUTANT),
        ("array-max", inserted(flv, 13, &tag(18, 0, &array)), MUTANT),
        ("keyframes-max", inserted(flv, 13, &tag(18, 0, &keys)), MUTANT),
        ("tag-size-max", patched(flv, 14, &[0xff; 3]), BROKEN),
        ("header-offset-max", patched(flv, 5, &[0xff; 4]), MUTANT),
        ("no-tags", front(flv, 13), BROKEN),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let scripts = tag(18, 0, &[2, 0, 1, 97]).repeat(100_000);
    shelf.put("scripts-100000", kind, inserted(flv, 13, &scripts), MUTANT);
    for codec in [0x10_u8, 0x1f, 0x13, 0x14, 0x15, 0x17] {
        let bytes =
            [front(flv, 13), tag(9, 0, &[&[codec], [0x5a; 200].as_slice()].concat()).repeat(30)]
                .concat();
        shelf.put(format!("codec-{codec:02x}"), kind, bytes, MUTANT);
    }
}

/// A page of an Ogg stream (RFC 3533 §6).
fn page(flags: u8, granule: i64, serial: u32, number: u32, table: &[u8], body: &[u8]) -> Vec<u8> {
    let count = u8::try_from(table.len()).unwrap_or(u8::MAX);
    let mut bytes = [
        b"OggS\0".as_slice(),
        &[flags],
        &granule.to_le_bytes(),
        &serial.to_le_bytes(),
        &number.to_le_bytes(),
        &[0; 4],
        &[count],
        table,
        body,
    ]
    .concat();
    let sum = crc32_msb(&bytes, 0).to_le_bytes();
    if let Some(place) = bytes.get_mut(22..26) {
        place.copy_from_slice(&sum);
    }
    bytes
}

fn ogg(ogg: &[u8], opus: &[u8], shelf: &mut Shelf) -> Result<()> {
    shelf.family("ogg");
    let head = [b"OpusHead".as_slice(), &[1, 2, 0, 0, 0x80, 0xbb, 0, 0, 0, 0, 0]].concat();
    let begin = |serial: u32| page(2, 0, serial, 0, &[19], &head);
    for (name, count) in [("33", 33), ("5000", 5000)] {
        let bytes = [(0..count).flat_map(begin).collect(), opus.to_vec()].concat();
        shelf.put(format!("streams-{name}"), "audio/ogg", bytes, COMPLEX);
    }
    let mut comment = [b"OpusTags".as_slice(), &[0xff; 4], &[0; 64]].concat();
    let tags = |comment: &[u8]| {
        let size = u8::try_from(comment.len()).unwrap_or(0);
        [
            begin(7),
            page(0, 0, 7, 1, &[size], comment),
            page(4, 960, 7, 2, &[3], &[0xfc, 0xff, 0xfe]),
        ]
        .concat()
    };
    shelf.put("comment-length-max", "audio/ogg", tags(&comment), MUTANT);
    comment = [b"OpusTags".as_slice(), &[0; 4], &[0xff; 4], &[0; 64]].concat();
    shelf.put("comment-count-max", "audio/ogg", tags(&comment), MUTANT);
    let endless = page(0, -1, 7, 2, &[255; 255], &[0; 255 * 255]).repeat(20);
    let rows: [(&str, Vec<u8>, Expect); 6] = [
        ("packet-without-end", [begin(7), endless].concat(), BROKEN),
        (
            "granule-max",
            [begin(7), page(4, i64::MAX, 7, 1, &[3], &[0xfc, 0xff, 0xfe])].concat(),
            MUTANT,
        ),
        (
            "granule-min",
            [begin(7), page(4, i64::MIN, 7, 1, &[3], &[0xfc, 0xff, 0xfe])].concat(),
            MUTANT,
        ),
        ("head-only", begin(7), BROKEN),
        ("empty-pages", [begin(7), page(0, 0, 7, 1, &[], &[]).repeat(50_000)].concat(), BROKEN),
        ("unknown-codec", page(2, 0, 1, 0, &[9], b"xxxxxxxxx").repeat(4), BROKEN),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, "audio/ogg", bytes, expect);
    }
    let at = find(ogg, b"\x80theora")? + 10;
    shelf.put("theora-max", "video/ogg", patched(ogg, at, &[0xff; 10]), COMPLEX);
    shelf.put("chained-200", "audio/ogg", opus.repeat(200), HUNGRY);
    Ok(())
}
