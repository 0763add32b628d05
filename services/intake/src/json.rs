//! Bodies of requests. Promises: a wrong type, an unknown, missing or repeated field is answered
//! with the field's path and the rule. Refuses: anything after the value, and any unknown field.

use crate::problem::{Kind, Problem};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Longest field path that is sent back, in characters: the client chose the names in it.
const PATH_CHARS_MAX: usize = 120;

/// The value in `body`.
///
/// # Errors
/// 400, naming the field and the rule.
pub fn parse<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, &error.into_inner())
    })?;
    json.end().map_err(|error| describe(".", &error))?;
    let sent: Value = serde_json::from_slice(body).map_err(|error| describe(".", &error))?;
    let meant = serde_json::to_value(&value).map_err(|error| describe(".", &error))?;
    match list_for_object(&sent, &meant) {
        None => Ok(value),
        Some(path) => Err(Problem::field(
            Kind::BadRequest,
            join(&path.chars().take(PATH_CHARS_MAX).collect::<String>(), ""),
            "must be an object",
        )),
    }
}

/// Path of the first value that was sent as a list where an object is meant. serde's derive takes a
/// list of a struct's fields for the struct; the API does not.
fn list_for_object(sent: &Value, meant: &Value) -> Option<String> {
    match (sent, meant) {
        (Value::Object(sent), Value::Object(meant)) => meant.iter().find_map(|(name, meant)| {
            let inner = list_for_object(sent.get(name)?, meant)?;
            let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
            Some(format!("{name}{dot}{inner}"))
        }),
        (Value::Array(sent), Value::Array(meant)) => {
            sent.iter().zip(meant).enumerate().find_map(|(index, (sent, meant))| {
                let inner = list_for_object(sent, meant)?;
                let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
                Some(format!("[{index}]{dot}{inner}"))
            })
        }
        (_, Value::Object(_)) => Some(String::new()),
        _ => None,
    }
}

fn describe(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // The position follows the rule: " at line 1 column 20".
    let rule = text.rsplit_once(" at line ").map_or(text.as_str(), |(rule, _)| rule);
    let (field, rule) = match in_parent(rule, "missing field `") {
        Some(name) => (join(path, name), "is missing"),
        None => match in_parent(rule, "duplicate field `") {
            Some(name) => (join(path, name), "appears twice"),
            None if error.is_data() => (join(path, ""), rule),
            None => ("body".to_owned(), rule),
        },
    };
    let field: String = field.chars().take(PATH_CHARS_MAX).collect();
    Problem::field(Kind::BadRequest, field, rule)
}

/// The field that serde names in its text where the path ends at the parent. It only improves the
/// wording; the request is refused either way.
fn in_parent<'a>(rule: &'a str, prefix: &str) -> Option<&'a str> {
    rule.strip_prefix(prefix)?.strip_suffix('`')
}

fn join(path: &str, name: &str) -> String {
    // serde_path_to_error writes the root as a dot.
    match (path, name) {
        ("." | "", "") => "body".to_owned(),
        ("." | "", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        // A repeated field's path names the field already.
        (path, name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::request::{ConfirmRequest, TranscodeRequest, UploadRequest};

    fn check<T: DeserializeOwned + Serialize + std::fmt::Debug>(
        body: &str,
        field: &str,
        rule: &str,
    ) {
        let problem = parse::<T>(body.as_bytes()).unwrap_err();
        let found = problem.errors().first().unwrap();
        assert_eq!(problem.status(), 400, "{body}");
        assert_eq!(found.field, field, "{body}: {}", found.rule);
        assert!(found.rule.contains(rule), "{body}: {}", found.rule);
    }

    #[test]
    fn every_fault_of_an_upload_names_field_and_rule() {
        let size = |size: &str| {
            format!(r#"{{"filename":"a","contentType":"video/mp4","fileSize":{size}}}"#)
        };
        check::<UploadRequest>(&size("-1"), "fileSize", "integer `-1`");
        check::<UploadRequest>(&size("\"12\""), "fileSize", "string \"12\"");
        check::<UploadRequest>(&size("1.5"), "fileSize", "floating point");
        check::<UploadRequest>(&size("1e3"), "fileSize", "floating point");
        check::<UploadRequest>(&size("null"), "fileSize", "null");
        check::<UploadRequest>(&size("18446744073709551616"), "fileSize", "u64");
        check::<UploadRequest>(&size("1,\"x\":2"), "x", "unknown field");
        check::<UploadRequest>(&size("1,\"fileSize\":2"), "fileSize", "appears twice");
        check::<UploadRequest>(r#"{"filename":"a"}"#, "contentType", "is missing");
        check::<UploadRequest>("{", "body", "EOF");
        check::<UploadRequest>("", "body", "EOF");
        check::<UploadRequest>("7", "body", "invalid type");
        check::<UploadRequest>(r#"["a","video/mp4",1]"#, "body", "must be an object");
        check::<UploadRequest>(&format!("{} x", size("1")), "body", "trailing");
        check::<ConfirmRequest>(r#"{"filename":"../x","fileSize":1}"#, "filename", "file name");
    }

    #[test]
    fn nested_fields_are_named_by_their_path() {
        let job = |inputs: &str, preset: &str| {
            format!(r#"{{"inputs":{inputs},"outputFormat":"mp4","preset":{preset}}}"#)
        };
        let good = r#"{"quality":"high","resolution":"720p"}"#;
        check::<TranscodeRequest>(&job(r#"[{"url":7}]"#, good), "inputs[0].url", "integer `7`");
        check::<TranscodeRequest>(&job(r#"[{"uri":"x"}]"#, good), "inputs[0].uri", "unknown field");
        check::<TranscodeRequest>(&job("[{}]", good), "inputs[0].url", "is missing");
        let preset = r#"{"quality":"ultra","resolution":"720p"}"#;
        check::<TranscodeRequest>(&job("[]", preset), "preset.quality", "unknown variant");
        let input = r#"[["upload:a"]]"#;
        check::<TranscodeRequest>(&job(input, good), "inputs[0]", "must be an object");
        let preset = r#"["high","720p"]"#;
        check::<TranscodeRequest>(&job("[]", preset), "preset", "must be an object");
        let preset = r#"{"quality":"high"}"#;
        check::<TranscodeRequest>(&job("[]", preset), "preset.resolution", "is missing");
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let body = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
        assert!(parse::<Value>(body.as_bytes()).is_err());
    }

    #[test]
    fn names_of_the_client_come_back_within_a_bound() {
        let body = format!(r#"{{"{}":1}}"#, "x".repeat(60_000));
        let problem = parse::<UploadRequest>(body.as_bytes()).unwrap_err();
        assert!(problem.body().len() < 2000);
    }
}
