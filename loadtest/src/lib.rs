//! Load scenarios, driver and report: what hotcell can do on this machine, as ratios to what the
//! machine can do in the same run.
//!
//! Promises: a run is bounded in jobs and in time, stops by itself, and ends what it started. A
//! number is printed with the commit, the machine and the load average under which it was measured.
//! Refuses: any address but loopback, and a result with a failed job in it.

mod bare;
mod batch;
mod cell;
mod client;
mod driver;
mod edge;
mod encode;
mod flood;
mod installation;
mod latency;
mod machine;
mod micro;
mod process;
mod programs;
pub mod report;
pub mod scenario;
mod sink;
mod starts;
pub mod stats;
mod streams;
pub mod suite;
mod throughput;
