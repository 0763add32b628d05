//! `loadtest`: see the crate's documentation. Wiring only.

use clap::Parser as _;
use hotcell_loadtest::suite::{Args, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}
