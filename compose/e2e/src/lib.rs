//! Tests of the whole: pipeline, zero trust, kills, tenants, hostile input.

pub mod api;
pub mod corpus;
pub mod factor;
pub mod hook;
pub mod idp;
pub mod media;
pub mod raw;
pub mod roles;
pub mod thief;
pub mod up;
