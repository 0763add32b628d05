//! Rules from claims to tenants and roles, and the file that holds them.

use super::*;
use serde_json::json;

const RULES: &str = r#"
tenants = ["acme", "bolt"]
service_clients = ["robot"]

[[rule]]
claim = "groups"
contains = "video-editors"
tenant = "acme"
roles = ["submitter", "viewer"]

[[rule]]
claim = "groups"
contains = "video-leads"
tenant = "acme"
roles = ["tenant-admin"]

[[rule]]
claim = ["realm_access", "roles"]
contains = "bolt"
tenant = "bolt"
roles = ["viewer"]

[[rule]]
claim = "scope"
contains = "transcode:submit"
tenant_claim = "tenant"
roles = ["submitter"]

[[rule]]
claim = "department"
equals = "audit"
tenant = "acme"
roles = ["auditor"]

[[rule]]
client = "ci"
tenant = "acme"
roles = ["submitter"]
"#;

fn object(value: &Value) -> Object {
    Object(value.as_object().unwrap().clone())
}

fn check(claims: Value, client: Option<&str>, expect: Result<(&str, &[RoleName]), Unmapped>) {
    let found = Rules::from_toml(RULES).unwrap().map(&object(&claims), client);
    let expect = expect.map(|(tenant, roles)| {
        (tenant.parse().unwrap(), roles.iter().copied().collect::<BTreeSet<_>>())
    });
    assert_eq!(found, expect, "{claims} {client:?}");
}

#[test]
fn iam_16_claims_become_a_tenant_and_roles_by_rules() {
    use RoleName::{Auditor, Submitter, TenantAdmin, Viewer};
    let editors = ("acme", &[Submitter, Viewer][..]);
    check(json!({ "groups": ["x", "video-editors"] }), None, Ok(editors));
    let both = json!({ "groups": ["video-leads", "video-editors"] });
    check(both, None, Ok(("acme", &[Submitter, Viewer, TenantAdmin])));
    check(json!({ "realm_access": { "roles": ["bolt"] } }), None, Ok(("bolt", &[Viewer])));
    let scope = |tenant| json!({ "scope": "openid transcode:submit", "tenant": tenant });
    check(scope("bolt"), None, Ok(("bolt", &[Submitter])));
    check(json!({ "department": "audit" }), None, Ok(("acme", &[Auditor])));
    check(json!({}), Some("ci"), Ok(("acme", &[Submitter])));
    // What is nobody's.
    let none = Err(Unmapped::NoRule);
    check(json!({}), None, none);
    check(json!({}), Some("web"), none);
    check(json!({ "client_id": "ci" }), None, none);
    check(json!({ "groups": [] }), None, none);
    check(json!({ "groups": "video-editors" }), None, none);
    check(json!({ "groups": "x video-editors" }), None, none);
    check(json!({ "groups": [["video-editors"]] }), None, none);
    check(json!({ "groups": ["Video-Editors"] }), None, none);
    check(json!({ "groups": ["video-editors "] }), None, none);
    check(json!({ "realm_access.roles": ["bolt"] }), None, none);
    check(json!({ "department": ["audit"] }), None, none);
    check(json!({ "scope": "transcode:submit-all", "tenant": "bolt" }), None, none);
    // A tenant that is not on the list, and what is no tenant's name.
    check(scope("evil"), None, none);
    check(scope("*"), None, none);
    check(scope(""), None, none);
    // Two tenants at once are a mistake that must not pick one.
    let two = json!({ "groups": ["video-editors"], "realm_access": { "roles": ["bolt"] } });
    check(two, None, Err(Unmapped::SeveralTenants));
}

#[test]
fn json_says_the_same() {
    let rules = Rules::from_json(
        r#"{"rule":[{"claim":"groups","contains":"a","tenant":"acme","roles":["viewer"]}]}"#,
    );
    let (tenant, _) = rules.unwrap().map(&object(&json!({ "groups": ["a"] })), None).unwrap();
    assert_eq!(tenant.as_str(), "acme");
    assert!(Rules::from_toml(RULES).unwrap().is_service("robot"));
}

#[test]
fn a_rule_that_says_too_little_or_too_much_is_refused() {
    let refused = |text: &str| {
        let text = format!("[[rule]]\n{text}");
        assert!(Rules::from_toml(&text).is_err(), "{text}");
    };
    let end = "tenant = \"a\"\nroles = [\"viewer\"]";
    refused(end);
    refused(&format!("claim = \"groups\"\n{end}"));
    refused(&format!("client = \"a\"\ncontains = \"b\"\n{end}"));
    refused(&format!("client = \"a\"\nclaim = \"g\"\ncontains = \"b\"\n{end}"));
    refused(&format!("claim = \"g\"\nequals = \"a\"\ncontains = \"b\"\n{end}"));
    refused("client = \"a\"\nroles = [\"viewer\"]");
    refused(&format!("client = \"a\"\ntenant_claim = \"t\"\n{end}"));
    refused("client = \"a\"\ntenant = \"a\"\nroles = []");
    refused("client = \"a\"\ntenant = \"a\"\nroles = [\"root\"]");
    refused("client = \"a\"\ntenant = \"*\"\nroles = [\"viewer\"]");
    refused(&format!("client = \"a\"\nnot = true\n{end}"));
    let many = format!("[[rule]]\nclient = \"a\"\n{end}\n").repeat(RULES_MAX + 1);
    assert!(matches!(Rules::from_toml(&many), Err(RulesError::TooLarge)));
}

#[test]
fn iam_17_a_changed_file_is_read_without_a_restart_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.toml");
    let began = Instant::now();
    assert!(matches!(RulesFile::open(&path, began), Err(RulesError::Read(_))));
    let write = |group: &str| {
        let text = format!(
            "[[rule]]\nclaim = \"groups\"\ncontains = {group:?}\ntenant = \"acme\"\nroles = [\"viewer\"]"
        );
        // As editors and configuration maps do: another file takes the name.
        let new = dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
    };
    write("one");
    let file = RulesFile::open(&path, began).unwrap();
    let knows = |group: &str, at: Instant| {
        file.rules(at).map(&object(&json!({ "groups": [group] })), None).is_ok()
    };
    write("two");
    assert!(knows("one", began), "looked at less than a second ago");
    let later = began + LOOK_EVERY;
    assert!(knows("two", later) && !knows("one", later));
    fs::write(&path, "[[rule]]\nrubbish").unwrap();
    let later = later + LOOK_EVERY;
    assert!(knows("two", later), "the last good rules stay");
    fs::remove_file(&path).unwrap();
    let later = later + LOOK_EVERY;
    assert!(knows("two", later));
    fs::write(&path, "x".repeat(1 << 19)).unwrap();
    let later = later + LOOK_EVERY;
    assert!(knows("two", later));
    write("three");
    let later = later + LOOK_EVERY;
    assert!(knows("three", later) && !knows("two", later));
}
