//! Tests of the whole: pipeline, zero trust, kills, tenants, hostile input.
