//! Who is stopped and whose risk is raised: what stands, what a repeated record is, and how much fits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_schemas::{
    BlockId, KeyId, UnixMs,
    block::{
        BLOCKS_MAX, BlockList, BlockRecord, EXPIRES_SECS_MAX, Full, PrincipalRequest,
        REASON_CHARS_MAX, RISKS_MAX, Risk, check, same,
    },
    job::Actor,
    limits::PAYLOAD_BYTES_MAX,
};

const NOW: UnixMs = UnixMs(1_000_000);

fn ana() -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
}

fn key(n: u8) -> Actor {
    Actor::ApiKey { id: KeyId::new(1, [n; 10]) }
}

fn block(n: u8, principal: Actor, until: Option<u64>) -> BlockRecord {
    BlockRecord {
        id: BlockId::new(1, [n; 10]),
        tenant: "acme".parse().unwrap(),
        principal,
        risk: Risk::STOP,
        reason: "why".to_owned(),
        by: None,
        by_operator: false,
        at: NOW,
        until: until.map(UnixMs),
    }
}

#[test]
fn iam_21_a_block_stands_until_its_end_and_against_that_principal_alone() {
    let list = BlockList { blocks: vec![block(1, ana(), Some(NOW.0 + 10))] };
    let at = |actors: &[Actor], ms: u64| list.against(actors, UnixMs(NOW.0 + ms)).is_some();
    assert!(at(&[ana()], 0) && at(&[key(1), ana()], 9));
    assert!(!at(&[ana()], 10), "it has ended");
    assert!(!at(&[key(1)], 0) && !at(&[], 0));
    let other = Actor::User { issuer: "https://id.other".to_owned(), subject: "ana".into() };
    let program = Actor::Service { issuer: "https://id.example".into(), client: "ana".into() };
    assert!(!at(&[other, program], 0), "a name of another kind or issuer is another's");
    let login = |user: &str, name: &str| Actor::NatsLogin { user: user.into(), name: name.into() };
    assert!(
        same(&login("U1", "a"), &login("U1", "b")) && !same(&login("U1", "a"), &login("U2", "a"))
    );
}

#[test]
fn iam_21_repeating_a_block_never_shortens_it_and_the_list_is_bounded() {
    let list = BlockList { blocks: vec![block(1, ana(), Some(NOW.0 + 50))] };
    let ends = |list: &BlockList, until: Option<u64>| {
        let (list, block) = list.with(block(2, ana(), until)).unwrap();
        assert_eq!((list.blocks.len(), &block.id), (1, &BlockId::new(1, [1; 10])));
        (list, block.until.map(|until| until.0))
    };
    assert_eq!(ends(&list, Some(NOW.0 + 1)).1, Some(NOW.0 + 50));
    assert_eq!(ends(&list, Some(NOW.0 + 99)).1, Some(NOW.0 + 99));
    let (forever, end) = ends(&list, None);
    assert_eq!(end, None);
    assert_eq!(ends(&forever, Some(NOW.0 + 1)).1, None);
    // The operator's is another, and lifting one leaves the other.
    let operators = BlockRecord { by_operator: true, ..block(3, ana(), None) };
    let (both, _) = list.with(operators).unwrap();
    assert_eq!(both.blocks.len(), 2);
    let rest = both.without(&BlockId::new(1, [1; 10]));
    assert!(rest.against(&[ana()], NOW).unwrap().by_operator);
    // A full list takes one more when one has ended, and what is in it can still be repeated.
    let many = (0..BLOCKS_MAX)
        .map(|n| block(u8::try_from(n).unwrap(), key(u8::try_from(n).unwrap()), None));
    let mut full = BlockList { blocks: many.collect() };
    assert_eq!(full.with(block(99, ana(), None)), Err(Full::Stops));
    assert!(full.with(block(99, key(7), None)).is_ok());
    full.blocks[0].until = Some(NOW);
    let (after, _) = full.with(block(99, ana(), None)).unwrap();
    assert_eq!(after.blocks.len(), BLOCKS_MAX);
    assert!(after.against(&[key(0)], NOW).is_none());
}

fn risk(n: u8, risk: u8, until: Option<u64>) -> BlockRecord {
    BlockRecord { risk: Risk::try_from(risk).unwrap(), ..block(n, ana(), until) }
}

/// What is in force of `list` after `ms`: whether Ana is stopped, and her risk below that.
fn in_force(list: &BlockList, ms: u64) -> (bool, u8) {
    let now = UnixMs(NOW.0 + ms);
    let risk = list.risks(now).map(|it| u8::from(it.risk)).max().unwrap_or_default();
    (list.against(&[ana()], now).is_some(), risk)
}

#[test]
fn iam_21_a_risk_stops_nobody_and_each_risk_is_a_record_with_an_end_of_its_own() {
    let id = |n: u8| BlockId::new(1, [n; 10]);
    let (list, _) = BlockList::default().with(risk(1, 2, None)).unwrap();
    assert_eq!(in_force(&list, 0), (false, 2));
    // A stop for a while is over then, and leaves the risk without end as it was.
    let (stopped, stop) = list.with(risk(2, 4, Some(NOW.0 + 50))).unwrap();
    assert_eq!((&stop.id, stop.until), (&id(2), Some(UnixMs(NOW.0 + 50))));
    assert_eq!(in_force(&stopped, 49), (true, 2));
    assert_eq!(in_force(&stopped, 50), (false, 2));
    // The same the other way round: a risk for a while ends no stop.
    let forever = BlockList { blocks: vec![block(3, ana(), None)] };
    let (both, _) = forever.with(risk(4, 3, Some(NOW.0 + 50))).unwrap();
    assert_eq!((in_force(&both, 49), in_force(&both, 50)), ((true, 3), (true, 0)));
    // A lower one lowers nothing; lifting the higher leaves it.
    let (lower, one) = list.with(risk(5, 1, None)).unwrap();
    assert_eq!((in_force(&lower, 0), &one.id), ((false, 2), &id(5)));
    assert_eq!(in_force(&lower.without(&id(1)), 0), (false, 1));
    // The same risk again is the same record, which never ends earlier, from when it began.
    let until = |list: &BlockList, until| {
        let later = BlockRecord { at: UnixMs(NOW.0 + 5), ..risk(9, 2, until) };
        let (_, same) = list.with(later).unwrap();
        assert_eq!((&same.id, same.at), (&id(1), NOW));
        same.until.map(|until| until.0 - NOW.0)
    };
    assert_eq!(until(&list, Some(NOW.0 + 9)), None);
    let short = BlockList { blocks: vec![risk(1, 2, Some(NOW.0 + 50))] };
    assert_eq!(until(&short, Some(NOW.0 + 9)), Some(50));
    assert_eq!(until(&short, Some(NOW.0 + 99)), Some(99));
    // The operator's and the tenant's are two.
    let operators = BlockRecord { by_operator: true, ..risk(6, 2, None) };
    assert_eq!(list.with(operators).unwrap().0.blocks.len(), 2);
}

#[test]
fn iam_21_however_many_risks_are_raised_somebody_can_be_stopped_and_the_list_fits() {
    // The longest that everything can be: 4 bytes are most of a character in UTF-8.
    let name = |n: usize| format!("{n:0>255}");
    let actor = |n| Actor::User { issuer: name(n), subject: name(n) };
    let longest = |n: usize, risk| BlockRecord {
        tenant: "a".repeat(32).parse().unwrap(),
        risk: Risk::try_from(risk).unwrap(),
        reason: "\u{1f525}".repeat(REASON_CHARS_MAX),
        by: Some(actor(n)),
        until: Some(UnixMs(u64::MAX)),
        ..block(0, actor(n), None)
    };
    let mut list = BlockList::default();
    for n in 0..RISKS_MAX {
        list = list.with(longest(n, 1 + u8::try_from(n % 3).unwrap())).unwrap().0;
    }
    assert_eq!(list.with(longest(99, 1)), Err(Full::Risks));
    for n in 0..BLOCKS_MAX {
        list = list.with(longest(n, 4)).unwrap().0;
    }
    assert_eq!(list.with(longest(99, 4)), Err(Full::Stops));
    assert!(list.with(longest(0, 1)).is_ok() && list.with(longest(0, 4)).is_ok());
    let bytes = rmp_serde::to_vec_named(&list).unwrap().len();
    assert!(bytes < PAYLOAD_BYTES_MAX - 4096, "{bytes}");
}

#[test]
fn a_record_without_a_risk_is_a_stop_and_one_with_a_risk_that_is_none_is_no_record() {
    let stop = serde_json::to_value(block(1, ana(), None)).unwrap();
    assert_eq!(stop.get("risk"), None, "as they were written before there were risks");
    let read = |value| serde_json::from_value::<BlockRecord>(value);
    assert_eq!(read(stop.clone()).unwrap().risk, Risk::STOP);
    for (said, good) in [(1, true), (3, true), (4, true), (0, false), (5, false), (300, false)] {
        let mut value = stop.clone();
        value["risk"] = said.into();
        assert_eq!(read(value).is_ok(), good, "{said}");
    }
    let told = |level: u8| risk(7, level, None).text();
    let person = "person ana of https://id.example";
    let id = BlockId::new(1, [7; 10]);
    assert_eq!(told(4), format!("{id} {person}"));
    assert_eq!(told(2), format!("{id} risk 2 of {person}"));
}

#[test]
fn what_names_nobody_is_refused() {
    let refused = |request: PrincipalRequest, field: &str| {
        assert_eq!(request.actor().unwrap_err().0, field);
    };
    let user = |issuer: &str, subject: &str| PrincipalRequest::User {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
    };
    refused(user("", "ana"), "principal.issuer");
    refused(user("https://id.example", "a\nb"), "principal.subject");
    refused(user("https://id.example", &"x".repeat(256)), "principal.subject");
    for bad in ["", "UX", &"U".repeat(57), &format!("A{}", "A".repeat(55))] {
        let login = PrincipalRequest::NatsLogin { user: bad.to_owned(), name: String::new() };
        refused(login, "principal.user");
    }
    assert_eq!(user("https://id.example", "ana").actor(), Ok(ana()));
}

#[test]
fn iam_21_what_a_request_must_keep_is_said_by_field() {
    let rule = |reason: &str, secs| check(reason, secs, None).map_err(|it| it.0);
    assert_eq!(rule("token stolen", None), Ok(Risk::STOP));
    for bad in ["", "  ", "a\u{1b}[2J", &"x".repeat(201)] {
        assert_eq!(rule(bad, None), Err("reason"));
    }
    for bad in [0, EXPIRES_SECS_MAX + 1] {
        assert_eq!(rule("x", Some(bad)), Err("expiresInSecs"));
    }
    for good in 1..=4 {
        assert_eq!(check("x", None, Some(good)), Ok(Risk::try_from(good).unwrap()));
    }
    for bad in [0, 5, 255] {
        assert_eq!(check("x", None, Some(bad)).unwrap_err().0, "risk");
    }
}
