//! The grammar of a chain of filters: `name=value:key=value,name`, and nothing more.
//!
//! Promises: the parts of an accepted chain are slices of it, told apart by `,` `:` and `=` alone.
//! Refuses: quotes, escapes, white space, labels, several chains and expressions, by an alphabet
//! that has none of their characters. What FFmpeg unquotes differently from us cannot be written.

use hotcell_schemas::plan::filter::Given;

const ALPHABET: &str = "only letters, digits and _ = : , . / + - may stand in a chain of filters: no \
quotes, escapes, spaces, labels or expressions";
const FORM: &str = "must be filters as name=value:key=value, joined by commas";
const ORDER: &str = "values without a name must stand before those with one";

/// One filter, not yet looked up.
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    pub(super) given: Given<'a>,
}

/// The filters of a chain.
pub(super) fn parts(chain: &str) -> Result<Vec<Part<'_>>, &'static str> {
    let listed = |byte: u8| byte.is_ascii_alphanumeric() || b"_=:,./+-".contains(&byte);
    if !chain.bytes().all(listed) {
        return Err(ALPHABET);
    }
    chain.split(',').map(part).collect()
}

fn part(text: &str) -> Result<Part<'_>, &'static str> {
    let (name, parameters) = match text.split_once('=') {
        Some((name, parameters)) => (name, Some(parameters)),
        None => (text, None),
    };
    if !is_name(name) {
        return Err(FORM);
    }
    let mut items = Vec::new();
    for parameter in parameters.iter().flat_map(|parameters| parameters.split(':')) {
        let (key, value) = match parameter.split_once('=') {
            Some((key, value)) => (Some(key), value),
            None => (None, parameter),
        };
        if key.is_some_and(|key| !is_name(key)) || value.is_empty() || value.contains('=') {
            return Err(FORM);
        }
        let named_before =
            items.last().is_some_and(|(key, _): &(Option<&str>, &str)| key.is_some());
        if key.is_none() && named_before {
            return Err(ORDER);
        }
        items.push((key, value));
    }
    Ok(Part { name, given: Given::new(items) })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
