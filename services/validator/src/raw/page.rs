//! The list as a page, docs/arguments.md: made of the same tables that the parser reads.

use super::{every_audio, every_video, list, refused::REFUSED};
use hotcell_schemas::{
    limits::{FILTERS_MAX, RAW_ARGUMENT_BYTES_MAX, RAW_ARGUMENTS_MAX, TAGS_MAX},
    plan::{
        encoder::{OptionRow, Options as _, Picture, Sound},
        filter::{AudioFilter, Filter, FilterRow, VideoFilter},
        tree::Map,
        value::{Length, Seconds, Value as _},
    },
};
const HEAD: &str = "\
<!-- Made from services/validator/src/raw: `UPDATE_GOLDEN=1 cargo test -p hotcell-validator --test \
arguments` -->
# FFmpeg's own arguments

A tenant whose record permits it (`hotcell tenant add NAME --raw-arguments`) may give an output's
settings as FFmpeg arguments instead of `video` and `audio`:

```json
{\"inputs\": [{\"url\": \"upload:clip.mov\"}],
 \"outputs\": [{\"format\": \"mp4\", \"ffmpegArgs\": [
   \"-ss\", \"1.5\", \"-i\", \"{in0}\",
   \"-c:v\", \"libx264\", \"-crf\", \"21\", \"-vf\", \"scale=1280:-2,fps=30\",
   \"-c:a\", \"aac\", \"-b:a\", \"128k\", \"{out0}\"]}]}
```

They are not passed on. A parser that accepts only what is on this page makes a typed tree of them,
the same kind of tree that a preset becomes, and FFmpeg's command line is compiled from the tree.
`hotcell policy explain job.json` shows both, and which rule decided about each argument. Anything
else is refused, with its place: `outputs[0].ffmpegArgs[7]`.

- `{in0}` after `-i` is the only input, `{out0}` at the end the only output.
- Each option stands once and is spelled as here: no abbreviations, no other stream specifiers.
- A chain of filters is `name=value:key=value`, joined by commas. There are no quotes, escapes,
  spaces, labels or expressions: a value is a number or a word of the list.
- `-c:v` or `-vn`, and `-c:a` or `-an`, are always said. Streams are encoded anew, never copied.
";

/// The page.
#[must_use]
pub fn arguments_md() -> String {
    let mut page = HEAD.to_owned();
    line(
        &mut page,
        &format!(
            "- At most {RAW_ARGUMENTS_MAX} arguments of {RAW_ARGUMENT_BYTES_MAX} bytes, {FILTERS_MAX} \
         filters in a chain, {TAGS_MAX} tags."
        ),
    );
    fixed(&mut page);
    for encoder in every_video() {
        options(&mut page, &format!("`-c:v {}`", encoder.name()), &encoder.rows());
    }
    options(&mut page, "Every video encoder", &Picture::rows());
    for encoder in every_audio() {
        options(&mut page, &format!("`-c:a {}`", encoder.name()), &encoder.rows());
    }
    options(&mut page, "Every audio encoder", &Sound::rows());
    filters(&mut page, "Filters of `-vf`", VideoFilter::rows());
    filters(&mut page, "Filters of `-af`", AudioFilter::rows());
    page.push_str(
        "\n## Refused\n\nEverything that is not above. These have a sentence of their own:\n\n\
         | option | because it |\n|---|---|\n| `-/OPTION` | reads a value from a file |\n",
    );
    for (names, reason) in REFUSED {
        line(&mut page, &format!("| {} | {reason} |", ticked(names)));
    }
    page
}

fn fixed(page: &mut String) {
    page.push_str("\n## Input, streams, output\n\n| option | takes | does |\n|---|---|---|\n");
    line(page, &format!("| `-ss` before `-i` | {} | where to begin |", Seconds::takes()));
    line(page, &format!("| `-t` before `-i` | {} | how much to read |", Length::takes()));
    line(page, &format!("| `-t` after `-i` | {} | longest output |", Length::takes()));
    for (names, kind, does) in list::FIXED {
        let takes = match kind {
            list::Kind::Input => "`{in0}`".to_owned(),
            list::Kind::Map => Map::takes(),
            list::Kind::VideoCodec => list::video_encoders(),
            list::Kind::AudioCodec => list::audio_encoders(),
            list::Kind::VideoFilter | list::Kind::AudioFilter => "a chain, see below".to_owned(),
            list::Kind::Format => "the muxer of the output's `format`".to_owned(),
            list::Kind::MovFlags => list::mov_flags(),
            list::Kind::Without(what) => list::without(what).to_owned(),
            list::Kind::Output
            | list::Kind::Seek
            | list::Kind::Read
            | list::Kind::Duration
            | list::Kind::Tag
            | list::Kind::Video
            | list::Kind::Audio => String::new(),
        };
        line(page, &format!("| {} | {takes} | {does} |", ticked(names)));
    }
    let tags = list::tags();
    let names = ["-metadata", "-metadata:s:v:0", "-metadata:s:a:N"];
    line(page, &format!("| {} | {tags} | what is said about the output |", ticked(&names)));
}

fn options(page: &mut String, title: &str, rows: &[OptionRow]) {
    line(page, &format!("\n## {title}\n\n| option | takes | does |\n|---|---|---|"));
    for row in rows {
        line(page, &format!("| {} | {} | {} |", ticked(row.names), row.takes, row.does));
    }
}

fn filters(page: &mut String, title: &str, rows: Vec<FilterRow>) {
    line(
        page,
        &format!("\n## {title}\n\n| filter | does | example | parameters |\n|---|---|---|---|"),
    );
    for row in rows {
        let parameter = |p: &hotcell_schemas::plan::filter::ParameterRow| {
            let names: Vec<_> = p.keys.iter().filter(|key| !key.is_empty()).copied().collect();
            let needed = if p.needed { " (needed)" } else { "" };
            format!("{}{needed}: {}", ticked(&names), p.takes)
        };
        let parameters: Vec<_> = row.parameters.iter().map(parameter).collect();
        let (name, does, example) = (row.name, row.does, row.example);
        let parameters =
            if parameters.is_empty() { "none".to_owned() } else { parameters.join("; ") };
        line(page, &format!("| `{name}` | {does} | `{example}` | {parameters} |"));
    }
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn ticked(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
