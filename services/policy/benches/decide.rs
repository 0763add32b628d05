//! Microseconds of one decision: `cargo bench -p hotcell-policy`.

#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a bench")]

use criterion::{Criterion, criterion_group, criterion_main};
use hotcell_policy::{Engine, Facts, OutputFacts, Question, Who};
use hotcell_schemas::{
    TenantId, UnixMs,
    identity::{Action, Authority, RoleName},
    job::Actor,
};
use std::hint::black_box;

fn own(count: usize) -> String {
    (0..count)
        .map(|index| {
            format!(
                "@id(\"p{index}\") @allows(\"less\") forbid (principal, action == \
                 Hotcell::Action::\"SubmitTranscode\", resource) when {{ \
                 context.output.height > {} && context.output.filters.contains(\"fps\") }};\n",
                4000 + index
            )
        })
        .collect()
}

fn decide(bench: &mut Criterion) {
    let acme: TenantId = "acme".parse().unwrap();
    let actor = Actor::User { issuer: "https://id.example".to_owned(), subject: "ann".to_owned() };
    let authority = Authority { roles: [RoleName::TenantAdmin].into(), ..Authority::default() };
    let outputs = vec![OutputFacts {
        format: "mp4".to_owned(),
        video_codec: "h264".to_owned(),
        height: 720,
        filters: vec!["scale".to_owned(), "setsar".to_owned()],
        ..OutputFacts::default()
    }];
    let facts = Facts { outputs, destination: "store".to_owned(), ..Facts::default() };
    let ask = |action| Question {
        who: Who { tenant: &acme, actor: &actor, authority: &authority },
        action,
        owner: &acme,
        facts: &facts,
        now: UnixMs(1_795_350_896_000),
    };
    for count in [0, 10, 100] {
        let engine = Engine::compile(None, Some((&acme, &own(count)))).unwrap();
        let all = engine.rules().count();
        for (name, action) in [("allow", Action::SubmitTranscode), ("step_up", Action::ManageKeys)]
        {
            bench.bench_function(&format!("decide/{name}/{all}_policies"), |bench| {
                bench.iter(|| engine.decide(black_box(&ask(action))).unwrap());
            });
        }
    }
    bench.bench_function("compile/100_of_a_tenant", |bench| {
        let text = own(100);
        bench.iter(|| Engine::compile(None, Some((&acme, black_box(&text)))).unwrap());
    });
}

criterion_group!(benches, decide);
criterion_main!(benches);
