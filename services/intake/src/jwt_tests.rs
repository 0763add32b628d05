//! Tokens and keys: the examples of RFC 7515, 7638, 8037 and 9449, and what must not be believed.

use super::*;
use serde_json::json;

/// RFC 7515 appendix A: the same claims by two algorithms.
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RS256_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RS256_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const ES256_SIGNATURE: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const ES256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const ES256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

fn key(jwk: Value) -> Result<PublicKey, JwtError> {
    let Value::Object(jwk) = jwk else { panic!("a key is an object") };
    PublicKey::from_jwk(&jwk)
}

fn rsa() -> PublicKey {
    key(json!({ "kty": "RSA", "n": RS256_N, "e": "AQAB" })).unwrap()
}

fn p256() -> PublicKey {
    key(json!({ "kty": "EC", "crv": "P-256", "x": ES256_X, "y": ES256_Y })).unwrap()
}

fn token(header: &Value, signature: &str) -> String {
    format!("{}.{CLAIMS}.{signature}", encoded(header.to_string().as_bytes()))
}

fn verified(text: &str, key: &PublicKey, allowed: &[Algorithm]) -> Result<Object, JwtError> {
    Unverified::parse(text)?.verify(key, allowed)
}

#[test]
fn the_examples_of_rfc_7515_verify_and_nothing_beside_them() {
    let rs256 = token(&json!({ "alg": "RS256" }), RS256_SIGNATURE);
    let es256 = token(&json!({ "alg": "ES256" }), ES256_SIGNATURE);
    for (text, key) in [(&rs256, rsa()), (&es256, p256())] {
        let claims = verified(text, &key, &Algorithm::ALL).unwrap();
        assert_eq!((claims.text("iss"), claims.number("exp")), (Some("joe"), Some(1_300_819_380)));
        let forged = text.replacen(".eyJpc3Mi", ".eyJpc3Mj", 1);
        assert!(verified(&forged, &key, &Algorithm::ALL).is_err());
        assert_eq!(verified(text, &key, &[Algorithm::EdDsa]), Err(JwtError::Algorithm));
        let claims = verified(text, &key, &[]);
        assert_eq!(claims, Err(JwtError::Algorithm), "an empty list allows nothing");
    }
    // The right signature under another name, or by another's key.
    let renamed = token(&json!({ "alg": "PS256" }), RS256_SIGNATURE);
    assert_eq!(verified(&renamed, &rsa(), &Algorithm::ALL), Err(JwtError::Signature));
    assert_eq!(verified(&rs256, &p256(), &Algorithm::ALL), Err(JwtError::Key));
}

#[test]
fn the_example_of_rfc_8037_verifies() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let key = key(json!({ "kty": "OKP", "crv": "Ed25519", "x": x })).unwrap();
    let signature = decoded(
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    let (message, signature) =
        ("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", signature.unwrap());
    assert_eq!(key.verify(Algorithm::EdDsa, message.as_bytes(), &signature), Ok(()));
    assert_eq!(key.verify(Algorithm::EdDsa, b"x", &signature), Err(JwtError::Signature));
    assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn zt_03_thumbprints_are_those_of_rfc_7638_and_rfc_9449() {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let rsa =
        key(json!({ "kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29" }));
    assert_eq!(rsa.unwrap().thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    let ec = key(json!({
        "kty": "EC", "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }));
    assert_eq!(ec.unwrap().thumbprint(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
}

#[test]
fn a_token_s_form_is_checked_before_anything_in_it_is_used() {
    let check = |text: &str, expect| {
        assert_eq!(Unverified::parse(text).err(), Some(expect), "{text:.80}");
    };
    for bad in
        ["", ".", "..", "a.b", "a.b.c", "e30", "e30.e30", "{}.{}.x", "e30=.e30.e30", "e30.e30.%%"]
    {
        assert!(Unverified::parse(bad).is_err(), "{bad}");
    }
    check(&format!("{}.e30.", "e".repeat(BYTES_MAX)), JwtError::TooLong);
    check(&format!("e30.{CLAIMS}.e30.e30"), JwtError::NotCompact);
    // Base64url has one way to write each value.
    check("eyJhbGciOiJFUzI1NiJ9.e31.e30", JwtError::NotCompact);
    for alg in ["none", "None", "HS256", "HS512", "ES384", "ES256K", "es256", "", "RSA1_5"] {
        check(&token(&json!({ "alg": alg }), "e30"), JwtError::Algorithm);
    }
    check(&token(&json!({ "alg": 7 }), "e30"), JwtError::Algorithm);
    check(
        &token(&json!({ "alg": "ES256", "crit": ["b64"], "b64": false }), "e30"),
        JwtError::Critical,
    );
    check(&token(&json!({ "alg": "ES256", "crit": [] }), "e30"), JwtError::Critical);
    check(&token(&json!(["ES256"]), "e30"), JwtError::Json);
}

#[test]
fn a_member_that_appears_twice_is_refused_at_every_depth() {
    let check =
        |text: &str, good| assert_eq!(Object::parse(text.as_bytes()).is_ok(), good, "{text}");
    check(r#"{"aud":"a","iss":"b"}"#, true);
    check(r#"{"aud":"a","aud":"b"}"#, false);
    check(r#"{"aud":"a","\u0061ud":"b"}"#, false);
    check(r#"{"cnf":{"jkt":"a","jkt":"b"}}"#, false);
    check(r#"{"a":[{"b":1,"b":1}]}"#, false);
    check(r#"{"a":1} x"#, false);
    check("[]", false);
    check(&format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000)), false);
}

#[test]
fn a_key_is_public_for_signatures_and_of_a_known_kind() {
    let rsa = |more: Value| {
        let mut jwk = json!({ "kty": "RSA", "n": RS256_N, "e": "AQAB" });
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key(jwk)
    };
    assert!(rsa(json!({ "use": "sig", "key_ops": ["verify"], "alg": "PS256" })).is_ok());
    for bad in [
        json!({ "use": "enc" }),
        json!({ "key_ops": ["sign"] }),
        json!({ "key_ops": "verify" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "ES256" }),
        json!({ "alg": 1 }),
        json!({ "d": "AQAB" }),
        json!({ "kty": "oct", "k": "AQAB" }),
        json!({ "kty": "oct" }),
        json!({ "crv": "P-256" }),
        json!({ "e": "AQABAQAB" }),
        json!({ "n": encoded(&[255; 1025]) }),
    ] {
        assert_eq!(rsa(bad.clone()), Err(JwtError::Key), "{bad}");
    }
    let only = rsa(json!({ "alg": "PS256" })).unwrap();
    assert!(only.suits(Algorithm::Ps256) && !only.suits(Algorithm::Rs256));
    let off_curve =
        key(json!({ "kty": "EC", "crv": "P-256", "x": ES256_X, "y": ES256_X })).unwrap();
    let text = token(&json!({ "alg": "ES256" }), ES256_SIGNATURE);
    assert_eq!(verified(&text, &off_curve, &Algorithm::ALL), Err(JwtError::Signature));
}

#[test]
fn the_type_is_compared_as_a_media_type() {
    let check = |typ: Value, good| {
        let text = token(&json!({ "alg": "ES256", "typ": typ }), "e30");
        assert_eq!(Unverified::parse(&text).unwrap().is_type("at+jwt"), good, "{typ}");
    };
    check(json!("at+jwt"), true);
    check(json!("application/at+jwt"), true);
    check(json!("AT+JWT"), true);
    check(json!("JWT"), false);
    check(json!("application/application/at+jwt"), false);
    check(json!(["at+jwt"]), false);
    check(Value::Null, false);
}

proptest::proptest! {
    #[test]
    fn no_text_of_a_stranger_makes_a_token_that_verifies_or_a_panic(
        text in "[A-Za-z0-9_.-]{0,300}",
        header in "\\PC{0,60}",
        claims in "\\PC{0,60}",
    ) {
        let made = format!("{}.{}.{text}", encoded(header.as_bytes()), encoded(claims.as_bytes()));
        for text in [text, made] {
            proptest::prop_assert!(verified(&text, &p256(), &Algorithm::ALL).is_err());
        }
    }

    #[test]
    fn one_changed_character_breaks_a_token(at in 0_usize..180, to in "[A-Za-z0-9_.-]") {
        let good = token(&json!({ "alg": "ES256" }), ES256_SIGNATURE);
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        proptest::prop_assume!(changed != good);
        proptest::prop_assert!(verified(&changed, &p256(), &Algorithm::ALL).is_err());
    }
}
