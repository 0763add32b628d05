//! Texts that may not be in force: each fault has its line, its policy and its rule.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_policy::{Engine, Faults, POLICIES_MAX, check};
use hotcell_schemas::identity::{Action::ReadJob, RoleName::TenantAdmin};
use proptest::prelude::*;
use support::{ask, tenant};

fn faults(text: &str) -> Faults {
    check(text, Some(&tenant("acme"))).unwrap_err()
}

/// The text has one fault, on `line`, whose rule has all of `words`.
#[track_caller]
fn refused(text: &str, line: usize, words: &[&str]) {
    let found = faults(text);
    let one = &found.0[0];
    assert_eq!(one.line, line, "{found}");
    assert!(words.iter().all(|word| one.rule.contains(word)), "{found}");
    assert!(!found.to_string().contains('\n'), "{found}");
}

const HEAD: &str = "@id(\"x\")\n@allows(\"y\")\nforbid (principal, action, resource)\n";

#[test]
fn iam_17_a_typing_error_is_refused_when_it_is_stored() {
    assert_eq!(check(&format!("{HEAD};"), Some(&tenant("acme"))).unwrap(), 1);
    assert_eq!(check("", Some(&tenant("acme"))).unwrap(), 0);
    assert_eq!(check("// none", Some(&tenant("acme"))).unwrap(), 0);
    refused(&format!("{HEAD}when {{ context.codek == \"h265\" }};"), 4, &["codek"]);
    refused(&format!("{HEAD}when {{ context.risk == \"high\" }};"), 4, &["type"]);
    refused(&format!("{HEAD}when {{ principal.tennant == resource }};"), 4, &["tennant"]);
    let job = "@id(\"x\")\n@allows(\"y\")\nforbid (principal, action == \
               Hotcell::Action::\"SubmitTranscode\", resource)\n";
    refused(
        &format!("{job}when {{ context.output.video_codek == \"h265\" }};"),
        4,
        &["video_codek"],
    );
    // What only jobs have is not read of other actions.
    refused(&format!("{HEAD}when {{ context.output.height > 720 }};"), 4, &["output"]);
    // What may be absent is asked for first.
    refused(&format!("{HEAD}when {{ context.network.isLoopback() }};"), 4, &["network"]);
    refused(
        &(HEAD.replace("principal,", "principal in Hotcell::Role::\"editor\",") + ";"),
        3,
        &["editor"],
    );
    refused(
        &(HEAD.replace("action,", "action == Hotcell::Action::\"Submit\",") + ";"),
        3,
        &["Submit"],
    );
    refused(&format!("{HEAD}when {{ ip(\"10.0.0.0/99\").isLoopback() }};"), 4, &[]);
    refused("\n\npermitt (principal, action, resource);", 3, &["permitt"]);
    // A forbid that can never be true protects nothing.
    let never = "@id(\"x\")\n@allows(\"y\")\nforbid (principal == Hotcell::User::\"a\", action, \
                 resource)\nwhen { principal is Hotcell::ApiKey };";
    refused(never, 1, &["impossible"]);
}

#[test]
fn iam_07_a_word_that_a_fact_never_is_is_a_typing_error() {
    let on = |condition: &str| {
        format!(
            "@id(\"x\")\n@allows(\"y\")\nforbid (principal, action == \
             Hotcell::Action::\"SubmitTranscode\", resource)\nwhen {{ {condition} }};"
        )
    };
    for (condition, rule) in [
        ("context.output.video_codec == \"hevc\"", "h264, h265, vp9"),
        ("\"H264\" != context.output.video_codec", "video_codec is never \"H264\""),
        ("[\"h264\", \"av1\"].contains(context.output.video_codec)", "never \"av1\""),
        ("context.output.filters.contains(\"movie\")", "filters is never \"movie\""),
        ("[\"scale\", \"drawtext\"].containsAll(context.output.filters)", "never \"drawtext\""),
        ("context.mfa || (context.risk > 1 && context.priority == \"urgent\")", "\"urgent\""),
        ("context.granted_roles.containsAny([\"viewer\", \"admin\"])", "never \"admin\""),
        ("context[\"output\"][\"format\"] == \"mov\"", "never \"mov\""),
    ] {
        refused(&on(condition), 1, &[rule]);
    }
    for condition in [
        "context.output.video_codec == \"h265\"",
        "context.output.video_codec == \"\"",
        "[\"scale\", \"loudnorm\"].containsAll(context.output.filters)",
        "context.destination == \"cdn.example\" && context.acr == \"hevc\"",
        "context.output.video_codec == context.output.audio_codec",
    ] {
        assert_eq!(check(&on(condition), Some(&tenant("acme"))), Ok(1), "{condition}");
    }
}

#[test]
fn annotations_are_linted() {
    let tail = "forbid (principal, action, resource);";
    refused(&format!("\n{tail}"), 2, &["@id"]);
    refused(&format!("{HEAD};\n// no name\n{tail}"), 6, &["@id"]);
    refused(&format!("@id(\"A\") {tail}"), 1, &["@id"]);
    refused(&format!("@id(\"platform/x\") {tail}"), 1, &["@id"]);
    refused(&format!("@id(\"{}\") {tail}", "x".repeat(65)), 1, &["@id"]);
    refused(&format!("@id(\"x\") {tail}"), 1, &["@allows"]);
    refused(&format!("{HEAD};\n{HEAD};"), 5, &["twice"]);
    refused(&format!("@stepup(\"mfa\") {HEAD};"), 1, &["@stepup", "one of"]);
    refused(&format!("@off(\"x\") {HEAD};"), 1, &["operator's own set"]);
    refused(&format!("@max_age(\"5\") {HEAD};"), 1, &["beside @step_up"]);
    refused(&format!("@step_up(\"sms\") {HEAD};"), 1, &["mfa"]);
    refused(&format!("@step_up(\"mfa\") @max_age(\"9\") {HEAD};"), 1, &["needs @acr_values"]);
    let step = |acr: &str, age: &str| {
        format!("@step_up(\"mfa\") @acr_values(\"{acr}\") @max_age(\"{age}\") {HEAD};")
    };
    assert_eq!(check(&step("urn:a b", "60"), Some(&tenant("acme"))).unwrap(), 1);
    for acr in ["", " ", "a  b", "x\\\"; evil", "a\\r\\nb", "ü"] {
        refused(&step(acr, "60"), 1, &["@acr_values"]);
    }
    for age in ["", "0", "-1", "86401", "1.5", "99999999999999999999"] {
        refused(&step("a", age), 1, &["@max_age"]);
    }
    let permit = "@id(\"x\") @step_up(\"mfa\") @acr_values(\"a\") @max_age(\"60\")
        permit (principal, action, resource);";
    refused(permit, 1, &["on a forbid"]);
    refused(&(HEAD.replace("\"y\"", &format!("\"{}\"", "y".repeat(201))) + ";"), 1, &["200"]);
}

#[test]
fn templates_and_floods_are_refused_before_they_cost_anything() {
    let template = "@id(\"x\") permit (principal == ?principal, action, resource);";
    refused(template, 1, &["templates"]);
    let many: String = (0..=POLICIES_MAX)
        .map(|index| HEAD.replace("\"x\"", &format!("\"x{index}\"")) + ";\n")
        .collect();
    refused(&many, 1, &["at most 100"]);
    refused(&"x".repeat(50_000), 1, &["49152 bytes"]);
    let deep = |open: &str, close: &str, times: usize| {
        let condition = open.repeat(times) + "context.mfa" + &close.repeat(times);
        format!("{HEAD}when {{ {condition} }};")
    };
    refused(&deep("(", ")", 20_000), 4, &["deeper"]);
    refused(&deep("!", "", 20_000), 4, &["deeper"]);
    refused(&deep("! ", "", 20_000), 4, &["deeper"]);
    refused(&deep("if context.mfa then (", ") else true", 1000), 4, &["deeper"]);
    refused(&deep("(", "", 20), 4, &[]);
    // What is inside of strings and comments does not nest, and hides nothing that does.
    let quoted =
        format!("// {}\n{HEAD}when {{ context.acr == \"{}\" }};", "(".repeat(99), "[".repeat(99));
    assert_eq!(check(&quoted, Some(&tenant("acme"))).unwrap(), 1);
    let hidden = format!("{HEAD}when {{ context.acr == \"\\\"\" && {}", "(".repeat(20_000));
    refused(&hidden, 4, &["deeper"]);
}

#[test]
fn a_chain_of_any_length_does_not_end_the_process() {
    // 3,000 links ended the process before there was a limit; the longest that is let through did
    // so on a small stack before the parser had one of its own.
    let within = |name: &'static str, condition: String| {
        let text = format!("{HEAD}when {{ {condition} }};");
        let acme = tenant("acme");
        let checked = check(&text, Some(&acme)).map_err(|faults| faults.to_string());
        // Compiled and evaluated on a thread like the runtime's, whatever it says.
        if checked.is_ok() {
            let engine = Engine::compile(None, Some((&acme, &text))).unwrap();
            let _verdict = ask(&[TenantAdmin], ReadJob).fresh(1).by(&engine);
        }
        (name, checked)
    };
    for (count, fits) in [(230, true), (3000, false)] {
        let chains = [
            within("or", vec!["context.mfa"; count / 3].join(" || ")),
            within("and", vec!["context.mfa"; count / 3].join(" && ")),
            within("sum", format!("{} > 0", vec!["context.risk"; count / 2].join(" + "))),
            within("product", format!("context.risk{} > 0", " * 2".repeat(count))),
            within("has", format!("context{}", ".mfa".repeat(count))),
            within("call", format!("principal.tenant{}", ".isEmpty()".repeat(count / 3))),
            within("index", format!("context{}", "[\"mfa\"]".repeat(count / 3))),
            within("else", format!("{}true", "if context.mfa then true else ".repeat(count / 4))),
            within(
                "clauses",
                format!(
                    "true }} {}unless {{ context.mfa",
                    "when { context.mfa } ".repeat(count / 4)
                ),
            ),
        ];
        for (name, result) in chains {
            let long = result.as_ref().is_err_and(|faults| faults.contains("words and marks"));
            assert_eq!(long, !fits, "{name} {count}: {result:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_ends_the_process(text in "\\PC{0,80}", pieces in prop::collection::vec(0..PIECES.len(), 0..60)) {
        // Whatever it is, the answer is a count or faults with lines inside of the text.
        let made: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        for text in [text, made] {
            if let Err(faults) = check(&text, Some(&tenant("acme"))) {
                prop_assert!(!faults.0.is_empty());
                let lines = text.matches('\n').count() + 1;
                prop_assert!(faults.0.iter().all(|fault| (1..=lines).contains(&fault.line)));
            }
        }
    }
}

const PIECES: [&str; 24] = [
    "@id(\"x\")",
    "@id(\"y\")",
    "@allows(\"z\")",
    "@step_up(\"mfa\")",
    "permit",
    "forbid",
    "(",
    ")",
    "principal",
    ", ",
    "action",
    "resource",
    "principal, action, resource)",
    " when { ",
    " unless { ",
    " }",
    ";\n",
    " == ",
    "context",
    ".mfa",
    " && ",
    "\"",
    "// ",
    "\n",
];
