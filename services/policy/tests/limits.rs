//! What tenants can limit by policy: codecs, bitrates, destinations, sizes, times, networks.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use hotcell_policy::Engine;
use hotcell_schemas::{
    UnixMs,
    identity::{Action::*, RoleName::*},
    job::Actor,
};
use proptest::prelude::*;
use support::{Ask, NOW, ask, tenant, told};

fn with(text: &str) -> Engine {
    Engine::compile(None, Some((&tenant("acme"), text))).unwrap()
}

fn forbid(id: &str, action: &str, condition: &str) -> String {
    format!(
        "@id(\"{id}\") @allows(\"something else\")
        forbid (principal, action == Hotcell::Action::\"{action}\", resource) {condition};\n"
    )
}

#[track_caller]
fn flips(engine: &Engine, policy: &str, asked: &Ask, change: impl FnOnce(&mut Ask)) {
    assert_eq!(told(&asked.by(engine).unwrap()).0, "allow");
    let decision = asked.clone().with(change).by(engine).unwrap();
    assert_eq!(told(&decision), ("deny", vec![policy]));
    assert_eq!(decision.advice, [format!("{policy}: allowed is something else")]);
}

/// A list says what a policy does: a forbid that names what it allows does not forbid that.
#[test]
fn step_01_what_a_forbid_allows_is_not_what_it_forbids() {
    let text = "@id(\"small\") @allows(\"up to 720 lines\") @step_up(\"mfa\") @acr_values(\"a\") \
                @max_age(\"60\") forbid (principal, action == Hotcell::Action::\"ReadJob\", \
                resource) unless { context.mfa };
                @id(\"mine\") @allows(\"jobs\") permit (principal, action == \
                Hotcell::Action::\"ReadJob\", resource) when { context.mfa };";
    let engine = with(text);
    let about = |id: &str| engine.rules().find(|rule| rule.id == id).unwrap().about.clone();
    assert_eq!(about("acme/small"), "all but up to 720 lines");
    assert_eq!(about("acme/mine"), "jobs");
    let decision = ask(&[Viewer], ReadJob).by(&engine).unwrap();
    let advice = "acme/small: all but up to 720 lines: needs a second factor of the last 60 s; \
                  otherwise allowed is up to 720 lines";
    assert_eq!(decision.advice, [advice]);
}

#[test]
fn iam_07_a_policy_limits_codecs_and_filters() {
    let own = with(
        &(forbid("h265", "SubmitTranscode", "when { context.output.video_codec == \"h265\" }")
            + &forbid(
                "filters",
                "SubmitTranscode",
                "unless { [\"scale\", \"setsar\", \"fps\"].containsAll(context.output.filters) }",
            )),
    );
    let submit = ask(&[Submitter], SubmitTranscode);
    flips(&own, "acme/h265", &submit, |ask| ask.facts.outputs[0].video_codec = "h265".to_owned());
    flips(&own, "acme/filters", &submit, |ask| {
        ask.facts.outputs[0].filters.push("loudnorm".to_owned());
    });
}

#[test]
fn iam_08_a_policy_limits_bitrates_quality_and_size() {
    let own = with(
        &(forbid("rate", "SubmitTranscode", "when { context.output.video_bitrate > 5000000 }")
            + &forbid(
                "most",
                "SubmitTranscode",
                "when { context.output.video_maxrate > 8000000 }",
            )
            + &forbid(
                "quality",
                "SubmitTranscode",
                "when { context.output.crf != -1 && context.output.crf < 20 }",
            )
            + &forbid("height", "SubmitTranscode", "when { context.output.height > 1080 }")
            + &forbid("length", "SubmitTranscode", "when { context.output.duration_s > 600 }")
            + &forbid("bytes", "SubmitTranscode", "when { context.source.bytes > 1000000 }")),
    );
    let submit = ask(&[Submitter], SubmitTranscode);
    flips(&own, "acme/rate", &submit, |ask| ask.facts.outputs[0].video_bitrate = 5_000_001);
    flips(&own, "acme/most", &submit, |ask| ask.facts.outputs[0].video_maxrate = 8_000_001);
    flips(&own, "acme/quality", &submit, |ask| ask.facts.outputs[0].crf = 19);
    flips(&own, "acme/height", &submit, |ask| ask.facts.outputs[0].height = 1082);
    flips(&own, "acme/length", &submit, |ask| ask.facts.outputs[0].duration_secs = 601);
    flips(&own, "acme/bytes", &submit, |ask| ask.facts.source_bytes = 1_000_001);
}

#[test]
fn iam_09_a_policy_limits_destinations() {
    let publish = forbid(
        "hosts",
        "PublishOutput",
        "unless { context.destination == \"store\" ||
            context.destination like \"https://s3.example.com/media/*\" }",
    );
    let hooks =
        forbid("hooks", "ManageWebhooks", "unless { context.destination like \"*.acme.example\" }");
    let own = with(&(publish + &hooks));
    let publish = ask(&[Publisher], PublishOutput).fresh(1);
    let to = |location: &'static str| {
        publish.clone().with(|ask| ask.facts.destination = location.to_owned())
    };
    let cdn = to("https://s3.example.com/media/video");
    for other in [
        "https://s3.example.com.evil.org/media/video",
        "https://s3.example.com/media-x/video",
        "https://s3.example.com/other/video",
        "https://s3.example.com/media",
        "http://127.0.0.1:9000/media/video",
        "",
    ] {
        flips(&own, "acme/hosts", &cdn, |ask| ask.facts.destination = other.to_owned());
    }
    assert_eq!(told(&to("store").by(&own).unwrap()).0, "allow");
    let hook = ask(&[WebhookAdmin], ManageWebhooks)
        .with(|ask| ask.facts.destination = "in.acme.example".to_owned())
        .fresh(1);
    flips(&own, "acme/hooks", &hook, |ask| ask.facts.destination = "acme.example.net".to_owned());
}

#[test]
fn iam_05_one_who_reads_sources_may_be_kept_from_publishing() {
    let id = hotcell_schemas::KeyId::new(1, [7; 10]);
    let own = with(&format!(
        "@id(\"reader\") @allows(\"work that stores nothing\") forbid (principal == \
         Hotcell::ApiKey::\"{id}\", action == Hotcell::Action::\"PublishOutput\", resource);"
    ));
    let key =
        |action| ask(&[Submitter], action).with(|ask| ask.actor = Actor::ApiKey { id: id.clone() });
    assert_eq!(told(&key(ReadSource).by(&own).unwrap()), ("allow", vec!["submitter"]));
    assert_eq!(told(&key(PublishOutput).by(&own).unwrap()), ("deny", vec!["acme/reader"]));
    let other = ask(&[Submitter], PublishOutput).by(&own).unwrap();
    assert_eq!(told(&other), ("allow", vec!["submitter-store"]));
}

#[test]
fn step_11_time_network_and_size_flip_the_result() {
    let own = with(
        &(forbid("night", "SubmitTranscode", "when { context.hour < 6 || context.hour >= 22 }")
            + &forbid("weekend", "ReadOutput", "when { context.weekday > 5 }")
            + &forbid(
                "office",
                "CancelJob",
                "unless { context has network && \
                 (context.network.isInRange(ip(\"10.0.0.0/8\")) || \
                 context.network.isInRange(ip(\"2001:db8::/32\"))) }",
            )
            + &forbid("bound", "ReadJob", "unless { context.bound }")
            + &forbid("fast", "UploadSource", "when { context.priority == \"high\" }")),
    );
    let hours = |hours: u64| move |ask: &mut Ask| ask.now = UnixMs(NOW.0 + hours * 3_600_000);
    // 12:34 on a Sunday.
    flips(&own, "acme/night", &ask(&[Submitter], SubmitTranscode), hours(10));
    let monday = ask(&[Submitter], ReadOutput).with(hours(24));
    flips(&own, "acme/weekend", &monday, |ask| ask.now = NOW);
    let from = |address: &str| {
        let address = address.parse().unwrap();
        move |ask: &mut Ask| ask.authority.network = Some(address)
    };
    let cancel = |address: &str| ask(&[Submitter], CancelJob).with(from(address));
    for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
        for outside in ["11.1.2.3", "::ffff:11.1.2.3", "2001:db9::7", "::1"] {
            flips(&own, "acme/office", &cancel(inside), from(outside));
        }
        flips(&own, "acme/office", &cancel(inside), |ask| ask.authority.network = None);
    }
    let bound = ask(&[Viewer], ReadJob).with(|ask| ask.authority.bound = true);
    flips(&own, "acme/bound", &bound, |ask| ask.authority.bound = false);
    let upload = ask(&[Submitter], UploadSource);
    flips(&own, "acme/fast", &upload, |ask| {
        ask.facts.priority = hotcell_schemas::tenancy::Priority::High;
    });
}

/// Conditions of forbids, each true of some questions.
const CONDITIONS: [&str; 10] = [
    "",
    "when { context.risk >= 1 }",
    "unless { context.mfa }",
    "unless { context.mfa && context.auth_age_s <= 60 }",
    "when { principal.tenant != resource }",
    "when { principal is Hotcell::User }",
    "when { principal in Hotcell::Role::\"viewer\" }",
    "when { context.hour >= 12 }",
    "when { context.source.bytes > 1000 }",
    "unless { context.approved }",
];

const STEP: &str = "@step_up(\"mfa\") @acr_values(\"gold\") @max_age(\"60\")";

fn rank(engine: &Engine, asked: &Ask) -> u8 {
    match told(&asked.by(engine).unwrap()).0 {
        "allow" => 0,
        "step-up" => 1,
        _ => 2,
    }
}

proptest! {
    // Each case compiles two sets.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_forbid_more_never_lets_anything_more_through(
        conditions in prop::collection::vec((0..CONDITIONS.len(), any::<bool>()), 1..5),
        asked in prop::collection::vec(asks(), 24),
    ) {
        let text = |conditions: &[(usize, bool)]| -> String {
            conditions.iter().enumerate().map(|(index, (condition, step))| {
                let step = if *step { STEP } else { "" };
                format!(
                    "@id(\"f{index}\") @about(\"x\") {step} forbid (principal, action, resource) {};\n",
                    CONDITIONS[*condition],
                )
            }).collect()
        };
        let permit = "@id(\"p\") permit (principal, action, resource) when { context.risk == 0 };\n";
        let with = |conditions| with(&format!("{permit}{}", text(conditions)));
        let (less, more) = (with(&conditions[1..]), with(&conditions));
        for asked in &asked {
            let ranks = (rank(&less, asked), rank(&more, asked));
            prop_assert!(ranks.0 <= ranks.1, "{asked:?} {ranks:?}\n{}", text(&conditions));
        }
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    use hotcell_schemas::identity::{Action, RoleName};
    let who = (0..RoleName::ALL.len(), 0..Action::ALL.len(), any::<bool>(), 0_u64..600);
    let what = (any::<bool>(), 0_u8..3, 0_i64..2000, any::<bool>(), any::<bool>());
    (who, what).prop_map(|((role, action, mfa, age), (approved, risk, bytes, own, external))| {
        let mut asked = ask(&[RoleName::ALL[role]], Action::ALL[action]);
        if mfa {
            asked = asked.fresh(age);
        }
        if !own {
            asked = asked.of("umbrella");
        }
        if external {
            asked.facts.destination = "https://s3.example.com/media".to_owned();
        }
        asked.facts.approved = approved;
        asked.facts.risk = risk;
        asked.facts.source_bytes = bytes;
        asked
    })
}
