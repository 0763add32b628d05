//! Clients that try credentials, dawdle or only listen, against intake's own program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/life.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod life;
#[path = "support/world.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod world;

use hotcell_intake::events::PER_TENANT_MAX;
use hotcell_schemas::EventKind as E;
use life::{job_of, moved};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use world::{DEADLINE, World, answer};

impl World {
    fn address(&self) -> SocketAddr {
        let request = self.request(Method::GET, "/").build().unwrap();
        let url = request.url();
        format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
    }
}

/// One event of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    id: u64,
    kind: String,
    data: Value,
}

/// Reads a stream until its end, or `count` events.
async fn events(mut response: Response, count: usize) -> Vec<Event> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut text, mut found) = (String::new(), Vec::new());
    while found.len() < count {
        let chunk = timeout(DEADLINE, response.chunk()).await.unwrap().unwrap();
        let Some(chunk) = chunk else { break };
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((block, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(':').trim().to_owned())
            };
            if let (Some(id), Some(kind), Some(data)) = (field("id"), field("event"), field("data"))
            {
                let data = serde_json::from_str(&data).unwrap();
                found.push(Event { id: id.parse().unwrap(), kind, data });
            }
            text = rest.to_owned();
        }
    }
    found
}

#[tokio::test]
async fn api_26_a_job_s_states_are_streamed_resumed_and_end_with_it() {
    let world = World::start().await;
    let (job, at) = job_of(&world, "acme", 1).await;
    let path = format!("/v1/transcodes/{}/events", job.id);
    let open = async |last: &str| {
        let request = world.request(Method::GET, &path).bearer_auth(&world.acme);
        request.header("last-event-id", last).send().await.unwrap()
    };
    let listening = events(open("").await, 99);
    let life = async {
        let (job, at) = moved(&world, job.clone(), at, &[E::Validated]).await;
        let (job, at) = moved(&world, job, at, &[E::Assigned, E::Encoded]).await;
        moved(&world, job, at, &[E::Completed]).await
    };
    let (heard, _) = tokio::join!(listening, life);
    let kinds: Vec<&str> = heard.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["submitted", "validated", "assigned", "encoded", "completed"]);
    assert_eq!(heard.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(heard[4].data["job"]["outputs"][0]["name"], "out.mp4");
    // Taken up again: what is known is not told again, and an end is an end.
    let again = events(open("3").await, 99).await;
    assert_eq!(again.iter().map(|event| event.id).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(events(open("5").await, 99).await, []);
    // Nobody else's.
    let foreign = world.send(Method::GET, &path, Some(&world.bolt), None).await;
    assert_eq!(answer(foreign).await.0, 404);
}

#[tokio::test]
async fn brk_13_streams_are_bounded_for_each_tenant_and_end_at_shutdown() {
    let mut world = World::start().await;
    let mut open = Vec::new();
    let (own, _) = job_of(&world, "acme", 1).await;
    let (other, _) = job_of(&world, "bolt", 2).await;
    let path = format!("/v1/transcodes/{}/events", own.id);
    for _ in 0..PER_TENANT_MAX {
        let mut response = world.send(Method::GET, &path, Some(&world.acme), None).await;
        assert_eq!(response.status(), 200);
        assert!(timeout(DEADLINE, response.chunk()).await.unwrap().unwrap().is_some());
        open.push(response);
    }
    let (status, problem) =
        answer(world.send(Method::GET, &path, Some(&world.acme), None).await).await;
    assert_eq!((status, &problem["quota"]), (429, &json!("event-streams")));
    let foreign = format!("/v1/transcodes/{}/events", other.id);
    let beside = world.send(Method::GET, &foreign, Some(&world.bolt), None).await;
    assert_eq!(beside.status(), 200);
    drop(open.split_off(1));
    world::until(async || {
        let again = world.send(Method::GET, &path, Some(&world.acme), None).await;
        (again.status() == 200).then_some(())
    })
    .await;
    let began = Instant::now();
    assert!(world.stop().await.success());
    // Streams end by themselves after five minutes.
    assert!(began.elapsed() < DEADLINE, "a stream holds the shutdown up");
}

/// The attack first: without the bound any number of keys may be tried.
#[tokio::test]
async fn brk_13_an_address_that_tries_keys_is_told_to_wait() {
    let world = World::start_with("trusted_proxies = [\"127.0.0.0/8\"]\n").await;
    let wrong = format!("hck_{}_{}", "0193a0f0c0de7000800000000000beef", "A".repeat(43));
    let from = async |address: &str, key: &str| {
        let request = world.request(Method::GET, "/v1/transcodes").bearer_auth(key);
        request.header("x-forwarded-for", address).send().await.unwrap()
    };
    // An address that cannot be told is not counted: this many tries pass.
    for _ in 0..100 {
        assert_eq!(from("unknown", &wrong).await.status(), 401);
    }
    let (mut tried, began) = (0, Instant::now());
    let mut until_told = async || loop {
        let response = from("203.0.113.9", &wrong).await;
        if response.status() == 429 {
            break response;
        }
        assert_eq!(response.status(), 401);
        tried += 1;
        // Sixty, and one more in each second.
        let most = 61 + began.elapsed().as_secs();
        assert!(tried <= most, "any number of keys may be tried: {tried}");
    };
    let refused = until_told().await;
    assert!(refused.headers().contains_key("retry-after"));
    let (_, problem) = answer(refused).await;
    assert_eq!(problem["violated-policies"], json!(["failures"]));
    // A good key from there waits as well, unless the next second came between the two.
    let mut waited = false;
    for _ in 0..10 {
        drop(until_told().await);
        waited |= from("203.0.113.9", &world.acme).await.status() == 429;
        if waited {
            break;
        }
    }
    assert!(waited && tried >= 60, "{tried}");
    // From elsewhere nobody does.
    assert_eq!(from("203.0.113.10", &world.acme).await.status(), 200);
    assert_eq!(from("203.0.113.10", &wrong).await.status(), 401);
}

/// A body that does not come, byte by byte, and a head that does not end.
#[tokio::test]
async fn brk_13_a_client_that_dawdles_is_answered_and_cut() {
    let world = World::start().await;
    let head = |length: usize| {
        format!(
            "POST /v1/transcodes HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-length: {length}\r\n\r\n",
            world.acme
        )
    };
    let mut slow = TcpStream::connect(world.address()).await.unwrap();
    slow.write_all(head(1000).as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let began = Instant::now();
    let mut drip = tokio::time::interval(Duration::from_millis(500));
    let mut piece = [0; 1024];
    loop {
        tokio::select! {
            read = slow.read(&mut piece) => match read {
                Ok(0) | Err(_) => break,
                Ok(length) => text.extend_from_slice(&piece[..length]),
            },
            _ = drip.tick() => {
                // The server may have closed while this is written; its answer is what counts.
                slow.write_all(b" ").await.ok();
            }
        }
        assert!(began.elapsed() < DEADLINE, "{}", String::from_utf8_lossy(&text));
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    // A body over the limit is refused by its length, before it is sent.
    let mut large = TcpStream::connect(world.address()).await.unwrap();
    large.write_all(head(1 << 30).as_bytes()).await.unwrap();
    let length = timeout(DEADLINE, large.read(&mut piece)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&piece[..length]).starts_with("HTTP/1.1 413 "));
}
