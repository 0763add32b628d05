//! The worker: runs cells, holds one broker login and nothing else.
