//! How issuers are configured, and what a sender is told.

use super::*;

fn config(more: &str) -> IssuerConfig {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/config/keycloak/rules.toml");
    let text = format!("audience = \"a\"\nrules = {rules:?}\n{more}");
    toml::from_str(&text).unwrap()
}

/// The key of the configuration that is refused.
fn refused(more: &str) -> Option<&'static str> {
    match Issuer::new(&config(more)) {
        Ok(_) => None,
        Err(IssuersError::Value { key, .. }) => Some(key),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_issuer_is_configured_within_bounds() {
    let good = "issuer = \"https://idp.example\"";
    assert_eq!(refused(good), None);
    assert_eq!(refused("issuer = \"http://127.0.0.1:4455\""), None);
    for (more, key) in [
        ("issuer = \"http://idp.example\"", "issuer"),
        ("issuer = \"hotcell\"", "issuer"),
        (&format!("{good}\njwks_uri = \"http://idp.example/keys\""), "jwks_uri"),
        (&format!("{good}\njwks_uri = \"keys\""), "jwks_uri"),
        (&format!("{good}\nalgorithms = []"), "algorithms"),
        (&format!("{good}\nclock_skew_secs = 31"), "clock_skew_secs"),
        (&format!("{good}\nlifetime_secs_max = 0"), "lifetime_secs_max"),
        (&format!("{good}\nlifetime_secs_max = 100000"), "lifetime_secs_max"),
    ] {
        assert_eq!(refused(more), Some(key), "{more}");
    }
    for alg in ["none", "HS256", "ES512"] {
        let text = format!("{good}\naudience = \"a\"\nrules = \"r\"\nalgorithms = [{alg:?}]");
        assert!(toml::from_str::<IssuerConfig>(&text).is_err(), "{alg}");
    }
    let defaults = config(good);
    assert_eq!(defaults.algorithms, Algorithm::ALL);
    assert_eq!((defaults.clock_skew_secs, defaults.mfa_amr.len()), (30, 0));
    let missing = IssuerConfig { rules: "/nowhere".into(), ..config(good) };
    assert!(matches!(Issuer::new(&missing), Err(IssuersError::Rules(_))));
    assert!(base("https://api.example.com/edge").is_ok());
    for bad in ["api.example.com", "https://api.example.com/?a", "ftp://api.example.com"] {
        assert!(base(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_sender_is_told_its_own_scheme_s_challenge_and_nothing_of_the_reason() {
    let check = |reason: Denied, status: u16, challenge: Option<&str>| {
        let problem = problem(reason).unwrap();
        let found = problem.headers().iter().find(|(name, _)| *name == "www-authenticate");
        assert_eq!(problem.status(), status, "{reason}");
        assert_eq!(found.map(|(_, value)| value.as_str()), challenge, "{reason}");
    };
    let bearer = Some(r#"Bearer realm="hotcell", error="invalid_token""#);
    check(Denied::Oidc(TokenFault::Audience), 401, bearer);
    check(Denied::Oidc(TokenFault::UnknownKey), 401, bearer);
    let proof = r#"DPoP error="invalid_dpop_proof", algs="ES256 EdDSA PS256 RS256""#;
    check(Denied::Proof(DpopFault::Replayed), 401, Some(proof));
    check(Denied::Proof(DpopFault::Missing), 401, Some(proof));
    let token = proof.replace("invalid_dpop_proof", "invalid_token");
    check(Denied::Proof(DpopFault::BoundAsBearer), 401, Some(&token));
    check(Denied::Unmapped(Unmapped::NoRule), 403, None);
    check(Denied::Unmapped(Unmapped::SeveralTenants), 403, None);
    assert!(problem(Denied::Revoked).is_none());
    let said = |fault| problem(Denied::Oidc(fault)).unwrap().body();
    assert_eq!(said(TokenFault::Issuer), said(TokenFault::Jwt(JwtError::Signature)));
}
