//! Tests of the buckets, on a clock of their own.

use super::*;

const CONFIG: RateConfig =
    RateConfig { replicas: 1, principal_requests_per_sec: 500, failures_per_min: 3 };

fn actor(id: u8) -> Actor {
    Actor::ApiKey { id: hotcell_schemas::KeyId::new(1, [id; 10]) }
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn quotas(requests_per_sec: u32, jobs_per_min: u32) -> Quotas {
    Quotas { requests_per_sec, jobs_per_min, ..Quotas::default() }
}

fn header<'a>(headers: &'a [(&'static str, String)], name: &str) -> &'a str {
    headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str()).unwrap()
}

#[test]
fn brk_81_a_bucket_gives_its_limit_at_once_and_then_its_rate() {
    let (rates, now) = (Rates::new(CONFIG), Instant::now());
    let (acme, one, quotas) = (tenant("acme"), actor(1), quotas(200, 6000));
    let mut given = 0;
    while rates.take((&acme, &one), &quotas, false, now).is_ok() {
        given += 1;
    }
    assert_eq!(given, 200);
    // Then one each 5 ms.
    let mut given = 0;
    for ms in 1..=1000 {
        let at = now + Duration::from_millis(ms);
        given += u32::from(rates.take((&acme, &one), &quotas, false, at).is_ok());
    }
    assert_eq!(given, 200);
    // And after silence no more than the burst.
    let later = now + Duration::from_secs(60);
    let given = (0..1000).filter(|_| rates.take((&acme, &one), &quotas, false, later).is_ok());
    assert_eq!(given.count(), 200);
}

/// STEP-04: who may change policies cannot have texts checked without end.
#[test]
fn api_10_checks_of_policies_are_thirty_a_minute_for_each_tenant() {
    let (rates, now) = (Rates::new(CONFIG), Instant::now());
    let (acme, bolt) = (tenant("acme"), tenant("bolt"));
    let given = (0..100).filter(|_| rates.checks(&acme, now).is_ok()).count();
    assert_eq!(given, 30);
    let problem = rates.checks(&acme, now).unwrap_err();
    assert_eq!((problem.status(), header(problem.headers(), "retry-after")), (429, "2"));
    rates.checks(&bolt, now).unwrap();
    rates.checks(&acme, now + Duration::from_secs(2)).unwrap();
}

#[test]
fn api_10_the_fields_are_those_of_the_draft() {
    let (rates, now) = (Rates::new(CONFIG), Instant::now());
    let who = (tenant("acme"), actor(1));
    let fields = rates.take((&who.0, &who.1), &quotas(200, 6000), true, now).unwrap().0;
    let policy = "\"requests\";q=200;w=1, \"principal\";q=500;w=1, \"jobs\";q=6000;w=60";
    assert_eq!(header(&fields, "ratelimit-policy"), policy);
    let state = "\"requests\";r=199;t=1, \"principal\";r=499;t=1, \"jobs\";r=5999;t=1";
    assert_eq!(header(&fields, "ratelimit"), state);
}

#[test]
fn api_10_step_12_a_429_names_the_policy_and_the_wait() {
    let (rates, now) = (Rates::new(CONFIG), Instant::now());
    let (acme, one, quotas) = (tenant("acme"), actor(1), quotas(200, 2));
    for _ in 0..2 {
        rates.take((&acme, &one), &quotas, true, now).unwrap();
    }
    let problem = rates.take((&acme, &one), &quotas, true, now).unwrap_err();
    assert_eq!(problem.status(), 429);
    let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
    assert_eq!(body["type"], "urn:hotcell:problem:quota-exceeded");
    assert_eq!(body["violated-policies"], json!(["jobs"]));
    assert_eq!(header(problem.headers(), "retry-after"), "30");
    assert!(header(problem.headers(), "ratelimit").ends_with("\"jobs\";r=0;t=60"));
    // What is no job goes on, and after the wait so do jobs.
    rates.take((&acme, &one), &quotas, false, now).unwrap();
    let later = now + Duration::from_secs(30);
    rates.take((&acme, &one), &quotas, true, later).unwrap();
    assert!(rates.take((&acme, &one), &quotas, true, later).is_err());
}

#[test]
fn brk_81_another_tenant_and_another_principal_are_not_touched() {
    let config = RateConfig { principal_requests_per_sec: 5, ..CONFIG };
    let (rates, now) = (Rates::new(config), Instant::now());
    let (acme, bolt, quotas) = (tenant("acme"), tenant("bolt"), quotas(8, 60));
    for _ in 0..100 {
        rates.take((&acme, &actor(1)), &quotas, false, now).ok();
    }
    // A principal over its own limit left its tenant's bucket alone.
    for _ in 0..3 {
        rates.take((&acme, &actor(2)), &quotas, false, now).unwrap();
    }
    let problem = rates.take((&acme, &actor(2)), &quotas, false, now).unwrap_err();
    let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
    assert_eq!(body["violated-policies"], json!(["requests"]));
    rates.take((&bolt, &actor(3)), &quotas, false, now).unwrap();
}

#[test]
fn a_login_cannot_rename_itself_into_another_bucket() {
    let config = RateConfig { principal_requests_per_sec: 1, ..CONFIG };
    let (rates, now, acme) = (Rates::new(config), Instant::now(), tenant("acme"));
    let named = |name: &str| Actor::NatsLogin { user: "U1".to_owned(), name: name.to_owned() };
    rates.take((&acme, &named("a")), &quotas(8, 60), false, now).unwrap();
    assert!(rates.take((&acme, &named("b")), &quotas(8, 60), false, now).is_err());
}

#[test]
fn a_quota_of_zero_gives_nothing_and_replicas_share() {
    let (rates, now, acme) = (Rates::new(CONFIG), Instant::now(), tenant("acme"));
    assert!(rates.take((&acme, &actor(1)), &quotas(0, 1), false, now).is_err());
    let rates = Rates::new(RateConfig { replicas: 4, ..CONFIG });
    let given = (0..100)
        .filter(|_| rates.take((&acme, &actor(1)), &quotas(10, 1), false, now).is_ok())
        .count();
    assert_eq!(given, 3, "a quarter of ten, rounded up");
}

#[test]
fn odd_limits_give_exactly_themselves() {
    for limit in [1, 3, 7, 999, 1_000_000] {
        let quota = Quota { name: "x", limit, window: Duration::from_secs(1) };
        let (buckets, now) = (Buckets::default(), Instant::now());
        let given = (0..=limit).filter(|_| !buckets.take((), quota, now).refuses()).count();
        assert_eq!(given, limit as usize);
    }
}

#[test]
fn failures_of_an_address_are_counted_and_of_ipv6_by_network() {
    let (rates, now) = (Rates::new(CONFIG), Instant::now());
    let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    for _ in 0..3 {
        assert!(rates.admits(at("192.0.2.1"), now).is_ok());
        rates.failed_from(at("192.0.2.1"), now);
        rates.failed_from(at("2001:db8::1"), now);
    }
    assert_eq!(rates.admits(at("192.0.2.1"), now).unwrap_err().status(), 429);
    assert!(rates.admits(at("::ffff:192.0.2.1"), now).is_err());
    assert!(rates.admits(at("2001:db8::ffff"), now).is_err(), "the same /64");
    assert!(rates.admits(at("2001:db8:0:1::1"), now).is_ok());
    assert!(rates.admits(at("192.0.2.2"), now).is_ok());
    assert!(rates.admits(None, now).is_ok());
    // Trying on does not make it longer.
    let later = now + Duration::from_secs(20);
    assert!(rates.admits(at("192.0.2.1"), later).is_ok());
}

#[test]
fn the_tables_are_bounded_and_idle_entries_go() {
    let quota = Quota { name: "x", limit: 10, window: Duration::from_secs(10) };
    let (buckets, now) = (Buckets::default(), Instant::now());
    for key in 0..ENTRIES_MAX {
        buckets.take(key, quota, now);
    }
    // What does not fit shares one bucket.
    let strangers = ENTRIES_MAX..ENTRIES_MAX + 100;
    let given = strangers.filter(|key| !buckets.take(*key, quota, now).refuses()).count();
    assert_eq!(given, 10);
    assert_eq!(buckets.state.lock().unwrap().full_at.len(), ENTRIES_MAX);
    // A second later each bucket is full again, and so forgotten.
    let later = now + Duration::from_millis(1001);
    assert!(!buckets.take(usize::MAX, quota, later).refuses());
    assert_eq!(buckets.state.lock().unwrap().full_at.len(), 1);
}
