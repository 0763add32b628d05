//! The HTTP and NATS edge: uploads, submissions, reads.
