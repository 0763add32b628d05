//! Seal and open of a typical job: validated, assigned, encoded, about 3 KB.

#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a benchmark")]

#[path = "../tests/samples/mod.rs"]
mod samples;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hotcell_schemas::{Envelope, Job, Role};
use std::{hint::black_box, time::Duration};

fn envelope(bench: &mut Criterion) {
    let (job, trust) = (samples::jobs::completed(), samples::trust());
    let (subject, key) = (samples::subject("job.completed"), samples::key(Role::Hasher));
    let seal = |job: &Job| {
        let id = samples::ID.to_owned();
        Envelope::seal(subject.clone(), id, samples::T0, &key, job).unwrap()
    };
    let sealed = seal(&job);
    let mut group = bench.benchmark_group("envelope");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(u64::try_from(sealed.body.len()).unwrap()));
    group.bench_function("seal", |bench| bench.iter(|| seal(black_box(&job))));
    group.bench_function("open", |bench| {
        bench.iter(|| black_box(&sealed).open::<Job>(&trust).unwrap());
    });
    group.bench_function("check_signature", |bench| {
        bench.iter(|| black_box(&sealed).check_signature(&trust).unwrap());
    });
    group.finish();
}

criterion_group!(benches, envelope);
criterion_main!(benches);
