//! What an access token must say, as a table of those that say it wrong.

use super::*;
use serde_json::json;

const NOW: u64 = 1_795_000_000;

fn profile() -> Profile {
    Profile {
        issuer: "https://idp.example".to_owned(),
        audience: "https://api.hotcell.test".to_owned(),
        clock_skew_secs: 30,
        lifetime_secs_max: 3600,
        mfa_acr: vec!["urn:hotcell:acr:mfa".to_owned(), "gold".to_owned()],
        mfa_amr: vec!["mfa".to_owned()],
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example", "aud": "https://api.hotcell.test", "sub": "ana",
        "client_id": "web", "jti": "j1", "iat": NOW, "exp": NOW + 300,
        "acr": "urn:hotcell:acr:mfa", "amr": ["pwd", "otp"], "auth_time": NOW - 10,
    })
}

fn checked(change: impl FnOnce(&mut Value)) -> Result<AccessToken, TokenFault> {
    let mut claims = claims();
    change(&mut claims);
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    profile().check(Object(claims), UnixMs(NOW * 1000))
}

fn with(name: &'static str, value: Value) -> Result<AccessToken, TokenFault> {
    checked(|claims| claims[name] = value)
}

fn without(name: &'static str) -> Result<AccessToken, TokenFault> {
    checked(|claims| drop(claims.as_object_mut().unwrap().remove(name)))
}

#[test]
fn a_token_says_who_for_whom_and_how() {
    let token = checked(|_| ()).unwrap();
    assert_eq!((token.subject.as_str(), token.client.as_str()), ("ana", "web"));
    assert_eq!(token.auth_time, Some(UnixMs((NOW - 10) * 1000)));
    assert!(token.mfa && !token.is_service && token.jkt.is_none());
}

/// Each row is an attack that passes where its check is missing.
#[test]
fn iam_14_a_token_of_another_issuer_audience_or_time_is_refused() {
    use TokenFault::{Audience, Expired, Issuer, Lifetime, Malformed, NotYet};
    let table = [
        ("iss", json!("https://idp.example/"), Issuer),
        ("iss", json!("https://IDP.example"), Issuer),
        ("iss", json!(["https://idp.example"]), Issuer),
        ("aud", json!("https://other.hotcell.test"), Audience),
        ("aud", json!(["https://other.hotcell.test"]), Audience),
        ("aud", json!("https://api.hotcell.test https://x"), Audience),
        ("aud", json!([]), Audience),
        ("aud", json!({ "https://api.hotcell.test": 1 }), Audience),
        ("exp", json!(NOW - 30), Expired),
        ("exp", json!(0), Expired),
        ("exp", json!("never"), Malformed),
        ("exp", json!(-1), Malformed),
        ("exp", json!(NOW + 3601), Lifetime),
        ("exp", json!(u64::MAX), Lifetime),
        ("iat", json!(NOW + 31), NotYet),
        ("nbf", json!(NOW + 31), NotYet),
        ("nbf", json!("soon"), Malformed),
        ("auth_time", json!(NOW + 31), NotYet),
        ("auth_time", json!(u64::MAX), NotYet),
        ("auth_time", json!("1795000000"), Malformed),
        ("acr", json!(["urn:hotcell:acr:mfa"]), Malformed),
        ("amr", json!("mfa"), Malformed),
        ("sub", json!(""), Malformed),
        ("sub", json!(7), Malformed),
        ("sub", json!("a\u{0}b"), Malformed),
        ("sub", json!("x".repeat(256)), Malformed),
        ("client_id", json!(null), Malformed),
        ("jti", json!("x".repeat(256)), Malformed),
        ("cnf", json!({ "x5t#S256": "abc" }), TokenFault::OtherBinding),
        ("cnf", json!({ "jkt": "abc", "x5t#S256": "abc" }), TokenFault::OtherBinding),
        ("cnf", json!({}), TokenFault::OtherBinding),
        ("cnf", json!("abc"), Malformed),
    ];
    for (name, value, expect) in table {
        assert_eq!(with(name, value.clone()).err(), Some(expect), "{name} {value}");
    }
    for name in ["sub", "client_id", "jti", "iat", "exp"] {
        assert_eq!(without(name).err(), Some(Malformed), "{name}");
    }
    assert_eq!(without("iss").err(), Some(Issuer));
    assert_eq!(without("aud").err(), Some(Audience));
}

#[test]
fn clocks_may_differ_by_so_much_and_no_more() {
    let shifted =
        |iat: u64, exp: u64| checked(|it| (it["iat"], it["exp"]) = (json!(iat), json!(exp)));
    assert!(shifted(NOW - 300, NOW - 29).is_ok());
    assert_eq!(shifted(NOW - 300, NOW - 30).err(), Some(TokenFault::Expired));
    assert!(shifted(NOW + 30, NOW + 330).is_ok());
    assert!(with("nbf", json!(NOW + 30)).is_ok());
    assert!(with("aud", json!(["https://x", "https://api.hotcell.test"])).is_ok());
}

#[test]
fn step_07_what_is_not_said_counts_against_the_token() {
    let token = without("acr").unwrap();
    assert!(!token.mfa && token.acr.is_none() && !token.is_service);
    assert_eq!(without("auth_time").unwrap().auth_time, None);
    assert!(!with("acr", json!("urn:hotcell:acr:pwd")).unwrap().mfa);
    assert!(!with("acr", json!("urn:hotcell:acr:mfa ")).unwrap().mfa);
    assert!(with("acr", json!("gold")).unwrap().mfa, "of the configured list");
    let by_amr = checked(|it| (it["acr"], it["amr"]) = (json!("1"), json!(["pwd", "mfa"])));
    assert!(by_amr.unwrap().mfa);
    assert!(!checked(|it| it["acr"] = json!("1")).unwrap().mfa, "otp alone is not listed");
}

#[test]
fn iam_01_a_program_is_not_a_person() {
    assert!(with("sub", json!("web")).unwrap().is_service);
    let silent = checked(|claims| {
        let claims = claims.as_object_mut().unwrap();
        claims.retain(|name, _| !["acr", "amr", "auth_time"].contains(&name.as_str()));
    });
    assert!(silent.unwrap().is_service);
    assert_eq!(with("cnf", json!({ "jkt": "abc" })).unwrap().jkt.as_deref(), Some("abc"));
}
