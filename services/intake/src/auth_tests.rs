//! Tests of `auth.rs`.

use super::*;
use crate::credential::parse_key;
use hotcell_schemas::{Digest, records::TotpRecord};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

const ID: &str = "0193a0f0c0de7000800000000000beef";
const SECRET: &str = "c2VjcmV0LW9mLTE2LWJ5dGVzLi4";

fn key() -> String {
    format!("hck_{ID}_{SECRET}")
}

fn headers(values: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for value in values {
        map.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn check(values: &[&str], query: Option<&str>, expect: Option<Denied>) {
    let found = credential(&headers(values), query).err();
    assert_eq!(found, expect, "{values:?} {query:?}");
}

#[test]
fn api_03_exactly_one_bearer_header_is_a_credential() {
    let good = format!("Bearer {}", key());
    check(&[&good], None, None);
    check(&[&format!("bearer {}", key())], None, None);
    check(&[], None, Some(Denied::Missing));
    check(&[&good, &good], None, Some(Denied::Several));
    check(&["Basic dXNlcjpwYXNz"], None, Some(Denied::Scheme));
    check(&[""], None, Some(Denied::Scheme));
    check(&[&key()], None, Some(Denied::Scheme));
    for bad in [
        "Bearer",
        "Bearer ",
        "Bearer x",
        &format!("Bearer  {}", key()),
        &format!("Bearer {} ", key()),
        &format!("Bearer hck_{ID}"),
        &format!("Bearer hck_{ID}_short"),
        &format!("Bearer hck_*_{SECRET}"),
        &format!("Bearer hck_{ID}_{}", "x".repeat(500)),
        &format!("Bearer {},{}", key(), key()),
    ] {
        check(&[bad], None, Some(Denied::Malformed));
    }
}

#[test]
fn api_04_a_key_in_the_query_string_is_refused_even_beside_a_good_header() {
    let good = format!("Bearer {}", key());
    for query in [
        format!("api_key={}", key()),
        "access_token=x".to_owned(),
        "API_KEY=x".to_owned(),
        "%61pi_key=x".to_owned(),
        format!("output=a&{}", key()),
        format!("output={}", key()),
        format!("k=hck%5F{ID}_{SECRET}"),
    ] {
        check(&[&good], Some(&query), Some(Denied::InQuery));
        check(&[], Some(&query), Some(Denied::InQuery));
    }
    check(&[&good], Some("output=out.mp4"), None);
}

fn record() -> KeyRecord {
    let new = KeyRecord::new(ID.parse().unwrap(), "acme".parse().unwrap(), &key(), UnixMs(1));
    KeyRecord { roles: [RoleName::Viewer, RoleName::Submitter].into(), ..new }
}

#[test]
fn api_06_07_the_record_decides_by_the_whole_key_s_hash() {
    let key_text = parse_key(&key()).unwrap();
    let judged = |record: &KeyRecord| judge(&key_text, record, UnixMs(9), None);
    let principal = judged(&record()).unwrap();
    assert_eq!(principal.tenant().as_str(), "acme");
    assert_eq!(principal.actor(), &Actor::ApiKey { id: ID.parse().unwrap() });
    assert_eq!(principal.authority().roles, record().roles);
    assert!(!principal.can_step_up() && !principal.authority().mfa);
    let other = KeyRecord { sha256: Digest::of(SECRET.as_bytes()), ..record() };
    assert_eq!(judged(&other), Err(Denied::WrongSecret));
    let other = KeyRecord { id: ID.replace("beef", "dead").parse().unwrap(), ..record() };
    assert_eq!(judged(&other), Err(Denied::WrongSecret));
    let revoked = KeyRecord { revoked_at: Some(UnixMs(2)), ..record() };
    assert_eq!(judged(&revoked), Err(Denied::Revoked));
    // What is wrong with a key is said of the right secret only.
    let other = KeyRecord { sha256: Digest::of(b""), ..revoked };
    assert_eq!(judged(&other), Err(Denied::WrongSecret));
    let none = KeyRecord { roles: BTreeSet::new(), ..record() };
    assert!(judged(&none).unwrap().authority().roles.is_empty());
}

#[test]
fn api_39_a_key_ends_by_itself() {
    let ends = KeyRecord { expires_at: Some(UnixMs(10)), ..record() };
    assert_eq!(usable(&ends, UnixMs(9), None), Ok(()));
    assert_eq!(usable(&ends, UnixMs(10), None), Err(Denied::Expired));
    assert_eq!(usable(&record(), UnixMs(u64::MAX), None), Ok(()));
}

#[test]
fn api_39_a_key_opens_only_from_its_networks() {
    let nets = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
    let bound = KeyRecord { networks: nets.to_vec(), ..record() };
    let from = |address: &str| usable(&bound, UnixMs(1), Some(address.parse().unwrap()));
    assert_eq!(from("10.1.2.3"), Ok(()));
    assert_eq!(from("::ffff:10.1.2.3"), Ok(()));
    assert_eq!(from("2001:db8::1"), Ok(()));
    assert_eq!(from("11.1.2.3"), Err(Denied::Network));
    assert_eq!(from("::1"), Err(Denied::Network));
    assert_eq!(usable(&bound, UnixMs(1), None), Err(Denied::Network));
    assert_eq!(usable(&record(), UnixMs(1), None), Ok(()));
}

#[test]
fn iam_02_a_token_is_worth_what_its_key_is_worth_now() {
    let enrolled = |confirmed| TotpRecord {
        sealed: Vec::new(),
        last_step: 1,
        enrolled_at: UnixMs(1),
        confirmed,
    };
    let full = KeyRecord { totp: Some(enrolled(true)), ..record() };
    let claims = token::claims(&full, full.roles.clone(), true, (UnixMs(5000), 300), [1; 16]);
    let judged = |record: &KeyRecord| judge_token(&claims, record, UnixMs(6000), None);
    let who = judged(&full).unwrap();
    let authority = who.authority();
    assert_eq!(authority.roles, full.roles);
    assert_eq!((authority.mfa, authority.acr.as_deref()), (true, Some(token::ACR_MFA)));
    assert_eq!(authority.auth_time, Some(UnixMs(5000)));
    assert_eq!(authority.session.as_deref(), Some(hex::encode([1; 16]).as_str()));
    assert!(who.can_step_up());
    let less = KeyRecord { roles: [RoleName::Viewer].into(), ..full.clone() };
    assert_eq!(judged(&less).unwrap().authority().roles, [RoleName::Viewer].into());
    for totp in [None, Some(enrolled(false))] {
        let who = judged(&KeyRecord { totp, ..full.clone() }).unwrap();
        assert!(!who.authority().mfa && who.authority().acr.is_none() && !who.can_step_up());
    }
    // Another second factor was enrolled since, and confirmed: what the old one opened stays shut.
    let again = TotpRecord { enrolled_at: UnixMs(5999), ..enrolled(true) };
    assert!(judged(&KeyRecord { totp: Some(again), ..full.clone() }).unwrap().authority().mfa);
    let again = TotpRecord { enrolled_at: UnixMs(6000), ..enrolled(true) };
    assert!(!judged(&KeyRecord { totp: Some(again), ..full.clone() }).unwrap().authority().mfa);
    let other = KeyRecord { tenant: "umbra".parse().unwrap(), ..full.clone() };
    assert_eq!(judged(&other), Err(Denied::TokenClaims));
    let revoked = KeyRecord { revoked_at: Some(UnixMs(2)), ..full.clone() };
    assert_eq!(judged(&revoked), Err(Denied::Revoked));
    let ended = KeyRecord { expires_at: Some(UnixMs(6000)), ..full };
    assert_eq!(judged(&ended), Err(Denied::Expired));
}

#[test]
fn iam_02_a_credential_with_dots_is_a_token_and_prints_nothing() {
    let map = headers(&["Bearer aaa.CANARY.ccc"]);
    let found = credential(&map, None).unwrap();
    assert_eq!(found, Credential::Token(Scheme::Bearer, "aaa.CANARY.ccc"));
    assert!(!format!("{found:?}").contains("CANARY"));
    let map = headers(&["dpop a.b.c"]);
    assert_eq!(credential(&map, None), Ok(Credential::Token(Scheme::Dpop, "a.b.c")));
    check(&[&format!("DPoP {}", key())], None, Some(Denied::Scheme));
    let shown = format!("{:?}", credential(&headers(&[&format!("Bearer {}", key())]), None));
    assert!(!shown.contains(SECRET), "{shown}");
}

#[test]
fn digests_compare_over_all_bytes() {
    let digest = Digest::of(b"a");
    assert!(same(digest.as_bytes(), Digest::of(b"a").as_bytes()));
    for index in 0..32 {
        let mut bytes = *digest.as_bytes();
        bytes[index] ^= 1;
        assert!(!same(digest.as_bytes(), &bytes), "byte {index}");
    }
}

#[test]
fn iam_10_no_tag_of_a_login_makes_an_operator() {
    let tags = ["role:submitter", "role:operator", "role:king", "viewer", "role:"];
    let found = tagged(&tags.map(str::to_owned));
    assert_eq!(found, [RoleName::Submitter].into());
}

#[test]
fn the_account_is_read_from_the_subject_only() {
    let account = format!("A{}", "B".repeat(55));
    assert_eq!(account_of(&format!("tenant.{account}.submit")), Some(account.as_str()));
    for bad in ["tenant.acme.submit", "tenant.*.submit", "tenant..submit", "job.a.b.submitted"] {
        assert_eq!(account_of(bad), None, "{bad}");
    }
}
