//! The worker process; everything is in the library.

use hotcell_encoder::config::{ABOUT, Config};
use std::process::ExitCode;

fn main() -> ExitCode {
    hotcell_stage::service::main::<Config, _, _>(ABOUT, hotcell_encoder::run)
}
