//! Re-reads outputs and compares their hashes before a job may complete.
