//! What each role may do, from one table; and the page that is made of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_nats_config::testing::golden;
use hotcell_policy::{
    Engine, POLICIES_MAX, SCHEMA_TEXT, check, engine::PLATFORM_TEXT, put::VERSIONS_MAX, set,
};
use hotcell_schemas::identity::{Action, RoleName};
use std::{collections::BTreeSet, fmt::Write as _, path::Path};
use support::{ask, tenant, told};

/// `y` allowed, `s` with a second factor or an approval, `f` with a second factor only, `-` refused.
/// Columns are [`RoleName::ALL`].
const TABLE: &str = "
                    viewer submitter publisher webhook-admin tenant-admin auditor operator
    UploadSource    -      y         -         -             y            -       -
    ReadSource      -      y         -         -             y            -       -
    SubmitTranscode -      y         -         -             y            -       -
    ReadJob         y      y         y         y             y            y       -
    CancelJob       -      y         -         -             y            -       -
    ReadOutput      -      y         y         -             y            -       -
    PublishOutput   -      y         y         -             y            -       -
    ReadWebhooks    -      -         -         y             y            -       -
    ManageWebhooks  -      -         -         s             s            -       -
    ReplayWebhook   -      -         -         y             y            -       -
    ReadPolicy      y      y         -         -             y            y       y
    ManagePolicy    -      -         -         -             s            -       -
    ReadKeys        -      -         -         -             y            -       -
    ManageKeys      -      -         -         -             s            -       -
    ReadPresets     y      y         -         -             y            -       -
    ManagePresets   -      -         -         -             s            -       -
    ReadAudit       -      -         -         -             y            y       y
    ExportAudit     -      -         -         -             s            s       s
    BlockIdentity   -      -         -         -             y            -       y
    UnblockIdentity -      -         -         -             s            -       s
    RequestApproval -      y         y         y             y            y       y
    ApproveRequest  -      -         -         -             f            -       -
    ReadUsage       y      y         -         -             y            y       y
";

fn cell(action: Action, role: RoleName) -> &'static str {
    let line = TABLE.lines().find(|line| line.split_whitespace().next() == Some(action.as_str()));
    let column = RoleName::ALL.iter().position(|other| *other == role).unwrap();
    line.unwrap_or_else(|| panic!("{action} has no row"))
        .split_whitespace()
        .nth(column + 1)
        .unwrap()
}

#[test]
fn iam_05_step_06_every_role_and_every_action_is_as_the_table_says() {
    let heading: Vec<_> = TABLE.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(heading, RoleName::ALL.map(RoleName::as_str));
    assert_eq!(TABLE.trim().lines().count(), Action::ALL.len() + 1);
    for action in Action::ALL {
        for role in RoleName::ALL {
            let plain = ask(&[role], *action);
            let approved = plain.clone().with(|ask| ask.facts.approved = true);
            let asks = [plain.clone(), approved, plain.clone().fresh(300), plain.fresh(301)];
            let got = asks.map(|ask| told(&ask.decide()).0.to_owned());
            let expect = match cell(*action, role) {
                "y" => ["allow"; 4],
                "s" => ["step-up", "allow", "allow", "step-up"],
                "f" => ["step-up", "step-up", "allow", "step-up"],
                "-" => ["deny"; 4],
                other => panic!("{other}"),
            };
            assert_eq!(got, expect, "{role} {action}");
        }
    }
}

fn matrix() -> String {
    let mut text = format!("| Action | {} |\n", RoleName::ALL.map(RoleName::as_str).join(" | "));
    let _never = writeln!(text, "|---|{}", "---|".repeat(RoleName::ALL.len()));
    for action in Action::ALL {
        let cells = RoleName::ALL.map(|role| match cell(*action, role) {
            "y" => "yes",
            "-" => "",
            _ => "step-up",
        });
        let _never = writeln!(text, "| {action} | {} |", cells.join(" | "));
    }
    text
}

fn actions() -> String {
    let mut text = "| Action | Is |\n|---|---|\n".to_owned();
    for action in Action::ALL {
        let _never = writeln!(text, "| {action} | {} |", action.about().trim());
    }
    text
}

fn sensitive() -> String {
    let mut text = "| Policy | What | Actions |\n|---|---|---|\n".to_owned();
    for rule in Engine::defaults().sensitive() {
        let actions =
            if rule.actions.is_empty() { "all".to_owned() } else { rule.actions.join(", ") };
        let _never = writeln!(text, "| `{}` | {} | {actions} |", rule.id, rule.about);
    }
    text
}

fn guards() -> String {
    let engine = Engine::defaults();
    let mut text = String::new();
    for rule in
        engine.rules().filter(|rule| PLATFORM_TEXT.contains(&format!("@id(\"{}\")", rule.id)))
    {
        let _never = writeln!(text, "- `{}`: {}", rule.id, rule.about);
    }
    text
}

/// What operators do in other tenants, as decided.
fn across() -> String {
    let reaches = |action: &&Action| {
        told(&ask(&[RoleName::Operator], **action).of("umbrella").fresh(1).decide()).0 == "allow"
    };
    let names: Vec<_> =
        Action::ALL.iter().filter(reaches).map(|action| format!("`{action}`")).collect();
    names.join(", ")
}

#[test]
fn step_01_the_page_is_made_of_the_policies_in_force() {
    let ages: BTreeSet<_> = Engine::defaults()
        .sensitive()
        .filter_map(|rule| Some(rule.step_up.as_ref()?.max_age_secs))
        .collect();
    assert_eq!(ages.len(), 1, "the page names one age");
    let page = include_str!("pages/policies.md")
        .replace("{{matrix}}\n", &matrix())
        .replace("{{actions}}\n", &actions())
        .replace("{{sensitive}}\n", &sensitive())
        .replace("{{guards}}\n", &guards())
        .replace("{{across}}", &across())
        .replace("{{max_age}}", &ages.first().unwrap().to_string())
        .replace("{{most}}", &POLICIES_MAX.to_string())
        .replace("{{bytes}}", &set::TEXT_BYTES_MAX.to_string())
        .replace("{{tokens}}", &set::TOKENS_MAX.to_string())
        .replace("{{versions}}", &VERSIONS_MAX.to_string())
        .replace("{{schema}}", SCHEMA_TEXT);
    assert!(!page.contains("{{"));
    // The examples are valid.
    let (_, example) = page.split_once("```cedar\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(check(example, Some(&tenant("acme"))).unwrap(), 4);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policies.md");
    golden(&path, &page).unwrap();
}
