//! Launcher of the cell: builds the jail around one program, starts it, reports how it ended. See `launcher.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(hotcell_jail::launcher::main(std::env::args_os().skip(1)))
}
