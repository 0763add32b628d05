//! What an output must be, for every shape of plan and input, and every way to differ from it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod samples;

use hotcell_schemas::{
    Plan,
    plan::{
        AudioPlan, Container, OutputPlan, Scale,
        filter::{Filter as _, Given, VideoFilter},
        value::Value,
    },
    report::{Probe, ProbedStream},
    request::{AudioCodec, Format},
    verify::{Difference, compare, expected, reported},
};
use proptest::prelude::*;

fn video(codec: &str, size: (u32, u32)) -> ProbedStream {
    ProbedStream {
        kind: "video".to_owned(),
        codec: codec.to_owned(),
        width: Some(size.0),
        height: Some(size.1),
        sample_rate: None,
        channels: None,
        duration_ms: None,
        frames: None,
        fps: None,
        attached: false,
    }
}

fn audio(codec: &str, duration_ms: Option<u64>) -> ProbedStream {
    let (sample_rate, channels) = (Some(48_000), Some(2));
    let none = ProbedStream { width: None, height: None, ..video(codec, (0, 0)) };
    ProbedStream { kind: "audio".to_owned(), sample_rate, channels, duration_ms, ..none }
}

fn probe(format: &str, duration_ms: Option<u64>, streams: &[ProbedStream]) -> Probe {
    let (format, streams) = (format.to_owned(), streams.to_vec());
    Probe { format, duration_ms, start_ms: None, bit_rate: None, streams }
}

const MOV: &str = "mov,mp4,m4a,3gp,3g2,mj2";

/// Ten seconds of 1280x720 with sound, in MP4.
fn input() -> Probe {
    let picture =
        ProbedStream { duration_ms: Some(10_000), frames: Some(300), ..video("hevc", (1280, 720)) };
    probe(MOV, Some(10_000), &[picture, audio("aac", Some(10_000))])
}

fn plan(input: Container, scale: Scale) -> Plan {
    let mut plan = samples::jobs::plan();
    plan.input = input;
    plan.outputs[0].video.as_mut().unwrap().scale = scale;
    plan
}

/// Compares `found` with what `plan` makes of `input`.
fn check(plan: &Plan, input: &Probe, found: &Probe, expect: Result<(), Difference>) {
    let expected = expected(plan, &plan.outputs[0], input);
    assert_eq!(compare(&expected, found), expect, "{found:?}");
}

/// An honest output: 480 lines of H.264 with AAC.
fn made(duration_ms: u64) -> Probe {
    probe(MOV, Some(duration_ms), &[video("h264", (854, 480)), audio("aac", Some(duration_ms))])
}

fn planned() -> Plan {
    plan(Container::Mp4, Scale::Height(480))
}

#[test]
fn an_honest_output_passes() {
    check(&planned(), &input(), &made(10_000), Ok(()));
    check(&planned(), &input(), &made(10_040), Ok(()));
    check(&planned(), &input(), &made(9_980), Ok(()));
}

#[test]
fn each_way_to_differ_is_named() {
    let differs = |change: fn(&mut Probe), expect: Difference| {
        let mut found = made(10_000);
        change(&mut found);
        check(&planned(), &input(), &found, Err(expect));
    };
    differs(
        |found| found.format = "matroska,webm".to_owned(),
        Difference::Container { found: "matroska,webm".to_owned(), expected: "mov" },
    );
    differs(
        |found| found.streams[0].codec = "hevc".to_owned(),
        Difference::Codec { kind: "video", found: "hevc".to_owned(), expected: "h264" },
    );
    differs(
        |found| found.streams[1].codec = "mp3".to_owned(),
        Difference::Codec { kind: "audio", found: "mp3".to_owned(), expected: "aac" },
    );
    differs(
        |found| found.streams[0].width = Some(856),
        Difference::Size { found: (856, 480), expected: (854, 480) },
    );
    differs(
        |found| found.streams[0].height = None,
        Difference::Size { found: (854, 0), expected: (854, 480) },
    );
    differs(
        |found| drop(found.streams.pop()),
        Difference::Tracks { kind: "audio", found: 0, expected: 1 },
    );
    differs(
        |found| drop(found.streams.remove(0)),
        Difference::Tracks { kind: "video", found: 0, expected: 1 },
    );
    differs(
        |found| found.streams.push(found.streams[0].clone()),
        Difference::Tracks { kind: "video", found: 2, expected: 1 },
    );
    differs(
        |found| found.streams.push(ProbedStream { kind: "data".to_owned(), ..audio("bin", None) }),
        Difference::Tracks { kind: "other", found: 1, expected: 0 },
    );
    let (short, long) = (10_000 - 1700, 20_000 + 1900);
    differs(
        |found| found.duration_ms = Some(8299),
        Difference::Short { found_ms: 8299, expected_ms: short },
    );
    differs(
        |found| found.duration_ms = None,
        Difference::Short { found_ms: 0, expected_ms: short },
    );
    differs(
        |found| found.duration_ms = Some(21_901),
        Difference::Long { found_ms: 21_901, expected_ms: long },
    );
    let sentence = Difference::Size { found: (856, 480), expected: (854, 480) }.to_string();
    assert_eq!(sentence, "has pictures of 856x480 where 854x480 was planned");
}

#[test]
fn sizes_follow_the_filter_s_arithmetic_and_the_rotation() {
    let rows = [
        (Scale::Source, (1280, 720), (1280, 720)),
        (Scale::Source, (1281, 721), (1280, 720)),
        (Scale::Source, (1, 1), (2, 2)),
        (Scale::Height(480), (1280, 720), (854, 480)),
        (Scale::Height(480), (1920, 1080), (854, 480)),
        (Scale::Height(240), (320, 241), (318, 240)),
        (Scale::Height(480), (720, 1280), (270, 480)),
        (Scale::Width(640), (1280, 720), (640, 360)),
        (Scale::Width(100), (333, 1000), (100, 300)),
        (Scale::Exact(64, 48), (1280, 720), (64, 48)),
    ];
    for (scale, of, (width, height)) in rows {
        let mut input = input();
        (input.streams[0].width, input.streams[0].height) = (Some(of.0), Some(of.1));
        let mut found = made(10_000);
        (found.streams[0].width, found.streams[0].height) = (Some(width), Some(height));
        check(&plan(Container::Mp4, scale), &input, &found, Ok(()));
        // A phone held upright: the header's picture lies, the decoded one stands.
        (input.streams[0].width, input.streams[0].height) = (Some(of.1), Some(of.0));
        check(&plan(Container::Mp4, scale), &input, &found, Ok(()));
    }
    // Where the prober could not size the input, nothing is asked of the output's size.
    let mut unsized_input = input();
    unsized_input.streams[0].width = None;
    check(&planned(), &unsized_input, &made(10_000), Ok(()));
    // The cover of an album is not the film.
    let mut covered = input();
    covered.streams.insert(0, ProbedStream { attached: true, ..video("mjpeg", (600, 600)) });
    check(&planned(), &covered, &made(10_000), Ok(()));
}

#[test]
fn sound_is_there_when_it_was_planned_and_the_input_has_it() {
    let mute = |probe: &Probe| Probe { streams: probe.streams[..1].to_vec(), ..probe.clone() };
    let one = Err(Difference::Tracks { kind: "audio", found: 1, expected: 0 });
    check(&planned(), &mute(&input()), &mute(&made(10_000)), Ok(()));
    check(&planned(), &mute(&input()), &made(10_000), one.clone());
    let mut silent = planned();
    silent.outputs[0].audio = None;
    check(&silent, &input(), &mute(&made(10_000)), Ok(()));
    check(&silent, &input(), &made(10_000), one);
    // Some cameras write a sound track without one sample.
    let mut empty = input();
    empty.streams[1].duration_ms = Some(0);
    check(&planned(), &empty, &mute(&made(10_000)), Ok(()));
    check(&planned(), &empty, &made(10_000), Ok(()));
    // A tenant's own arguments may take several tracks.
    let mut two = input();
    two.streams.push(audio("ac3", Some(4_000)));
    let mut raw = planned();
    let mut tree = raw.outputs[0].tree();
    tree.maps.push(Value::read("0:a:1").unwrap());
    raw.outputs[0].raw = Some(tree);
    let mut both = made(10_000);
    both.streams.push(audio("aac", Some(4_000)));
    check(&raw, &two, &both, Ok(()));
    let one = Err(Difference::Tracks { kind: "audio", found: 1, expected: 2 });
    check(&raw, &two, &made(10_000), one);
    // Sound alone, of a film.
    let mut sound = planned();
    sound.outputs[0] = OutputPlan {
        video: None,
        format: Format::Mp3,
        audio: Some(AudioPlan { codec: AudioCodec::Mp3, bitrate: 96_000 }),
        ..sound.outputs[0].clone()
    };
    let mp3 = probe("mp3", Some(10_030), &[audio("mp3", Some(10_030))]);
    check(&sound, &input(), &mp3, Ok(()));
    let none = Err(Difference::Tracks { kind: "audio", found: 0, expected: 1 });
    check(&sound, &mute(&input()), &probe("mp3", Some(10_000), &[]), none);
}

#[test]
fn lengths_are_held_to_what_the_container_knows() {
    let short = |found_ms, expected_ms| Err(Difference::Short { found_ms, expected_ms });
    // The picture runs longer than the sound: the sound's end is the least.
    let mut tail = input();
    tail.duration_ms = Some(60_000);
    check(&planned(), &tail, &made(10_000), Ok(()));
    check(&planned(), &tail, &made(8_000), short(8000, 8300));
    // Matroska tells the whole only.
    let mut whole = input();
    whole.streams.iter_mut().for_each(|stream| stream.duration_ms = None);
    check(&plan(Container::Matroska, Scale::Height(480)), &whole, &made(6_000), Ok(()));
    check(&plan(Container::Matroska, Scale::Height(480)), &whole, &made(3_000), short(3000, 3400));
    // These guess.
    use Container as C;
    for guessing in [C::MpegTs, C::Flv, C::Aac, C::Mp3, C::Ogg] {
        for ms in [1, 1_000_000] {
            check(&plan(guessing, Scale::Height(480)), &input(), &made(ms), Ok(()));
        }
    }
    // A picture that is not a film has no length.
    let still = probe("png_pipe", None, &[video("png", (1280, 720))]);
    let mut found = probe(MOV, Some(40), &[video("h264", (854, 480))]);
    check(&plan(Container::Png, Scale::Height(480)), &still, &found, Ok(()));
    // Two slides of ten seconds each: the last one's time is lost, its frame is not.
    let picture =
        ProbedStream { duration_ms: Some(20_000), frames: Some(2), ..video("gif", (1280, 720)) };
    let slides = probe("gif", Some(20_000), std::slice::from_ref(&picture));
    let gif = plan(Container::Gif, Scale::Height(480));
    (found.duration_ms, found.streams[0].frames) = (Some(10_010), Some(2));
    check(&gif, &slides, &found, Ok(()));
    // Three hundred frames, of which ten were made.
    let film = probe("gif", Some(20_000), &[ProbedStream { frames: Some(300), ..picture }]);
    found.streams[0].frames = Some(10);
    check(&gif, &film, &found, short(10_010, 18_100));
    found.streams[0].frames = Some(290);
    check(&gif, &film, &found, Ok(()));
}

/// Inputs that are rare and honest, as our FFmpeg probes and encodes them.
#[test]
fn brk_41_lengths_that_headers_do_not_tell_are_no_fault_of_the_output() {
    let matroska = plan(Container::Matroska, Scale::Height(480));
    let of = |duration_ms, start_ms, streams: &[ProbedStream]| Probe {
        start_ms,
        ..probe("matroska,webm", Some(duration_ms), streams)
    };
    let both = [video("hevc", (1280, 720)), audio("aac", None)];
    // Twenty seconds out of a stream, a hundred seconds after it began.
    let part = of(120_008, Some(100_000), &both);
    check(&matroska, &part, &made(20_009), Ok(()));
    let short = Err(Difference::Short { found_ms: 1_000, expected_ms: 8_304 });
    check(&matroska, &part, &made(1_000), short);
    // A minute of picture and ten seconds of sound, of which the sound is wanted.
    let mut sound = matroska.clone();
    sound.outputs[0] = OutputPlan {
        video: None,
        format: Format::Mp3,
        audio: Some(AudioPlan { codec: AudioCodec::Mp3, bitrate: 96_000 }),
        ..sound.outputs[0].clone()
    };
    let mp3 = |ms| probe("mp3", Some(ms), &[audio("mp3", Some(ms))]);
    check(&sound, &of(60_005, None, &both), &mp3(10_056), Ok(()));
    let short = Err(Difference::Short { found_ms: 10_056, expected_ms: 27_902 });
    check(&sound, &of(60_005, None, &both[1..]), &mp3(10_056), short);
    // Three slides: the last one is there for a second, and then as long as the one before it.
    let slide =
        ProbedStream { duration_ms: Some(41_000), frames: Some(3), ..video("h264", (1280, 720)) };
    let slides = probe(MOV, Some(41_000), std::slice::from_ref(&slide));
    let found = |ms| probe(MOV, Some(ms), &[video("h264", (854, 480))]);
    check(&planned(), &slides, &found(60_000), Ok(()));
    let mut window = planned();
    let mut tree = window.outputs[0].tree();
    tree.window.duration = Value::read("2");
    window.outputs[0].raw = Some(tree);
    check(&window, &slides, &found(20_000), Ok(()));
    // A window with none of the sound.
    check(&window, &input(), &found(2_000), Ok(()));
}

/// What a tenant's own arguments change.
#[test]
fn trees_are_followed_through_their_filters_and_windows() {
    let filter = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let given = value.split(':').filter(|part| !part.is_empty());
        let given = given.map(|part| match part.split_once('=') {
            Some((key, value)) => (Some(key), value),
            None => (None, part),
        });
        VideoFilter::read(name, Given::new(given.collect())).unwrap()
    };
    let rows = [
        ("crop=640:360", "", "", (640, 360), 10_000),
        ("pad=1300:800", "hflip", "", (1300, 800), 10_000),
        ("transpose=clock", "scale=w=-2:h=640", "", (360, 640), 10_000),
        ("scale=w=600:h=-2", "crop=300:300", "", (300, 300), 10_000),
        ("fps=5", "", "-t 4", (1280, 720), 4_000),
        ("hflip", "", "-ss 7", (1280, 720), 3_000),
        ("hflip", "", "-ss 12", (1280, 720), 40),
    ];
    for (first, second, window, (width, height), ms) in rows {
        let mut plan = planned();
        let mut tree = plan.outputs[0].tree();
        let video = tree.video.as_mut().unwrap();
        video.filters =
            [first, second].iter().filter(|text| !text.is_empty()).map(|t| filter(t)).collect();
        match window.split_once(' ') {
            Some(("-t", secs)) => tree.duration = Value::read(secs),
            Some((_, secs)) => tree.window.seek = Value::read(secs),
            None => {}
        }
        plan.outputs[0].raw = Some(tree);
        (plan.outputs[0].video, plan.outputs[0].audio) = (None, None);
        let mut found = made(ms);
        (found.streams[0].width, found.streams[0].height) = (Some(width), Some(height));
        check(&plan, &input(), &found, Ok(()));
        found.duration_ms = Some(22_000);
        let expected = expected(&plan, &plan.outputs[0], &input());
        assert!(matches!(compare(&expected, &found), Err(Difference::Long { .. })), "{first}");
        found.duration_ms = Some(0);
        let short = compare(&expected, &found);
        assert_eq!(short.is_err(), ms > 1600, "{first} {window}");
    }
    // Colours at half the size: the filter rounds, and nobody asks.
    let mut plan = planned();
    let mut tree = plan.outputs[0].tree();
    tree.video.as_mut().unwrap().filters = vec![filter("crop=641:361")];
    plan.outputs[0].raw = Some(tree);
    check(&plan, &input(), &made(10_000), Ok(()));
}

#[test]
fn a_report_is_held_to_its_job() {
    let good = samples::jobs::completed();
    assert_eq!(reported(&good), Ok(()));
    let changed = |change: fn(&mut hotcell_schemas::Report)| {
        let mut job = good.clone();
        change(job.attempts.last_mut().unwrap().report.as_mut().unwrap());
        reported(&job)
    };
    assert_eq!(changed(|report| report.output = None), Err(Difference::NotProbed));
    assert_eq!(changed(|report| report.input = None), Err(Difference::NotProbed));
    let other = changed(|report| {
        report.output.as_mut().unwrap().streams[0].codec = "vp9".to_owned();
    });
    assert!(matches!(other, Err(Difference::Codec { kind: "video", .. })), "{other:?}");
    // A stand-in makes no media.
    let stand_in = changed(|report| {
        report.provenance.cell = "noop".to_owned();
        report.output = None;
    });
    assert_eq!(stand_in, Ok(()));
    let mut job = good;
    job.plan = None;
    assert_eq!(reported(&job), Err(Difference::NotProbed));
}

proptest! {
    #[test]
    fn no_numbers_cause_a_panic(
        width: u32, height: u32, to: u32, duration: Option<u64>, own: Option<u64>,
        frames: Option<u64>, which in 0_usize..4,
    ) {
        let scale =
            [Scale::Source, Scale::Height(to), Scale::Width(to), Scale::Exact(to, to)][which];
        let picture = ProbedStream { duration_ms: own, frames, ..video("h264", (width, height)) };
        let input = probe(MOV, duration, std::slice::from_ref(&picture));
        let plan = plan(Container::Mp4, scale);
        let expected = expected(&plan, &plan.outputs[0], &input);
        drop(compare(&expected, &input));
    }
}
