//! A broker that is not ours. It chooses the text that each login signs to get in; nothing that it
//! can choose may be worth anything elsewhere.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_intake::{
    jwt::{Unverified, encoded},
    token,
};
use hotcell_nats_config::{
    InitOptions, Login,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{KeyId, Role, Trust, UnixMs, identity::RoleName, records::KeyRecord};
use hotcell_stage::{Bus, NatsConfig, clock};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

/// What a login signs for a broker that sends `nonce`; nothing when it hangs up instead.
async fn signed(files: &NatsConfig, nonce: &str) -> Option<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let config = NatsConfig { url, ..files.clone() };
    let broker = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let info = json!({ "server_id": "X", "version": "2.15.1", "proto": 1, "headers": true,
            "max_payload": 1_048_576, "jetstream": true, "auth_required": true, "nonce": nonce });
        socket.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        let line = lines.next_line().await.unwrap()?;
        let sent: Value = serde_json::from_str(line.strip_prefix("CONNECT ").unwrap()).unwrap();
        Some(URL_SAFE_NO_PAD.decode(sent["sig"].as_str().unwrap()).unwrap())
    };
    tokio::select! {
        found = broker => found,
        _ = Bus::connect(Role::Intake, &config) => None,
    }
}

/// A token that nobody asked intake for: of a key that may do everything, with a second factor.
fn forged(kid: &str) -> String {
    let new = KeyRecord::new(KeyId::new(1, [1; 10]), "acme".parse().unwrap(), "", UnixMs(1));
    let key = KeyRecord { roles: [RoleName::TenantAdmin].into(), ..new };
    let roles = key.roles.clone();
    token::unsigned(kid, &token::claims(&key, roles, true, (clock::now(), 300), [7; 16]))
}

/// ZT-03: intake's login and its tokens are signed by one key. A broker that sends a token's text as
/// its challenge must get no signature: it would be a token of any key, second factor included.
#[tokio::test]
async fn zt_03_a_broker_cannot_have_a_token_signed_as_its_challenge() {
    let options = InitOptions { now: NOW, workers: Vec::new(), tenants: Vec::new() };
    let server = TestServer::start(&options).await.unwrap();
    let installation = server.installation().unwrap();
    let files = NatsConfig {
        tls: None,
        url: String::new(),
        creds: installation.creds_path(&Login::Service(Role::Intake)),
        trust: installation.trust_path(),
    };
    let trust: Trust = serde_json::from_slice(&std::fs::read(&files.trust).unwrap()).unwrap();
    let bus = Bus::connect(Role::Intake, &NatsConfig { url: server.url(), ..files.clone() }).await;
    let kid = bus.unwrap().public_key();

    // A broker's own challenge is signed, and so is the forged text by whoever has the key.
    assert!(signed(&files, "PXoWU7zWAMt75FY").await.is_some());
    let unsigned = forged(&kid);
    if let Some(signature) = signed(&files, &unsigned).await {
        let text = format!("{unsigned}.{}", encoded(&signature));
        let believed = token::verify(Unverified::parse(&text).unwrap(), &trust, clock::now());
        panic!("the broker has a token of ours: {believed:?}");
    }
    for nonce in ["\u{0}\u{0}\u{0}\u{12}hotcell-message", "a.b", "", &"A".repeat(65)] {
        assert!(signed(&files, nonce).await.is_none(), "{nonce:?}");
    }
}
