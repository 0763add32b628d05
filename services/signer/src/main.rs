//! `hotcell-signer CONFIG.toml`: see `--help`.

use hotcell_signer::{config::DEFAULTS, run};
use hotcell_stage::service::{self, About};

fn main() -> std::process::ExitCode {
    let about =
        About { name: "hotcell-signer", version: env!("CARGO_PKG_VERSION"), defaults: DEFAULTS };
    service::main(about, run)
}
