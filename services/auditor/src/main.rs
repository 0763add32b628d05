//! `hotcell-auditor CONFIG.toml`: see `--help`.

use hotcell_auditor::{config::DEFAULTS, run};
use hotcell_stage::service::{self, About};

fn main() -> std::process::ExitCode {
    let about =
        About { name: "hotcell-auditor", version: env!("CARGO_PKG_VERSION"), defaults: DEFAULTS };
    service::main(about, run)
}
