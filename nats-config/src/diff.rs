//! Differences between what the code says and what a server has. Pure.
//!
//! A field that the code does not write must be empty on the server, so a setting that somebody
//! added (a republish target, a mirror, an extra filter) is a difference, too.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// The code has it, the server does not.
    Missing {
        /// What: `stream JOBS`.
        what: String,
    },
    /// The server has it, the code does not.
    Unexpected {
        /// What.
        what: String,
    },
    /// Both have it, one field differs.
    Differs {
        /// What.
        what: String,
        /// Which field, as a dotted path.
        field: String,
        /// What the code says.
        expected: Value,
        /// What the server has.
        found: Value,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what } => write!(f, "{what} is missing"),
            Self::Unexpected { what } => write!(f, "{what} is not in the code"),
            Self::Differs { what, field, expected, found } => {
                write!(f, "{what}: {field} is {found}, the code says {expected}")
            }
        }
    }
}

/// The fields of `found` that are not as in `expected`.
#[must_use]
pub fn differences(what: &str, expected: &Value, found: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    compare(what, "", expected, found, &mut all);
    all
}

fn compare(what: &str, path: &str, expected: &Value, found: &Value, all: &mut Vec<Difference>) {
    match (expected, found) {
        (Value::Object(want), Value::Object(have)) => objects(what, path, want, have, all),
        (Value::Array(want), Value::Array(have)) if want.len() == have.len() => {
            for (index, (want, have)) in want.iter().zip(have).enumerate() {
                compare(what, &join(path, &index.to_string()), want, have, all);
            }
        }
        (want, have) if want == have || (is_empty(want) && is_empty(have)) => {}
        (want, have) => all.push(Difference::Differs {
            what: what.to_owned(),
            field: path.to_owned(),
            expected: want.clone(),
            found: have.clone(),
        }),
    }
}

fn objects(
    what: &str,
    path: &str,
    want: &Map<String, Value>,
    have: &Map<String, Value>,
    all: &mut Vec<Difference>,
) {
    for (key, want) in want {
        let have = have.get(key).unwrap_or(&Value::Null);
        compare(what, &join(path, key), want, have, all);
    }
    for (key, have) in have.iter().filter(|(key, _)| !want.contains_key(*key)) {
        if !added_by_server(key, have) {
            compare(what, &join(path, key), &Value::Null, have, all);
        }
    }
}

/// The server writes its own version into `metadata._nats.*`.
fn added_by_server(key: &str, value: &Value) -> bool {
    let own = |map: &Map<String, Value>| map.keys().all(|name| name.starts_with("_nats."));
    key == "metadata" && value.as_object().is_some_and(own)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(expected: Value, found: Value, fields: &[&str]) {
        let all = differences("x", &expected, &found);
        let names: Vec<&str> = all
            .iter()
            .map(|difference| match difference {
                Difference::Differs { field, .. } => field.as_str(),
                Difference::Missing { what } | Difference::Unexpected { what } => what.as_str(),
            })
            .collect();
        assert_eq!(names, fields);
    }

    #[test]
    fn absent_is_empty_and_anything_more_is_a_difference() {
        check(json!({"a": 0, "b": false, "c": []}), json!({}), &[]);
        check(json!({}), json!({"a": {}, "b": "", "metadata": {"_nats.ver": "2"}}), &[]);
        check(json!({}), json!({"republish": {"dest": "x"}}), &["republish"]);
        check(json!({}), json!({"metadata": {"mine": "1"}}), &["metadata"]);
        check(json!({"a": {"b": [1, 2]}}), json!({"a": {"b": [1, 3]}}), &["a.b.1"]);
        check(json!({"a": [1]}), json!({"a": [1, 2]}), &["a"]);
        check(json!({"a": -1}), json!({}), &["a"]);
    }
}
