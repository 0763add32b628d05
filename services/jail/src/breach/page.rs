//! The table of attacks as a page. Promises: it says of every attack what stops it, and marks those that one layer alone
//! stops.

use std::fmt::Write as _;

use super::ATTACKS;

/// The table in Markdown, one row for each attack; kept in `docs/threat-model.md` by a test.
#[must_use]
pub fn page() -> String {
    let mut text =
        String::from("| Attack | It tries to | For | Stopped by each of |\n|---|---|---|---|\n");
    for attack in ATTACKS {
        let layers: Vec<String> =
            attack.stopped_by.iter().map(|layer| format!("`{}`", layer.name())).collect();
        let by = match layers.as_slice() {
            [] => "what has no switch".to_owned(),
            [only] => format!("{only} **alone**"),
            more => more.join(", "),
        };
        let ids = attack.requirements.join(", ");
        // Writing to a String cannot fail.
        writeln!(text, "| `{}` | {} | {ids} | {by} |", attack.name, attack.tries).ok();
    }
    text
}
