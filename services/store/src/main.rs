//! Process wiring of the store: configuration, logs, signals, exit code.

use std::process::ExitCode;

use hotcell_stage::service::{self, About, ServiceError, Shutdown, describe};
use hotcell_store::{Config, ServeError, serve};

const ABOUT: About = About {
    name: "hotcell-store",
    version: env!("CARGO_PKG_VERSION"),
    defaults: include_str!("../config.default.toml"),
};

fn main() -> ExitCode {
    service::main(ABOUT, run)
}

async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    serve(config, shutdown.token()).await.map_err(|error| match &error {
        ServeError::Disk(_) => ServiceError::Unreachable(describe(&error)),
        ServeError::Config(_)
        | ServeError::Tls(_)
        | ServeError::Listen { .. }
        | ServeError::ListenFile { .. } => ServiceError::Refused(describe(&error)),
    })
}
