//! A real identity provider for one test: `tools/idp/idp.mjs`, which is oidc-provider, and what
//! people and programs do with it: sign in with or without a second factor, ask for tokens, prove
//! that they hold a key.
//!
//! Promises: it listens when [`Idp::start`] returns, and is gone when it is dropped. Refuses to
//! start without node and the packages of `tools/npm`: run `tools/setup` first.

use crate::up::workspace;
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, RequestBuilder, Response, header, redirect};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};
use url::Url;

/// For whom its access tokens are.
pub const AUDIENCE: &str = "https://api.hotcell.test";

/// For whom they are on request.
pub const OTHER_AUDIENCE: &str = "https://other.hotcell.test";

/// The authentication context class of a second factor there.
pub const ACR_MFA: &str = "urn:hotcell:acr:mfa";

/// What acme's people are by their groups, as rules of intake.
pub const ACME_RULES: &str = r#"
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
"#;

/// The client of people.
const WEB: &str = "web";

/// Where its codes are sent; nobody listens there.
const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// A running identity provider.
#[derive(Debug)]
pub struct Idp {
    child: Child,
    /// `iss` of its tokens.
    pub issuer: String,
    http: Client,
}

/// What a token answer holds.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The access token.
    pub access: String,
    /// The ID token, of a person.
    pub id: Option<String>,
    /// `Bearer` or `DPoP`.
    pub kind: String,
}

impl Idp {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self> {
        Self::start_on(0)
    }

    /// Starts one on `port`: what another one there has issued is of the same issuer.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_on(port: u16) -> Result<Self> {
        hotcell_stage::blob::install_tls();
        let mut child = Command::new("node")
            .arg(workspace().join("tools/idp/idp.mjs"))
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("node is missing: run tools/setup")?;
        let stdout = child.stdout.take().context("its output is a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .context("the identity provider does not start: run tools/setup")?;
        let issuer = said.get("issuer").and_then(Value::as_str);
        let issuer = issuer.context("it says its issuer")?.to_owned();
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .pool_idle_timeout(hotcell_stage::blob::IDLE)
            .build()?;
        Ok(Self { child, issuer, http })
    }

    /// Its port.
    ///
    /// # Panics
    /// When its issuer is no URL: it said so itself.
    #[must_use]
    pub fn port(&self) -> u16 {
        let url = Url::parse(&self.issuer).expect("the issuer is a URL");
        url.port().expect("the issuer has a port")
    }

    /// Takes it away, and says where it was.
    #[must_use]
    pub fn stop(self) -> u16 {
        self.port()
    }

    /// Gives it new keys, and forgets the old ones.
    ///
    /// # Errors
    /// When it does not.
    pub async fn rotate(&self) -> Result<()> {
        self.http.post(format!("{}/_test/rotate", self.issuer)).send().await?.error_for_status()?;
        Ok(())
    }

    /// Puts a person into other groups.
    ///
    /// # Errors
    /// When it does not.
    pub async fn regroup(&self, user: &str, groups: &[&str]) -> Result<()> {
        let form = form(&[("user", user), ("groups", &groups.join(","))]);
        let request = self.http.post(format!("{}/_test/groups", self.issuer));
        send_form(request, form).await?.error_for_status()?;
        Ok(())
    }

    /// A program's own token (RFC 6749 §4.4), bound to `key` when there is one.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn program(&self, client: &str, key: Option<&ProofKey>) -> Result<Tokens> {
        self.program_for(client, key, AUDIENCE).await
    }

    /// The same for an audience.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn program_for(
        &self,
        client: &str,
        key: Option<&ProofKey>,
        audience: &str,
    ) -> Result<Tokens> {
        let fields = [
            ("grant_type", "client_credentials"),
            ("scope", "transcode:submit"),
            ("resource", audience),
        ];
        let url = format!("{}/token", self.issuer);
        let request = self.http.post(&url).basic_auth(client, Some(format!("{client}-secret")));
        tokens(with_proof(request, key, &url), form(&fields)).await
    }

    /// A browser that nobody has signed in with.
    #[must_use]
    pub fn browser(&self) -> Browser<'_> {
        Browser { idp: self, cookies: BTreeMap::new() }
    }

    /// The token of a person who signs in anew.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn person(&self, user: &str, mfa: bool) -> Result<Tokens> {
        let login = Login { user, mfa, ..Login::default() };
        self.browser().sign_in(&login).await
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a person signs in, and for what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Login<'a> {
    /// Who.
    pub user: &'a str,
    /// Whether with a second factor, when asked for a login.
    pub mfa: bool,
    /// How long ago the login claims to be, in seconds.
    pub age_secs: u64,
    /// `acr_values` of the request.
    pub acr_values: Option<&'a str>,
    /// `max_age` of the request.
    pub max_age: Option<&'a str>,
    /// The key that the token is to be bound to.
    pub key: Option<&'a ProofKey>,
    /// For whom the token is; [`AUDIENCE`] when empty.
    pub audience: &'a str,
}

/// A person's browser: what keeps cookies.
#[derive(Debug)]
pub struct Browser<'a> {
    idp: &'a Idp,
    cookies: BTreeMap<String, String>,
}

impl Browser<'_> {
    /// The authorization code flow with PKCE (RFC 7636), as a native client does it. Whoever is
    /// signed in already is not asked again, unless the request needs more.
    ///
    /// # Errors
    /// When any of its steps is refused.
    pub async fn sign_in(&mut self, login: &Login<'_>) -> Result<Tokens> {
        let verifier = URL_SAFE_NO_PAD.encode(random::<32>()?);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let audience = if login.audience.is_empty() { AUDIENCE } else { login.audience };
        let mut query = vec![
            ("client_id", WEB),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("scope", "openid transcode:submit"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", audience),
        ];
        query.extend(login.acr_values.map(|it| ("acr_values", it)));
        query.extend(login.max_age.map(|it| ("max_age", it)));
        let mut at = Url::parse(&format!("{}/auth", self.idp.issuer))?;
        at.query_pairs_mut().extend_pairs(query);
        let code = self.code(at, login).await?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", WEB),
            ("redirect_uri", REDIRECT),
            ("code_verifier", &verifier),
            ("code", &code),
            ("resource", audience),
        ];
        let url = format!("{}/token", self.idp.issuer);
        tokens(with_proof(self.idp.http.post(&url), login.key, &url), form(&fields)).await
    }

    /// Follows redirects, fills in the login where it is asked for, and ends with the code.
    async fn code(&mut self, mut at: Url, login: &Login<'_>) -> Result<String> {
        for _ in 0..6 {
            if at.as_str().starts_with(REDIRECT) {
                let said: BTreeMap<_, _> = at.query_pairs().into_owned().collect();
                return said.get("code").cloned().with_context(|| format!("no code: {said:?}"));
            }
            let answer = if at.path().starts_with("/login/") {
                let (otp, age) =
                    (if login.mfa { "123456" } else { "" }, login.age_secs.to_string());
                let fields = [("user", login.user), ("pw", "pw"), ("otp", otp), ("age", &age)];
                send_form(self.request(self.idp.http.post(at.clone())), form(&fields)).await?
            } else {
                self.request(self.idp.http.get(at.clone())).send().await?
            };
            self.keep(&answer);
            let next = answer.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
            let Some(next) = next else {
                bail!("{} answers {} {}", at.path(), answer.status(), answer.text().await?)
            };
            at = at.join(next)?;
        }
        bail!("the login goes around in circles")
    }

    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        let all: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request.header(header::COOKIE, all.join("; "))
    }

    fn keep(&mut self, answer: &Response) {
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().ok().and_then(|it| it.split(';').next()?.split_once('='));
            match pair {
                Some((name, "")) => drop(self.cookies.remove(name)),
                Some((name, value)) => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
                None => {}
            }
        }
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(fields).finish()
}

async fn send_form(request: RequestBuilder, form: String) -> Result<Response> {
    let kind = "application/x-www-form-urlencoded";
    Ok(request.header(header::CONTENT_TYPE, kind).body(form).send().await?)
}

async fn tokens(request: RequestBuilder, form: String) -> Result<Tokens> {
    let answer = send_form(request, form).await?;
    let (status, body) = (answer.status(), answer.json::<Value>().await?);
    ensure!(status.is_success(), "{status} {body}");
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Tokens {
        access: text("access_token").context("an access token")?,
        id: text("id_token"),
        kind: text("token_type").context("a token type")?,
    })
}

fn with_proof(request: RequestBuilder, key: Option<&ProofKey>, url: &str) -> RequestBuilder {
    match key {
        Some(key) => request.header("dpop", key.proof("POST", url, None)),
        None => request,
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A key that a client proves to hold (RFC 9449).
#[derive(Debug)]
pub struct ProofKey(EcdsaKeyPair);

impl ProofKey {
    /// A new one.
    ///
    /// # Panics
    /// When the system gives no randomness: it has booted.
    #[must_use]
    pub fn new() -> Self {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).expect("randomness");
        let pair = EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random);
        Self(pair.expect("a key that was just made is one"))
    }

    /// A proof for one request, and, with `token`, for that token.
    #[must_use]
    pub fn proof(&self, method: &str, url: &str, token: Option<&str>) -> String {
        let jti = URL_SAFE_NO_PAD.encode(random::<16>().unwrap_or_default());
        let iat = hotcell_stage::clock::now().0 / 1000;
        let mut claims = json!({ "jti": jti, "htm": method, "htu": url, "iat": iat });
        if let (Some(token), Some(claims)) = (token, claims.as_object_mut()) {
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes()));
            claims.insert("ath".to_owned(), json!(hash));
        }
        self.signed(&claims)
    }

    /// A proof with these claims.
    #[must_use]
    pub fn signed(&self, claims: &Value) -> String {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk() });
        self.sign(&header, &claims.to_string())
    }

    /// Its public half.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let half = |range| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({ "kty": "EC", "crv": "P-256", "x": half(1..33), "y": half(33..65) })
    }

    /// A token of these parts, signed, whatever they say.
    ///
    /// # Panics
    /// When the system gives no randomness: it has booted.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let text = format!("{}.{}", part(&header.to_string()), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).expect("randomness");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Default for ProofKey {
    fn default() -> Self {
        Self::new()
    }
}
