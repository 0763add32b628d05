//! Any text as a tenant's FFmpeg arguments, and any JSON as a request. What is accepted compiles to
//! a command line of which every token is accounted for. The files beside this one are links to the
//! validator's own: a module's parts are looked for beside it.
//!
//! An even first byte takes the rest as arguments, one a line; an odd one as a request.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "modules of the validator, without the rest of it")]

#[path = "../../../services/validator/tests/support/accounted.rs"]
mod accounted;
pub mod check;
pub mod compile;
pub mod raw;

use hotcell_schemas::{
    argv::agrees,
    plan::{Container, OutputPlan, Sniffed},
    request::{Format, TranscodeRequest},
};

const FORMATS: [Format; 5] = [Format::Mp4, Format::Webm, Format::Mkv, Format::Mp3, Format::M4a];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((mode, text)) = data.split_first() else { return };
    let kind = usize::from(*mode / 2);
    if mode % 2 == 0 {
        arguments(FORMATS[kind % FORMATS.len()], text);
    } else {
        request(Container::ALL[kind % Container::ALL.len()], text);
    }
});

fn arguments(format: Format, text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let list: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let (decisions, tree) = raw::explain(format, &list);
    let decided: usize = decisions.iter().map(|decision| decision.tokens).sum();
    match tree {
        Ok(tree) => {
            assert_eq!(decided, list.len(), "a token that nobody decided about: {list:?}");
            accounted::check(&tree, |again| raw::parse(format, again).ok());
        }
        Err(refusal) => {
            assert!(decided <= list.len() && refusal.at <= list.len(), "{refusal:?}");
            let said = refusal.rule.as_ref();
            assert!(!said.contains(char::is_control) && said.len() < 300, "{said:?}");
        }
    }
}

fn request(container: Container, text: &[u8]) {
    let Ok(request) = serde_json::from_slice::<TranscodeRequest>(text) else { return };
    let input = Sniffed {
        container,
        content_type: String::new(),
        width: Some(1280),
        height: Some(720),
        has_video: Some(true),
        has_audio: Some(true),
        duration_ms: None,
        protected: false,
    };
    let ruled = check::check_request(&request);
    let Ok(plan) = compile::compile(&request, &input) else { return };
    assert!(ruled.is_ok(), "intake would have refused: {ruled:?}");
    assert!(agrees(&plan), "{plan:?}");
    for output in &plan.outputs {
        typed(output, &plan.argv, &request);
        if let Some(tree) = &output.raw {
            accounted::check(tree, |again| raw::parse(output.format, again).ok());
        }
    }
}

/// Of a typed output nothing that the tenant wrote is in the command line.
fn typed(output: &OutputPlan, argv: &[String], request: &TranscodeRequest) {
    if output.raw.is_some() {
        return;
    }
    let plain = |byte: u8| byte.is_ascii_graphic();
    assert!(argv.iter().all(|token| token.bytes().all(plain)), "{argv:?}");
    assert!(argv.iter().all(|token| !token.contains("upload:")), "{argv:?}");
    if let Some(own) = request.workflow.as_ref().filter(|text| text.len() > 20) {
        assert!(argv.iter().all(|token| !token.contains(own.as_str())), "{argv:?}");
    }
}
