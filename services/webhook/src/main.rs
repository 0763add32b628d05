//! `hotcell-webhook CONFIG.toml`: see `--help`.

use hotcell_stage::service::{self, About};
use hotcell_webhook::{config::DEFAULTS, run};

fn main() -> std::process::ExitCode {
    let about =
        About { name: "hotcell-webhook", version: env!("CARGO_PKG_VERSION"), defaults: DEFAULTS };
    service::main(about, run)
}
