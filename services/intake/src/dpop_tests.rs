//! Proofs of possession: the examples of RFC 9449, and one row for each way to be of another request.

use super::*;
use http::HeaderValue;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

/// RFC 9449 §4.1 (figure 2): a proof for a token request.
const RFC_PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
/// Figure 10: the thumbprint of its key.
const RFC_JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
/// §7.1: an access token, and the hash of it in a proof.
const RFC_TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const RFC_ATH: &str = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";
/// The second of that proof, later by a minute than anything here.
const NOW: u64 = 1_562_262_616;

const PATH: &str = "/v1/transcodes";
const HTU: &str = "https://api.hotcell.test/v1/transcodes";

struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random).unwrap())
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })
    }

    fn jkt(&self) -> String {
        PublicKey::from_jwk(self.jwk().as_object().unwrap()).unwrap().thumbprint()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| encoded(value.to_string().as_bytes());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", encoded(signature.as_ref()))
    }

    fn header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk() })
    }
}

fn claims() -> Value {
    json!({ "jti": "one", "htm": "POST", "htu": HTU, "iat": NOW, "ath": RFC_ATH })
}

fn expect<'a>(bases: &'a [Url], jkt: &'a str) -> Expect<'a> {
    let now = UnixMs(NOW * 1000);
    Expect { method: "POST", path: PATH, bases, token: RFC_TOKEN, jkt, now }
}

fn bases() -> [Url; 2] {
    ["https://api.hotcell.test", "http://10.0.0.7:8080/edge/"].map(|it| it.parse().unwrap())
}

/// The fault of a good proof after one change.
fn fault(change: impl FnOnce(&mut Value, &mut Value)) -> Option<DpopFault> {
    let (key, bases) = (Key::new(), bases());
    let (mut header, mut claims) = (key.header(), claims());
    change(&mut header, &mut claims);
    check(&key.sign(&header, &claims), expect(&bases, &key.jkt())).err()
}

#[test]
fn zt_03_the_example_of_rfc_9449_verifies_but_for_the_token_that_it_does_not_name() {
    let bases = ["https://server.example.com".parse().unwrap()];
    let expect = Expect { path: "/token", ..expect(&bases, RFC_JKT) };
    assert_eq!(check(RFC_PROOF, expect), Err(DpopFault::Malformed), "no `ath`");
    let forged = RFC_PROOF.replacen("3Lg", "3Lw", 1);
    let wrong = check(&forged, expect);
    assert_eq!(wrong, Err(DpopFault::Token(JwtError::Signature)), "before all else");
    let later = Expect { now: UnixMs((NOW + 61) * 1000), ..expect };
    assert_eq!(check(RFC_PROOF, later), Err(DpopFault::OtherTime));
    assert_eq!(check(RFC_PROOF, Expect { method: "GET", ..expect }), Err(DpopFault::OtherRequest));
}

#[test]
fn zt_03_a_proof_is_of_one_request_one_token_one_key_and_one_minute() {
    use DpopFault::{Malformed, OtherKey, OtherRequest, OtherTime, OtherToken};
    assert_eq!(fault(|_, _| ()), None);
    let claim = |name: &'static str, value: Value| fault(move |_, claims| claims[name] = value);
    let header = |name: &'static str, value: Value| fault(move |header, _| header[name] = value);
    assert_eq!(claim("htm", json!("GET")), Some(OtherRequest));
    assert_eq!(claim("htm", json!("post")), Some(OtherRequest));
    for htu in [
        "https://api.hotcell.test/v1/webhooks",
        "https://api.hotcell.test/v1/transcodes/",
        "http://api.hotcell.test/v1/transcodes",
        "https://api.hotcell.test:8443/v1/transcodes",
        "https://api.hotcell.test.evil/v1/transcodes",
        "https://x@api.hotcell.test/v1/transcodes",
        "/v1/transcodes",
        "",
    ] {
        assert_eq!(claim("htu", json!(htu)), Some(OtherRequest), "{htu}");
    }
    for same in [
        "HTTPS://API.hotcell.test:443/v1/./transcodes",
        "https://api.hotcell.test/v1/transcodes?page=2#top",
        "http://10.0.0.7:8080/edge/v1/transcodes",
    ] {
        assert_eq!(claim("htu", json!(same)), None, "{same}");
    }
    for (iat, good) in [(NOW - 61, false), (NOW - 60, true), (NOW + 60, true), (NOW + 61, false)] {
        assert_eq!(claim("iat", json!(iat)), (!good).then_some(OtherTime), "{iat}");
    }
    assert_eq!(claim("ath", json!(encoded(&[0; 32]))), Some(OtherToken));
    for name in ["htm", "htu", "iat", "ath", "jti"] {
        let gone = fault(|_, claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(gone, Some(Malformed), "{name}");
    }
    assert_eq!(claim("iat", json!("1562262616")), Some(Malformed));
    assert_eq!(claim("jti", json!("")), Some(Malformed));
    assert_eq!(claim("jti", json!("x".repeat(257))), Some(Malformed));
    assert_eq!(header("typ", json!("JWT")), Some(Malformed));
    assert_eq!(header("jwk", Value::Null), Some(Malformed));
    assert_eq!(header("jwk", Key::new().jwk()), Some(DpopFault::Token(JwtError::Signature)));
    let private = fault(|header, _| header["jwk"]["d"] = json!("AQAB"));
    assert_eq!(private, Some(DpopFault::Token(JwtError::Key)));
    for alg in ["none", "HS256"] {
        assert_eq!(header("alg", json!(alg)), Some(DpopFault::Token(JwtError::Algorithm)), "{alg}");
    }
    let (key, other, bases) = (Key::new(), Key::new(), bases());
    let proof = key.sign(&key.header(), &claims());
    assert_eq!(check(&proof, expect(&bases, &other.jkt())), Err(OtherKey));
    assert_eq!(check(&proof, expect(&[], &key.jkt())), Err(OtherRequest));
    assert!(check("", expect(&bases, &key.jkt())).is_err());
}

#[test]
fn what_is_remembered_is_of_the_key_and_the_jti() {
    let bases = bases();
    let seen = |key: &Key, jti: &str| {
        let claims = json!({ "jti": jti, "htm": "POST", "htu": HTU, "iat": NOW, "ath": RFC_ATH });
        check(&key.sign(&key.header(), &claims), expect(&bases, &key.jkt())).unwrap()
    };
    let (one, two) = (Key::new(), Key::new());
    assert_eq!(seen(&one, "a"), seen(&one, "a"), "another signature is the same proof");
    assert_ne!(seen(&one, "a"), seen(&one, "b"));
    assert_ne!(seen(&one, "a"), seen(&two, "a"));
    // A subject's token, whatever the sender writes.
    assert!(seen(&one, "a.*.>\r\n").key.bytes().all(|it| it.is_ascii_hexdigit()));
}

#[test]
fn one_proof_is_sent() {
    let mut headers = HeaderMap::new();
    assert_eq!(header(&headers), Err(DpopFault::Missing));
    headers.append("dpop", HeaderValue::from_static("a"));
    assert_eq!(header(&headers), Ok("a"));
    headers.append("dpop", HeaderValue::from_static("a"));
    assert_eq!(header(&headers), Err(DpopFault::Several));
}

/// Whoever signs proofs by the thousand fills no more of the broker than its tenant's requests do.
#[test]
fn proofs_of_one_tenant_are_counted_and_another_s_are_not_touched() {
    let (counts, now) = (Counts::default(), Instant::now());
    let [acme, bolt] = ["acme", "bolt"].map(|name| name.parse::<TenantId>().unwrap());
    let taken = (0..PER_TENANT_MAX + 9).filter(|_| counts.takes(&acme, now)).count();
    assert_eq!(taken, PER_TENANT_MAX as usize);
    assert!(counts.takes(&bolt, now));
    let almost = now + std::time::Duration::from_secs(COUNT_SECS - 1);
    assert!(!counts.takes(&acme, almost));
    assert!(counts.takes(&acme, now + std::time::Duration::from_secs(COUNT_SECS)));
}

/// A proof is remembered for longer than it is believed, and counted for as long.
#[test]
fn proofs_are_counted_for_as_long_as_they_are_kept() {
    let kept = hotcell_schemas::routes::bucket("proofs").unwrap().max_age_secs;
    assert!(kept == COUNT_SECS && kept > 2 * WINDOW_SECS);
}
