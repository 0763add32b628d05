//! A list of arguments as options with their values, each where it may stand.
//!
//! Promises: every option takes exactly the tokens that the list says, so no value is ever read as
//! an option, nor an option as a value. Refuses: whatever is not on the list.

use super::{
    Refusal,
    list::{self, Kind},
    refuse, refused,
};
use hotcell_schemas::{
    argv::{INPUT, OUTPUT},
    limits::{RAW_ARGUMENT_BYTES_MAX, RAW_ARGUMENTS_MAX},
};

/// One option with its value; a flag's value is empty.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) at: usize,
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

impl Item<'_> {
    /// Tokens that it is.
    pub(super) fn tokens(&self) -> usize {
        if self.kind.takes_a_value() { 2 } else { 1 }
    }
}

/// Splits a list as far as it goes; of one that goes all the way the last item is the output.
pub(super) fn split(arguments: &[String]) -> (Vec<Item<'_>>, Result<(), Refusal>) {
    let mut items = Vec::new();
    let end = bounded(arguments).and_then(|()| fill(&mut items, arguments));
    (items, end)
}

fn fill<'a>(items: &mut Vec<Item<'a>>, arguments: &'a [String]) -> Result<(), Refusal> {
    let mut opened = false;
    let mut rest = arguments.iter().map(String::as_str).enumerate().peekable();
    while let Some((at, name)) = rest.next() {
        if name == OUTPUT {
            let kind = Kind::Output;
            items.push(Item { at, kind, name, value: "" });
            if !opened {
                return refuse(at, "must stand after -i {in0}");
            }
            return match rest.next() {
                None => Ok(()),
                Some((at, _)) => refuse(at, "nothing may follow {out0}: one output is made"),
            };
        }
        let Some(kind) = list::kind(name, opened) else { return refuse(at, refused::why(name)) };
        let before = matches!(kind, Kind::Input | Kind::Seek | Kind::Read);
        let misplaced = match (opened, before) {
            (true, true) => Some("is given twice: one input is read"),
            (false, false) => Some("must stand after -i {in0}"),
            (true, false) | (false, true) => None,
        };
        if let Some(rule) = misplaced {
            return refuse(at, rule);
        }
        let value = match rest.next_if(|_| kind.takes_a_value()) {
            Some((_, value)) if is_option(value) => return refuse(at, "needs a value"),
            Some((_, value)) => value,
            None if kind.takes_a_value() => return refuse(at, "needs a value"),
            None => "",
        };
        if kind == Kind::Input {
            if value != INPUT {
                return refuse(at + 1, "must be {in0}: no other file, address or device is read");
            }
            opened = true;
        }
        items.push(Item { at, kind, name, value });
    }
    refuse(arguments.len(), "the last argument must be {out0}")
}

/// Whether what stands in a value's place is the next option.
fn is_option(token: &str) -> bool {
    list::kind(token, true).is_some() || list::kind(token, false).is_some()
}

fn bounded(arguments: &[String]) -> Result<(), Refusal> {
    if arguments.len() > RAW_ARGUMENTS_MAX {
        let rule = format!("at most {RAW_ARGUMENTS_MAX} arguments are accepted");
        return refuse(RAW_ARGUMENTS_MAX, rule);
    }
    for (at, argument) in arguments.iter().enumerate() {
        if argument.len() > RAW_ARGUMENT_BYTES_MAX {
            return refuse(at, format!("is longer than {RAW_ARGUMENT_BYTES_MAX} bytes"));
        }
        if argument.is_empty() || argument.chars().any(char::is_control) {
            return refuse(at, "must not be empty and must hold no control character");
        }
    }
    Ok(())
}
