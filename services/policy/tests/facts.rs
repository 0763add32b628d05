//! The facts of a job are those of its compiled plan.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_policy::{BITRATE_MOST, Facts, OutputFacts, STORE};
use hotcell_schemas::{
    Plan,
    limits::DURATION_SECS_MAX,
    plan::{Container, Sniffed},
};
use serde_json::{Value, json};

fn plan(output: Value, own: Value) -> Plan {
    plan_as("mp4", output, own)
}

fn plan_as(format: &str, output: Value, own: Value) -> Plan {
    let mut one = json!({
        "name": "out", "format": format, "content_type": "video/mp4",
        "video": null, "audio": null,
    });
    one.as_object_mut().unwrap().extend(output.as_object().unwrap().clone());
    if !own.is_null() {
        let mut tree = json!({
            "window": {"seek": null, "duration": null}, "maps": [], "video": null, "audio": null,
            "duration": null, "tags": [], "muxer": {"format": format, "flags": []},
        });
        tree.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        one["raw"] = tree;
    }
    let limits = json!({
        "memory_bytes": 1, "cpu_secs": 1, "wall_secs": 1, "output_bytes": 1, "temp_bytes": 1,
        "procs": 1, "stall_secs": 1, "files": 1,
    });
    let whole =
        json!({"input": "mp4", "outputs": [one], "argv": [], "filters": [], "limits": limits});
    serde_json::from_value(whole).unwrap()
}

fn sniffed(size: Option<(u32, u32)>, duration_ms: Option<u64>) -> Sniffed {
    Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: size.map(|size| size.0),
        height: size.map(|size| size.1),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms,
        protected: false,
    }
}

fn of(plan: &Plan, sniffed: Option<&Sniffed>) -> OutputFacts {
    let facts = Facts::of_plan(plan, sniffed, STORE);
    assert_eq!((facts.outputs.len(), facts.destination.as_str()), (1, STORE));
    facts.outputs.into_iter().next().unwrap()
}

fn preset(scale: Value, rate: Value) -> Plan {
    let video = json!({"codec": "h264", "rate": rate, "effort": "medium", "scale": scale});
    let audio = json!({"codec": "aac", "bitrate": 128_000});
    plan(json!({"video": video, "audio": audio}), Value::Null)
}

#[test]
fn iam_07_iam_08_facts_are_those_of_the_command_line() {
    let facts = of(&preset(json!({"height": 480}), json!({"crf": 21})), None);
    let expect = OutputFacts {
        format: "mp4".to_owned(),
        video_codec: "h264".to_owned(),
        audio_codec: "aac".to_owned(),
        height: 480,
        video_bitrate: BITRATE_MOST,
        audio_bitrate: 128_000,
        video_maxrate: BITRATE_MOST,
        crf: 21,
        fps: 0,
        duration_secs: 0,
        filters: facts.filters.clone(),
        raw_arguments: false,
    };
    assert_eq!(facts, expect);
    assert!(facts.filters.iter().any(|filter| filter == "scale"), "{:?}", facts.filters);
    let rate = of(&preset(json!("source"), json!({"bitrate": 800_000})), None);
    assert_eq!((rate.video_bitrate, rate.crf), (800_000, -1));
}

#[test]
fn what_stays_unknown_after_the_input_was_read_is_the_most_that_it_can_be() {
    let source = preset(json!("source"), json!({"crf": 21}));
    let seen = |size, ms| {
        let facts = of(&source, Some(&sniffed(size, ms)));
        (facts.height, facts.duration_secs)
    };
    let before = of(&source, None);
    assert_eq!((before.height, before.duration_secs), (0, 0), "intake has not read it");
    assert_eq!(seen(Some((1920, 1080)), Some(60_001)), (1080, 61));
    assert_eq!(seen(None, None), (8192, i64::from(DURATION_SECS_MAX)));
    let height = preset(json!({"height": 480}), json!({"crf": 21}));
    assert_eq!(of(&height, Some(&sniffed(Some((1920, 1080)), None))).height, 480);
    assert_eq!(of(&height, Some(&sniffed(None, None))).height, 480, "named, whatever the input is");
    assert_eq!(of(&height, None).height, 480);
}

#[test]
fn of_own_arguments_the_tree_speaks() {
    let h265 = json!({"h265": {"preset": "slow"}});
    let fps = json!({"fps": {"rate": {"ntsc": 60}}});
    let video = json!({"encoder": h265, "picture": {}, "filters": [fps]});
    let own = json!({"video": video, "duration": 90_500});
    let facts = of(&plan(json!({}), own.clone()), None);
    assert!(facts.raw_arguments);
    assert_eq!((facts.video_codec.as_str(), facts.audio_codec.as_str()), ("h265", ""));
    assert_eq!((facts.crf, facts.video_bitrate), (28, BITRATE_MOST), "x265's own quality");
    assert_eq!((facts.audio_bitrate, facts.video_maxrate), (0, BITRATE_MOST), "no sound");
    assert_eq!((facts.fps, facts.duration_secs), (60, 91));
    assert_eq!(facts.filters, ["fps"]);
    let mut slower = own;
    let tempo = json!({"tempo": {"tempo": 500}});
    slower["audio"] = json!({"encoder": {"aac": {}}, "sound": {}, "filters": [tempo]});
    let facts = of(&plan(json!({}), slower), Some(&sniffed(Some((8, 8)), Some(1000))));
    assert_eq!(facts.duration_secs, i64::from(DURATION_SECS_MAX), "a tempo makes it unknown");
    let protected = Sniffed { protected: true, ..sniffed(None, None) };
    assert!(Facts::of_plan(&plan(json!({}), json!({})), Some(&protected), STORE).protected_source);
}

/// IAM-08: a ceiling of bits per second refuses what has none, not only what says too much.
#[test]
fn iam_08_bits_that_nothing_bounds_are_the_most() {
    let bits = |format: &str, encoder: Value| {
        let video = json!({"encoder": encoder, "picture": {}, "filters": []});
        let facts = of(&plan_as(format, json!({}), json!({"video": video})), None);
        (facts.video_bitrate, facts.video_maxrate, facts.crf)
    };
    let h264 = |own: Value| bits("mp4", json!({"h264": own}));
    assert_eq!(h264(json!({"crf": 18})), (BITRATE_MOST, BITRATE_MOST, 18));
    assert_eq!(h264(json!({"bitrate": 4_000_000})), (4_000_000, BITRATE_MOST, -1));
    let capped = json!({"crf": 18, "maxrate": 6_000_000, "bufsize": 12_000_000});
    assert_eq!(h264(capped), (6_000_000, 6_000_000, 18), "no more than its bound");
    // x264 made 41 Mbit/s of five seconds of noise at 5 Mbit/s with a buffer of 200 Mbit.
    let deep = |crf: Value| json!({"crf": crf, "maxrate": 6_000_000, "bufsize": 12_000_001});
    assert_eq!(h264(deep(json!(18))), (BITRATE_MOST, BITRATE_MOST, 18), "what the buffer holds");
    let deep = json!({"bitrate": 4_000_000, "maxrate": 6_000_000, "bufsize": 200_000_000});
    assert_eq!(h264(deep), (4_000_000, BITRATE_MOST, -1));
    let vp9 = |own: Value| bits("webm", json!({"vp9": own}));
    let free = json!({"crf": 30, "bitrate": 0, "maxrate": 900_000, "bufsize": 900_000});
    assert_eq!(vp9(free), (BITRATE_MOST, BITRATE_MOST, 30), "libvpx does not look at its bound");
    let both = json!({"crf": 30, "bitrate": 500_000, "maxrate": 900_000, "bufsize": 900_000});
    assert_eq!(vp9(both), (500_000, 900_000, 30));
    let audio = json!({"encoder": {"aac": {}}, "sound": {}, "filters": []});
    let sound = of(&plan_as("m4a", json!({}), json!({"audio": audio})), None);
    let heard = (sound.audio_bitrate, sound.video_bitrate, sound.video_maxrate);
    assert_eq!(heard, (BITRATE_MOST, 0, 0), "the encoder's own choice is not known");
}

/// IAM-08: the rate that a filter sets is not the last word when one behind it doubles it.
#[test]
fn a_frame_of_each_field_counts_as_one() {
    let of = |fields: Value| {
        let fps = json!({"fps": {"rate": {"whole": 30}}});
        let yadif = json!({"yadif": {"fields": fields, "parity": null, "frames": null}});
        let rate = |filters: [&Value; 2]| {
            let video = json!({"encoder": {"h264": {}}, "picture": {}, "filters": filters});
            of(&plan(json!({}), json!({"video": video})), None).fps
        };
        (rate([&fps, &yadif]), rate([&yadif, &fps]))
    };
    assert_eq!(of(json!("send_field")), (60, 30));
    assert_eq!(of(json!("send_frame")), (30, 30));
    assert_eq!(of(Value::Null), (30, 30));
}
