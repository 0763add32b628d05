//! Accounts, permissions, streams and consumers of the broker, in code.
