//! Tests of `keys.rs`.

use super::*;

fn roles(names: &[RoleName]) -> BTreeSet<RoleName> {
    names.iter().copied().collect()
}

#[test]
fn iam_10_nobody_gives_what_it_is_not() {
    use RoleName as R;
    for role in R::ALL {
        assert_eq!(may_grant(&roles(&[R::TenantAdmin]), role), role != R::Operator, "{role}");
        assert_eq!(may_grant(&roles(&[R::Submitter]), role), role == R::Submitter, "{role}");
        assert!(!may_grant(&roles(&[]), role), "{role}");
        assert_eq!(may_grant(&roles(&R::ALL), role), role != R::Operator, "{role}");
    }
}

#[test]
fn api_39_the_shape_of_a_key_is_checked() {
    let try_it = |body: Value, expect: Option<&str>| {
        let found = json::parse::<KeyRequest>(body.to_string().as_bytes())
            .and_then(|request| check(&request, &roles(&[RoleName::TenantAdmin])));
        let field = found.as_ref().err().map(|problem| problem.errors()[0].field.as_str());
        assert_eq!(field, expect, "{body}");
    };
    try_it(json!({"roles": ["viewer"]}), None);
    let all = json!({"label": "ci", "roles": ["viewer", "submitter"], "expiresInSecs": 60,
        "networks": ["10.0.0.0/8", "2001:db8::/32"]});
    try_it(all, None);
    try_it(json!({}), Some("roles"));
    try_it(json!({"roles": []}), Some("roles"));
    try_it(json!({"roles": ["operator"]}), Some("roles"));
    try_it(json!({"roles": ["root"]}), Some("roles[0]"));
    try_it(json!({"roles": ["viewer"], "expiresInSecs": 59}), Some("expiresInSecs"));
    try_it(json!({"roles": ["viewer"], "expiresInSecs": u64::MAX}), Some("expiresInSecs"));
    try_it(json!({"roles": ["viewer"], "networks": ["10.0.0.1/8"]}), Some("networks[0]"));
    let many = vec!["10.0.0.0/8"; 33];
    try_it(json!({"roles": ["viewer"], "networks": many}), Some("networks"));
    try_it(json!({"roles": ["viewer"], "label": "x".repeat(101)}), Some("label"));
    try_it(json!({"roles": ["viewer"], "label": "a\nb"}), Some("label"));
    try_it(json!({"roles": ["viewer"], "key": "hck_"}), Some("key"));
}

#[test]
fn api_39_a_key_gives_no_network_that_it_does_not_have() {
    let wider = |maker: &[&str], made: &[&str]| {
        let parse = |texts: &[&str]| -> Vec<Network> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        is_wider(&parse(maker), &parse(made))
    };
    assert!(!wider(&[], &[]) && !wider(&[], &["0.0.0.0/0"]), "it opens from everywhere");
    let maker = ["10.0.0.0/8", "2001:db8::/32"];
    assert!(!wider(&maker, &["10.1.0.0/16"]) && !wider(&maker, &maker));
    assert!(wider(&maker, &[]) && wider(&maker, &["0.0.0.0/0"]));
    assert!(wider(&maker, &["10.1.0.0/16", "192.0.2.0/24"]) && wider(&maker, &["2001:db8::/31"]));
}

#[test]
fn api_06_what_is_shown_of_a_key_later_holds_no_secret() {
    let (text, record) = made(&"acme".parse().unwrap(), UnixMs(1));
    let totp =
        TotpRecord { sealed: vec![7; 60], last_step: 1, enrolled_at: UnixMs(1), confirmed: true };
    let record = KeyRecord { totp: Some(totp), ..record };
    let secret = text.rsplit_once('_').unwrap().1;
    assert_eq!(secret.len(), api_key::SECRET_CHARS);
    let said = view(&record, UnixMs(2)).to_string();
    assert!(!said.contains(secret) && !said.contains(&record.sha256.to_string()), "{said}");
    assert!(!said.contains("7,7,7"), "{said}");
    assert_eq!(shown(&record, &text, UnixMs(2))["key"], text);
    assert_ne!(made(&"acme".parse().unwrap(), UnixMs(1)).0, text);
}

#[test]
fn a_page_is_bounded() {
    assert_eq!(page_of(""), Ok((PAGE_DEFAULT, None)));
    let id = KeyId::new(1, [1; 10]);
    assert_eq!(page_of(&format!("after={id}&limit=7")), Ok((7, Some(id))));
    for bad in ["limit=0", "limit=101", "limit=x", "after=x", "cursor=1"] {
        assert_eq!(page_of(bad).unwrap_err().status(), 400, "{bad}");
    }
}
