//! For tests: the launcher with the filters of the file that lies beside it, under its own name and `.json`.

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;

use hotcell_jail::variant;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let mut path = args.next().unwrap_or_default();
    path.push(OsString::from(".json"));
    let programs = File::open(path).map(serde_json::from_reader);
    match programs {
        Ok(Ok(programs)) => ExitCode::from(variant::main(args, programs)),
        _ => ExitCode::from(126),
    }
}
