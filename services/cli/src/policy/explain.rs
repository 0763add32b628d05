//! `hotcell policy explain`: what a request would make FFmpeg do, and which rule decided what.
//!
//! Promises: the code that decides is the validator's own, so what is shown is what would happen; it
//! needs no installation. Refuses with exit code 1 what the API would refuse, and says where.

use super::{
    read_at_most,
    who::{Said, WhoArgs},
};
use crate::{
    client,
    fail::{Context as _, Fail},
    print,
};
use hotcell_schemas::{
    Plan,
    limits::HTTP_BODY_BYTES_MAX,
    plan::{
        Container, OutputPlan, Sniffed, Tree,
        encoder::Options as _,
        filter::Filter as _,
        value::{Time, Value as _},
    },
    request::{AudioCodec, OutputRequest, TranscodeRequest},
};
use hotcell_validator::{
    FieldError, Scanner,
    check::{
        AUDIO_BITRATE_MAX, AUDIO_BITRATE_MIN, HEIGHT_MAX, HEIGHT_MIN, MP3_BITRATE_MAX,
        MP3_BITRATE_MIN, RAW_FIELD, VIDEO_BITRATE_MAX, VIDEO_BITRATE_MIN, WIDTH_MAX, WIDTH_MIN,
    },
    check_request, compile,
    raw::{self, Decision},
    sniff,
};
use serde_json::{Value, json};
use std::{fs::File, io::Read as _, path::Path};

/// Bytes of a file that are sniffed at a time.
const STEP_BYTES: usize = 1 << 20;

/// Columns of the command's lines.
const COLUMNS: usize = 96;

/// Runs the command.
pub(super) fn run(
    path: &Path,
    input: Option<&Path>,
    who: &WhoArgs,
    as_json: bool,
) -> Result<(), Fail> {
    let request = read(path)?;
    let sniffed = match input {
        Some(file) => sniff_file(file)?,
        None => assumed(),
    };
    let mut decisions = decisions(&request);
    let verdict = match check_request(&request) {
        Ok(()) => compile(&request, &sniffed).map_err(|failure| failure.message),
        Err(error) => {
            refuse(&mut decisions, &error);
            Err(error.to_string())
        }
    };
    // Of an input that is not given, no ceiling on its length is asked about.
    let known = Sniffed {
        duration_ms: sniffed.duration_ms.or(input.is_none().then_some(0)),
        ..sniffed.clone()
    };
    let said = match &verdict {
        Ok(plan) => who.ask(plan, &known, request.destination.as_ref())?,
        Err(_) => None,
    };
    if as_json {
        json_report(&request, &sniffed, &decisions, &verdict, said.as_ref());
    } else {
        report(path, &request, input.is_some(), &sniffed, &decisions, &verdict);
        said.iter().for_each(Said::print);
    }
    match verdict {
        Ok(_) => said.as_ref().map_or(Ok(()), Said::verdict),
        Err(rule) => Err(Fail::failed(format!("refused: {rule}"))),
    }
}

fn read(path: &Path) -> Result<TranscodeRequest, Fail> {
    let bytes = read_at_most(path, HTTP_BODY_BYTES_MAX)?;
    let request: TranscodeRequest = serde_json::from_slice(&bytes)
        .map_err(|error| Fail::failed(format!("refused: {}: {error}", path.display())))?;
    if request.preset_version.is_some() {
        return Err(Fail::failed("refused: presetVersion: is set by the server"));
    }
    match &request.preset_name {
        None => Ok(request),
        Some(name) => Err(Fail::failed(format!(
            "cannot say: presetName: only the installation knows what {name} settles. Ask it by \
             POST /v1/policy/explain, or put in what `hotcell preset show {name}` says"
        ))),
    }
}

const fn assumed_size() -> (u32, u32) {
    (1920, 1080)
}

fn assumed() -> Sniffed {
    let (width, height) = assumed_size();
    Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(width),
        height: Some(height),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms: None,
        protected: false,
    }
}

/// What the validator would see in a file.
fn sniff_file(path: &Path) -> Result<Sniffed, Fail> {
    let doing = format!("cannot read {}", path.display());
    let kind = client::content_type(path)?;
    let (mut file, mut scanner) = (File::open(path).or_fail(&doing)?, Scanner::new());
    let mut piece = vec![0; STEP_BYTES];
    loop {
        let count = file.read(&mut piece).or_fail(&doing)?;
        match piece.get(..count) {
            Some([]) | None => break,
            Some(bytes) => scanner.feed(bytes),
        }
    }
    sniff(&scanner.finish(), kind)
        .map_err(|failure| Fail::failed(format!("refused: {}: {}", failure.code, failure.message)))
}

/// Stands for the rule where there is none.
const REFUSED: &str = "REFUSED";

/// One line of what was decided: where, what was asked, the rule, what it lets through.
struct Line {
    place: String,
    asked: String,
    rule: String,
    takes: String,
}

/// Marks the line of a refused field, or adds one for a field that has none.
fn refuse(lines: &mut Vec<Line>, error: &FieldError) {
    if lines.iter().any(|line| line.rule == REFUSED) {
        return;
    }
    let (rule, takes) = (REFUSED.to_owned(), error.rule.to_string());
    match lines.iter_mut().find(|line| line.place == error.field) {
        Some(line) => (line.rule, line.takes) = (rule, takes),
        None => {
            let place = error.field.to_string();
            lines.push(Line { place, asked: String::new(), rule, takes });
        }
    }
}

fn decisions(request: &TranscodeRequest) -> Vec<Line> {
    let line = |place: &str, asked: String, rule: &str, takes: String| Line {
        place: place.to_owned(),
        asked,
        rule: rule.to_owned(),
        takes,
    };
    let mut lines: Vec<Line> = request
        .inputs
        .iter()
        .map(|input| {
            let takes = "'upload:' and the name of a confirmed upload".to_owned();
            line("inputs[0].url", input.url.clone(), "input", takes)
        })
        .collect();
    let formats = "one of mp4, webm, mkv, mp3, m4a".to_owned();
    if let Some(format) = request.output_format {
        lines.push(line("outputFormat", word(&format), "format", formats.clone()));
    }
    if let Some(name) = &request.destination {
        let takes = "one of the tenant's; GET /v1/destinations lists them".to_owned();
        lines.push(line("destination", name.to_string(), "destination", takes));
    }
    if let Some(preset) = request.preset {
        let (quality, resolution) = (word(&preset.quality), word(&preset.resolution));
        let qualities = "one of low, medium, high".to_owned();
        let sizes = "one of source, 240p, 360p, 480p, 720p, 1080p, 2160p".to_owned();
        lines.push(line("preset.quality", quality, "preset", qualities));
        lines.push(line("preset.resolution", resolution, "preset", sizes));
    }
    for output in &request.outputs {
        lines.push(line("outputs[0].format", word(&output.format), "format", formats.clone()));
        if output.ffmpeg_args.is_empty() {
            explicit(output, &mut lines);
        } else {
            own(output, &mut lines);
        }
    }
    lines
}

fn word(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).unwrap_or_default();
    text.as_str().map_or_else(|| text.to_string(), str::to_owned)
}

fn explicit(output: &OutputRequest, lines: &mut Vec<Line>) {
    let mut push = |place: &str, asked: String, rule: &str, takes: String| {
        let place = format!("outputs[0].{place}");
        lines.push(Line { place, asked, rule: rule.to_owned(), takes });
    };
    let range = |min: u32, max: u32, kind: &str| format!("{kind} from {min} to {max}");
    if let Some(video) = &output.video {
        push("video.codec", word(&video.codec), "codec", "one that the format holds".to_owned());
        let sides = [
            ("video.width", video.width, range(WIDTH_MIN, WIDTH_MAX, "an even number")),
            ("video.height", video.height, range(HEIGHT_MIN, HEIGHT_MAX, "an even number")),
            (
                "video.bitrate",
                video.bitrate,
                range(VIDEO_BITRATE_MIN, VIDEO_BITRATE_MAX, "a number"),
            ),
        ];
        for (place, asked, takes) in sides {
            if let Some(asked) = asked {
                push(place, asked.to_string(), "range", takes);
            }
        }
    }
    if let Some(audio) = &output.audio {
        push("audio.codec", word(&audio.codec), "codec", "one that the format holds".to_owned());
        if let Some(bitrate) = audio.bitrate {
            let (min, max) = match audio.codec {
                AudioCodec::Mp3 => (MP3_BITRATE_MIN, MP3_BITRATE_MAX),
                AudioCodec::Aac | AudioCodec::Opus => (AUDIO_BITRATE_MIN, AUDIO_BITRATE_MAX),
            };
            let takes = range(min, max, "a number");
            push("audio.bitrate", bitrate.to_string(), "range", takes);
        }
    }
}

fn own(output: &OutputRequest, lines: &mut Vec<Line>) {
    let arguments = &output.ffmpeg_args;
    let (decisions, verdict) = raw::explain(output.format, arguments);
    let asked = |decision: &Decision| {
        let tokens = arguments.iter().skip(decision.at).take(decision.tokens);
        tokens.cloned().collect::<Vec<_>>().join(" ")
    };
    // Encoders are read first, because options are theirs: the last of the lines is what is refused.
    let stop = verdict.as_ref().err().map_or(usize::MAX, |refusal| refusal.at);
    let before = decisions.into_iter().filter(|decision| decision.at < stop);
    lines.extend(before.map(|decision| Line {
        place: format!("{RAW_FIELD}[{}]", decision.at),
        asked: asked(&decision),
        rule: decision.rule,
        takes: decision.takes,
    }));
    if let Err(refusal) = verdict {
        lines.push(Line {
            place: format!("{RAW_FIELD}[{}]", refusal.at),
            asked: arguments.get(refusal.at).cloned().unwrap_or_default(),
            rule: REFUSED.to_owned(),
            takes: refusal.rule.into_owned(),
        });
    }
}

fn json_report(
    request: &TranscodeRequest,
    input: &Sniffed,
    lines: &[Line],
    verdict: &Result<Plan, String>,
    said: Option<&Said>,
) {
    let decisions: Vec<Value> = lines
        .iter()
        .map(|line| {
            let refused = line.rule == REFUSED;
            json!({
                "field": line.place, "asked": line.asked, "accepted": !refused,
                "rule": if refused { None } else { Some(&line.rule) }, "takes": line.takes,
            })
        })
        .collect();
    let plan = verdict.as_ref().ok();
    print::json(&json!({
        "accepted": plan.is_some(),
        "needs_raw_arguments": request.has_raw_arguments(),
        "input": input,
        "decisions": decisions,
        "tree": plan.and_then(|plan| plan.outputs.first()).map(OutputPlan::tree),
        "argv": plan.map(|plan| &plan.argv),
        "filters": plan.map(|plan| &plan.filters),
        "limits": plan.map(|plan| &plan.limits),
        "refused": verdict.as_ref().err(),
        "policy": said.map(Said::json),
    }));
}

fn report(
    path: &Path,
    request: &TranscodeRequest,
    given: bool,
    input: &Sniffed,
    lines: &[Line],
    verdict: &Result<Plan, String>,
) {
    let size = match input.width.zip(input.height) {
        Some((width, height)) => format!(", {width} x {height}"),
        None => String::new(),
    };
    let how = if given { "as sniffed" } else { "assumed: --input FILE sniffs a real one" };
    print::line(format!(
        "request  {}\ninput    {}{size} ({how})",
        path.display(),
        word(&input.container)
    ));
    if request.has_raw_arguments() {
        print::line("right    the tenant's record must permit FFmpeg's own arguments");
    }
    let mut rows = vec![["FIELD", "ASKED", "RULE", "LETS THROUGH"].map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| {
        let place = line.place.strip_prefix("outputs[0].").unwrap_or(&line.place).to_owned();
        vec![place, cut(&line.asked, 34), line.rule.clone(), cut(&line.takes, 60)]
    }));
    print::line(format!("\nRules\n{}", indented(&print::table(&rows))));
    let Ok(plan) = verdict else { return };
    if let Some(output) = plan.outputs.first() {
        print::line(format!("\nTree\n{}", indented(&print::table(&tree(&output.tree(), output)))));
    }
    let limits = &plan.limits;
    print::line(format!(
        "\nLimits of the cell\n  memory {} MiB, processor {} s, wall clock {} s, output {} MiB, {} threads",
        limits.memory_bytes >> 20,
        limits.cpu_secs,
        limits.wall_secs,
        limits.output_bytes >> 20,
        limits.procs
    ));
    print::line(format!("\nCommand\n{}", indented(&wrapped(&plan.argv))));
}

fn tree(tree: &Tree, output: &OutputPlan) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, text: String| {
        if !text.is_empty() {
            rows.push(vec![name.to_owned(), text]);
        }
    };
    fn time<const MIN: i32>(name: &str, time: Option<Time<MIN>>) -> Option<String> {
        time.map(|time| format!("{name} {} s", time.write()))
    }
    let window = [time("from", tree.window.seek), time("for", tree.window.duration)];
    let window: Vec<String> = window.into_iter().flatten().collect();
    row("input", if window.is_empty() { "all of it".to_owned() } else { window.join(", ") });
    let maps: Vec<String> = tree.maps.iter().map(hotcell_schemas::plan::tree::Map::write).collect();
    row("streams", maps.join(", "));
    let settings = |tokens: Vec<(&str, String)>| {
        let join = |(option, value): (&str, String)| format!("{option} {value}");
        tokens.into_iter().map(join).collect::<Vec<_>>().join("  ")
    };
    if let Some(video) = &tree.video {
        row("picture", video.encoder.name().to_owned());
        let tokens = [video.encoder.tokens(), video.picture.tokens()].concat();
        row("", settings(tokens));
        video.filters.iter().for_each(|filter| row("  filter", filter.write()));
    }
    if let Some(audio) = &tree.audio {
        row("sound", audio.encoder.name().to_owned());
        row("", settings([audio.encoder.tokens(), audio.sound.tokens()].concat()));
        audio.filters.iter().for_each(|filter| row("  filter", filter.write()));
    }
    for tag in &tree.tags {
        let (option, value) = tag.tokens();
        row("tag", format!("{option} {value}"));
    }
    let flags: Vec<&str> = tree.muxer.flags.iter().map(|flag| flag.word()).collect();
    let limit = time(", at most", tree.duration).unwrap_or_default();
    let container = format!("{} {} {}{limit}", output.name, output.content_type, flags.join("+"));
    row("output", container.trim_end().to_owned());
    rows
}

/// The command's tokens, an option and its value together, in lines that fit.
fn wrapped(argv: &[String]) -> String {
    let mut lines = vec!["ffmpeg".to_owned()];
    let mut tokens = argv.iter().peekable();
    while let Some(token) = tokens.next() {
        let value = tokens.next_if(|next| !next.starts_with('-') || next.as_str() == "-1");
        let item = value.map_or_else(|| token.clone(), |value| format!("{token} {value}"));
        match lines.last_mut() {
            Some(last) if last.chars().count() + item.chars().count() < COLUMNS => {
                last.push(' ');
                last.push_str(&item);
            }
            _ => lines.push(format!("  {item}")),
        }
    }
    lines.join("\n")
}

fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(output: Value) -> TranscodeRequest {
        let whole = json!({"inputs": [{"url": "upload:a.mp4"}], "outputs": [output]});
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn new_07_each_argument_is_explained_until_the_one_that_is_refused() {
        let args = ["-i", "{in0}", "-c:v", "libx264", "-report", "{out0}"];
        let lines = decisions(&request(json!({"format": "mp4", "ffmpegArgs": args})));
        let rules: Vec<_> = lines.iter().map(|l| (l.place.as_str(), l.rule.as_str())).collect();
        assert_eq!(
            rules,
            [
                ("inputs[0].url", "input"),
                ("outputs[0].format", "format"),
                ("outputs[0].ffmpegArgs[0]", "-i"),
                ("outputs[0].ffmpegArgs[2]", "-c:v"),
                ("outputs[0].ffmpegArgs[4]", "REFUSED"),
            ]
        );
        let args = ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"];
        let lines = decisions(&request(json!({"format": "mp4", "ffmpegArgs": args})));
        assert_eq!(lines.len(), 7);
        assert!(lines.iter().all(|line| line.rule != "REFUSED" && !line.takes.is_empty()));
    }

    #[test]
    fn explicit_settings_are_explained_too() {
        let video = json!({"codec": "h264", "height": 480});
        let lines = decisions(&request(json!({"format": "mp4", "video": video})));
        let places: Vec<_> = lines.iter().map(|line| line.place.as_str()).collect();
        let expect = ["inputs[0].url", "outputs[0].format", "outputs[0].video.codec"];
        assert_eq!(places[..3], expect);
        assert_eq!(places[3], "outputs[0].video.height");
    }

    #[test]
    fn the_field_that_is_refused_has_a_line_that_says_so() {
        let check = |body: Value, place: &str, asked: &str, takes: &str| {
            let request: TranscodeRequest = serde_json::from_value(body).unwrap();
            let mut lines = decisions(&request);
            refuse(&mut lines, &check_request(&request).unwrap_err());
            let refused: Vec<_> = lines.iter().filter(|line| line.rule == REFUSED).collect();
            assert_eq!(refused.len(), 1);
            assert_eq!((refused[0].place.as_str(), refused[0].asked.as_str()), (place, asked));
            assert!(refused[0].takes.contains(takes), "{}", refused[0].takes);
        };
        let preset = json!({"quality": "low", "resolution": "240p"});
        let whole =
            json!({"inputs": [{"url": "file:///x"}], "outputFormat": "mp4", "preset": preset});
        check(whole, "inputs[0].url", "file:///x", "upload:");
        let given = json!([{"url": "upload:a.mp4"}]);
        let outputs = json!([{"format": "mp4", "video": {"codec": "vp9"}}]);
        let whole = json!({"inputs": given, "outputs": outputs});
        check(whole, "outputs[0].video.codec", "vp9", "mp4 holds h264");
        check(json!({"inputs": given, "preset": preset}), "outputFormat", "", "with preset");
        let args = ["-i", "{in0}", "-crf", "99", "-c:v", "libx264", "-an", "{out0}"];
        let whole = json!({"inputs": given, "outputs": [{"format": "mp4", "ffmpegArgs": args}]});
        check(whole, "outputs[0].ffmpegArgs[3]", "99", "from 0 to 51");
    }

    #[test]
    fn a_command_is_wrapped_with_its_values() {
        let argv = ["-a", "1", "-map_metadata", "-1", "-n", "{out0}"].map(str::to_owned);
        assert_eq!(wrapped(&argv), "ffmpeg -a 1 -map_metadata -1 -n {out0}");
        let long = [format!("-{}", "x".repeat(COLUMNS)), "y".to_owned()];
        assert_eq!(wrapped(&long).lines().count(), 2);
    }
}
