//! `hotcell-validator CONFIG.toml`: see `--help`.

use hotcell_stage::service::{self, About};
use hotcell_validator::{config::DEFAULTS, run};

fn main() -> std::process::ExitCode {
    let about =
        About { name: "hotcell-validator", version: env!("CARGO_PKG_VERSION"), defaults: DEFAULTS };
    service::main(about, run)
}
