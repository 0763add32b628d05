//! What the pages tell people to send is what is taken: each job in them is checked and compiled.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, reason = "tests")]

use hotcell_schemas::{
    plan::{Container, Sniffed},
    request::TranscodeRequest,
};
use hotcell_validator::{check_request, compile};
use std::{fs, path::Path};

/// The text from a brace to the one that closes it. No brace stands in a string but in pairs.
fn object(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..=at];
        }
    }
    panic!("no end: {text:.100}")
}

/// The jobs in a page: what begins with its inputs, with the shell's name of an upload filled in.
fn jobs(page: &str) -> Vec<String> {
    let whole = page.replace("'\"$name\"'", "x.mp4");
    let starts = whole.match_indices("\"inputs\"").filter_map(|(at, _)| whole[..at].rfind('{'));
    starts.map(|at| object(&whole[at..]).to_owned()).collect()
}

#[test]
fn new_08_every_job_in_the_pages_is_one_that_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sniffed = Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(1280),
        height: Some(720),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms: Some(10_000),
        protected: false,
    };
    let mut found = 0;
    for page in ["README.md", "docs/approvals.md", "docs/presets.md"] {
        for job in jobs(&fs::read_to_string(root.join(page)).unwrap()) {
            let request: TranscodeRequest =
                serde_json::from_str(&job).unwrap_or_else(|error| panic!("{page}: {error}: {job}"));
            found += 1;
            if request.preset_name.is_some() {
                continue;
            }
            check_request(&request).unwrap_or_else(|error| panic!("{page}: {error:?}: {job}"));
            compile(&request, &sniffed).unwrap_or_else(|error| panic!("{page}: {error:?}: {job}"));
        }
    }
    assert!(found >= 3, "{found}");
}
