//! The threat model says what the table says. `UPDATE_GOLDEN=1` writes it anew.

use std::fs;

use hotcell_jail::breach::page;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/threat-model.md");
const BEGIN: &str = "<!-- attacks: made from services/jail/src/breach/table.rs -->\n";
const END: &str = "<!-- end of attacks -->\n";

#[test]
fn the_threat_model_has_the_table() {
    let text = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (kept, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(PAGE, format!("{before}{BEGIN}{}{END}{after}", page())).unwrap();
    } else {
        assert!(kept == page(), "docs/threat-model.md is stale: UPDATE_GOLDEN=1");
    }
}
