//! hotcell-intake: see `config.default.toml`.

use hotcell_stage::service::{self, About};
use std::process::ExitCode;

fn main() -> ExitCode {
    let about = About {
        name: "hotcell-intake",
        version: env!("CARGO_PKG_VERSION"),
        defaults: hotcell_intake::config::DEFAULTS,
    };
    service::main(about, hotcell_intake::run)
}
