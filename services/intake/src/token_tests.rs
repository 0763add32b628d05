//! Tests of `token.rs`: which texts are tokens of ours, and until when.

use super::*;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_schemas::trust::TrustedKey;
use nkeys::KeyPair;
use ring::hmac;

const NOW: UnixMs = UnixMs(1_763_757_131_000);

struct Issuer {
    intake: KeyPair,
    signer: KeyPair,
    trust: Trust,
}

fn issuer() -> Issuer {
    let (intake, signer) = (KeyPair::new_user(), KeyPair::new_user());
    let keys = [(Role::Intake, &intake), (Role::Signer, &signer)];
    let keys = keys.map(|(role, pair)| TrustedKey { role, key: pair.public_key() });
    let trust = Trust::new(keys.to_vec()).unwrap();
    Issuer { intake, signer, trust }
}

fn key() -> KeyRecord {
    let new = KeyRecord::new(KeyId::new(1, [1; 10]), "acme".parse().unwrap(), "", UnixMs(1));
    KeyRecord { roles: [RoleName::Viewer, RoleName::Submitter].into(), ..new }
}

fn good() -> Claims {
    claims(&key(), key().roles, true, (NOW, TOKEN_SECS_MAX), [7; 16])
}

fn token(pair: &KeyPair, claims: &Claims) -> String {
    let text = unsigned(&pair.public_key(), claims);
    let signature = pair.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", encoded(&signature))
}

fn sign(pair: &KeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = pair.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", encoded(&signature))
}

fn read(issuer: &Issuer, text: &str, now: UnixMs) -> Result<Claims, Denied> {
    verify(Unverified::parse(text).map_err(Denied::Token)?, &issuer.trust, now)
}

#[test]
fn iam_02_a_token_lives_five_minutes_and_no_longer() {
    let issuer = issuer();
    let text = token(&issuer.intake, &good());
    assert_eq!(read(&issuer, &text, NOW), Ok(good()));
    let at = |secs: u64| UnixMs(NOW.0 + secs * 1000);
    assert_eq!(read(&issuer, &text, at(299)), Ok(good()));
    assert_eq!(read(&issuer, &text, at(300)), Err(Denied::Expired));
    assert_eq!(good().exp - good().iat, 300);
    // The clock of another replica may be a little ahead, not more.
    assert!(read(&issuer, &text, UnixMs(NOW.0 - 30_000)).is_ok());
    assert_eq!(read(&issuer, &text, UnixMs(NOW.0 - 31_000)), Err(Denied::TokenClaims));
    // Neither a wish nor a configuration makes it longer; a key that ends makes it shorter.
    let long = claims(&key(), key().roles, false, (NOW, 86_400), [7; 16]);
    assert_eq!(long.exp - long.iat, TOKEN_SECS_MAX);
    let ends = KeyRecord { expires_at: Some(at(20)), ..key() };
    let short = claims(&ends, key().roles, false, (NOW, 300), [7; 16]);
    assert_eq!(short.exp - short.iat, 20);
    assert_eq!((short.acr, short.auth_time, short.amr.len()), (None, None, 0));
    assert_eq!((good().acr.as_deref(), good().auth_time), (Some(ACR_MFA), Some(NOW.0 / 1000)));
}

#[test]
fn iam_10_a_token_narrows_and_never_widens() {
    use RoleName as R;
    for role in R::ALL {
        let less = [R::Viewer, R::Submitter, R::Publisher, R::WebhookAdmin, R::TenantAdmin];
        assert_eq!(includes(&[R::TenantAdmin].into(), role), less.contains(&role), "{role}");
        assert_eq!(includes(&[R::Submitter].into(), role), role == R::Submitter, "{role}");
        assert!(!includes(&BTreeSet::new(), role), "{role}");
    }
}

#[test]
fn iam_02_who_else_signs_is_not_believed() {
    let issuer = issuer();
    let stranger = KeyPair::new_user();
    // A key that nobody trusts, and one that is trusted for another role.
    for pair in [&stranger, &issuer.signer] {
        assert_eq!(read(&issuer, &token(pair, &good()), NOW), Err(Denied::TokenKey));
    }
    // The name of the right key over a signature of another.
    let header = json!({"alg": "EdDSA", "typ": TYPE, "kid": issuer.intake.public_key()});
    let claims = serde_json::to_value(good()).unwrap();
    let forged = sign(&stranger, &header, &claims);
    assert_eq!(read(&issuer, &forged, NOW), Err(Denied::Token(crate::jwt::JwtError::Signature)));
    assert!(read(&issuer, &sign(&issuer.intake, &header, &claims), NOW).is_ok());
    let none = json!({"alg": "EdDSA", "typ": TYPE});
    assert_eq!(read(&issuer, &sign(&issuer.intake, &none, &claims), NOW), Err(Denied::TokenKey));
}

#[test]
fn iam_02_none_and_hs256_with_the_public_key_are_refused() {
    let issuer = issuer();
    let public = issuer.intake.public_key();
    let claims = serde_json::to_value(good()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (_, raw) = nkeys::from_public_key(&public).unwrap();
    for (alg, secrets) in [("none", vec![]), ("HS256", vec![public.as_bytes(), &raw])] {
        let header = json!({"alg": alg, "typ": TYPE, "kid": public});
        let text = format!("{}.{}", part(&header), part(&claims));
        let mut tokens = vec![format!("{text}.")];
        for secret in secrets {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
            tokens.push(format!("{text}.{}", encoded(tag.as_ref())));
        }
        for token in tokens {
            let algorithm = Denied::Token(crate::jwt::JwtError::Algorithm);
            assert_eq!(read(&issuer, &token, NOW), Err(algorithm), "{alg}");
        }
    }
    for alg in ["ES256", "RS256", "PS256"] {
        let header = json!({"alg": alg, "typ": TYPE, "kid": public});
        assert!(read(&issuer, &sign(&issuer.intake, &header, &claims), NOW).is_err(), "{alg}");
    }
}

#[test]
fn iam_02_another_kind_of_token_and_other_claims_are_refused() {
    let issuer = issuer();
    let kid = issuer.intake.public_key();
    let claims = serde_json::to_value(good()).unwrap();
    for typ in [json!("JWT"), json!("dpop+jwt"), json!("rt+jwt"), Value::Null] {
        let header = json!({"alg": "EdDSA", "typ": typ, "kid": kid});
        let found = read(&issuer, &sign(&issuer.intake, &header, &claims), NOW);
        assert_eq!(found, Err(Denied::TokenType), "{typ}");
    }
    let header = json!({"alg": "EdDSA", "typ": TYPE, "kid": kid});
    let other = KeyId::new(2, [2; 10]);
    for (member, value) in [
        ("iss", json!("https://issuer.example")),
        ("aud", json!("another-api")),
        ("aud", json!([AUDIENCE])),
        ("client_id", json!(other)),
        ("iat", json!(NOW.0 / 1000 - 100)),
        ("exp", json!(NOW.0 / 1000 + 301)),
        ("exp", Value::Null),
        ("sub", json!("root")),
        ("roles", json!(["root"])),
        ("operator", json!(true)),
    ] {
        let mut claims = claims.clone();
        claims[member] = value.clone();
        let found = read(&issuer, &sign(&issuer.intake, &header, &claims), NOW);
        assert_eq!(found, Err(Denied::TokenClaims), "{member} {value}");
    }
}

#[test]
fn iam_02_each_changed_character_breaks_a_token() {
    let issuer = issuer();
    let text = token(&issuer.intake, &good());
    for (index, _) in text.match_indices(|c: char| c != '.').step_by(3) {
        let mut bytes = text.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(read(&issuer, &changed, NOW).is_err(), "{index}");
    }
}
