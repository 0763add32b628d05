//! Microseconds of one full authentication, from the headers to the principal, against a real
//! broker: `cargo bench -p hotcell-intake --bench auth`.

#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a bench")]

use criterion::{Criterion, criterion_group, criterion_main};
use hotcell_intake::{app::Seen, auth::Auth, jwt::encoded, token};
use hotcell_nats_config::{
    InitOptions, Login, Replicas, TenantSpec,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{KeyId, Role, identity::RoleName, records::KeyRecord};
use hotcell_stage::{Bus, NatsConfig, clock};
use http::{HeaderMap, HeaderValue, Method, Uri, header::AUTHORIZATION};
use std::hint::black_box;
use tokio::runtime::Runtime;

struct Site {
    _server: TestServer,
    bus: Bus,
    key: String,
    id: KeyId,
}

async fn site() -> Site {
    let options = InitOptions { now: NOW, workers: Vec::new(), tenants: Vec::new() };
    let server = TestServer::start(&options).await.unwrap();
    let admin = server.admin().await.unwrap();
    admin.provision(Replicas::One, NOW).await.unwrap();
    let acme = "acme".parse().unwrap();
    let spec = TenantSpec::new("acme".parse().unwrap(), vec!["cpu".parse().unwrap()]);
    admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    let key = admin.add_key(&acme, &[RoleName::TenantAdmin], NOW).await.unwrap();
    let nats: NatsConfig = server.config(&Login::Service(Role::Intake)).unwrap();
    let bus = Bus::connect(Role::Intake, &nats).await.unwrap();
    Site { _server: server, bus, key: key.text().to_owned(), id: key.id }
}

fn headers(credential: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {credential}")).unwrap());
    headers
}

async fn token(site: &Site) -> String {
    let record = site.bus.bucket("keys").get::<KeyRecord>(site.id.as_str()).await;
    let record = record.unwrap().unwrap().value;
    let life = (clock::now(), token::TOKEN_SECS_MAX);
    let claims = token::claims(&record, record.roles.clone(), true, life, clock::random());
    let unsigned = token::unsigned(&site.bus.public_key(), &claims);
    let signature = site.bus.sign_token(&unsigned).unwrap();
    format!("{unsigned}.{}", encoded(&signature))
}

fn authenticate(bench: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let site = runtime.block_on(site());
    let auth = Auth::new(&site.bus);
    let (key, token) = (headers(&site.key), headers(&runtime.block_on(token(&site))));
    let (method, uri) = (Method::GET, Uri::from_static("/v1/transcodes?limit=10"));
    let seen =
        |headers| Seen { method: &method, uri: &uri, headers, network: None, is_served: true };
    for (name, headers) in [("key, cached", &key), ("own token, cached", &token)] {
        let seen = seen(headers);
        bench.bench_function(name, |b| {
            b.iter(|| runtime.block_on(auth.request(black_box(&seen))).unwrap());
        });
    }
    for (name, headers) in [("key, read", &key), ("own token, read", &token)] {
        let seen = seen(headers);
        bench.bench_function(name, |b| {
            b.iter(|| {
                auth.forget(&site.id);
                runtime.block_on(auth.request(black_box(&seen))).unwrap()
            });
        });
    }
}

criterion_group!(benches, authenticate);
criterion_main!(benches);
