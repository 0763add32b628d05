//! What hotcell relies on in an S3 endpoint, held against ours, against rclone as an independent
//! server, and against any endpoint named by `HOTCELL_TEST_S3` (in place of ours).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "tests"
)]

mod access;
mod attacks;
mod boto3;
mod life;
mod naive;
mod peers;
mod raw;
mod rows;

/// What rclone 1.75.2 is known to do. `Deviates` is asserted too, so this table stays true.
#[derive(Clone, Copy)]
enum Rclone {
    Conforms,
    Deviates,
}
use Rclone::{Conforms, Deviates};

fn check(rclone: Rclone, result: anyhow::Result<()>) {
    match (rclone, result) {
        (Conforms, result) => result.unwrap(),
        (Deviates, Err(_)) => (),
        (Deviates, Ok(())) => panic!("rclone conforms now: change its line in the table"),
    }
}

macro_rules! contract {
    ($($row:ident: $rclone:ident,)*) => {
        mod ours {
            $(#[tokio::test] async fn $row() {
                crate::rows::$row(&crate::peers::Peer::ours().await).await.unwrap();
            })*
        }
        mod rclone {
            $(#[tokio::test] async fn $row() {
                let peer = crate::peers::Peer::rclone().await;
                super::check(super::$rclone, crate::rows::$row(&peer).await);
            })*
        }
    };
}

contract! {
    presigned_by_object_store: Conforms,
    anonymous_is_refused: Conforms,
    altered_urls_are_refused: Conforms,
    other_resources_are_refused: Conforms,
    expired_urls_are_refused: Conforms,
    bound_headers_are_enforced: Conforms,
    unsigned_copy_source_is_refused: Conforms,
    unsigned_amz_headers_are_refused: Conforms,
    wrong_bytes_are_never_visible: Deviates, // stores bytes that do not match x-amz-checksum-sha256
    create_only_wins_once: Deviates, // ignores If-None-Match on PUT
    concurrent_creates_have_one_winner: Deviates, // ignores If-None-Match on PUT
    if_match_is_compare_and_set: Deviates, // ignores If-Match on PUT
    ranges: Deviates, // answers the right bytes with 200 in place of 206
    conditional_get: Conforms,
    get_preconditions: Deviates, // answers 200 whatever If-Match says
    listing: Conforms,
    long_listing: Conforms,
    deleting: Conforms,
    attributes: Conforms,
    keys: Deviates, // a key cannot be below another: they are files and directories
    truncated_upload_leaves_nothing: Conforms,
    checksum_comes_back: Conforms,
    large_object: Conforms,
    large_bodies_are_refused_readably: Conforms,
    missing: Conforms,
}
