//! Words that facts can hold.
//!
//! Promises: a policy that compares a fact with a word which that fact never is, is told so; Cedar
//! knows that it is a text, not which. A forbid of the codec `hevc` would forbid nothing, because the
//! name here is `h265`. Patterns of `like` are not looked at.

use hotcell_schemas::{
    identity::RoleName,
    plan::filter::{AudioFilter, Filter as _, VideoFilter},
    tenancy::Priority,
};
use serde_json::Value;

/// The words of a fact, by the last name of its path; none where it may be any text.
fn words(attribute: &str) -> Option<Vec<&'static str>> {
    Some(match attribute {
        "format" => vec!["mp4", "webm", "mkv", "mp3", "m4a"],
        "video_codec" => vec!["", "h264", "h265", "vp9"],
        "audio_codec" => vec!["", "aac", "opus", "mp3"],
        "priority" => Priority::ALL.map(Priority::as_str).to_vec(),
        "granted_roles" => RoleName::ALL.map(RoleName::as_str).to_vec(),
        "filters" => {
            let (video, audio) = (VideoFilter::rows(), AudioFilter::rows());
            video.into_iter().chain(audio).map(|row| row.name).collect()
        }
        _ => return None,
    })
}

/// The first comparison with a word that its fact never is, as a rule; `policy` is Cedar's JSON.
pub(crate) fn never(policy: &Value) -> Option<String> {
    // Not by recursion: depth and size of a policy are bounded, but this needs neither.
    let mut left = vec![policy];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                if let (Some(one), Some(other)) = (fields.get("left"), fields.get("right")) {
                    let found = compared(one, other).or_else(|| compared(other, one));
                    if found.is_some() {
                        return found;
                    }
                }
                left.extend(fields.values());
            }
            Value::Array(items) => left.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    None
}

fn compared(fact: &Value, with: &Value) -> Option<String> {
    let access = fact.get(".")?;
    // Of `principal.format` nothing is known.
    let root = access.pointer("/left/./left").or_else(|| access.get("left"))?;
    if root.get("Var")?.as_str() != Some("context") {
        return None;
    }
    let attribute = access.get("attr")?.as_str()?;
    let known = words(attribute)?;
    let one = with.get("Value").and_then(Value::as_str);
    let many = with.get("Set").and_then(Value::as_array).into_iter().flatten();
    let given = one.into_iter().chain(many.filter_map(|item| item.get("Value")?.as_str()));
    let wrong = given.into_iter().find(|word| !known.contains(word))?;
    let known: Vec<_> = known.into_iter().filter(|word| !word.is_empty()).collect();
    Some(format!("{attribute} is never \"{wrong}\": it is one of {}", known.join(", ")))
}
