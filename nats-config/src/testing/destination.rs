//! Records of destinations for tests, as the operator would enter them.
//! Panics on names that are none. Refuses no place: what is wrong with one, a test may want.

use hotcell_schemas::{
    UnixMs,
    destination::{Addressing, DestinationRecord},
};

/// A tenant's own list of places, as a policy: the store, and one prefix of one bucket.
pub const PLACES: &str = r#"
    @id("places") @allows("the store, and https://s3.example.com/media/video/")
    forbid (principal, action == Hotcell::Action::"PublishOutput", resource)
    unless {
      context.destination == "store" ||
      context.destination like "https://s3.example.com/media/video/*"
    };"#;

/// A destination of `tenant` at `place` (endpoint, bucket, prefix) that was there before any job;
/// its secret was sealed with no key.
///
/// # Panics
/// `tenant` is no tenant's name, or `name` no destination's.
#[must_use]
pub fn destination(tenant: &str, name: &str, place: [&str; 3]) -> DestinationRecord {
    let [endpoint, bucket, prefix] = place.map(str::to_owned);
    DestinationRecord {
        tenant: tenant.parse().expect("a tenant's name"),
        name: name.parse().expect("a destination's name"),
        endpoint,
        region: "eu-central-1".to_owned(),
        bucket,
        prefix,
        addressing: Addressing::Path,
        access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        sealed: vec![1; 60],
        created_at: UnixMs(1),
    }
}
