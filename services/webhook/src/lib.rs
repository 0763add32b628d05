//! Signed deliveries to tenants' endpoints.
