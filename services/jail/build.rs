//! Compiles the system-call profiles, once and not at the start of every cell.
//!
//! Promises: a profile that does not compile fails the build. Refuses nothing for a processor without a list: there the
//! launcher refuses.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use seccompiler::sock_filter;
use sha2::{Digest, Sha256};

use crate::compile::{CompileError, compile};

#[path = "src/compile.rs"]
mod compile;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/compile.rs");
    println!("cargo:rerun-if-changed=src/shrink.rs");
    println!("cargo:rerun-if-changed=profiles");
    let processor = env::var("CARGO_CFG_TARGET_ARCH")?;
    let mut code = "const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {\n    \
         sock_filter { code, jt, jf, k }\n}\n"
        .to_owned();
    for name in ["probe", "transcode"] {
        let text = fs::read_to_string(format!("profiles/{name}.json"))?;
        let filters = match compile(&text, &processor) {
            Ok(it) => format!(
                "Some(Filters {{ payload: &[{}], watch: &[{}], init: &[{}], names: &{:?} }})",
                ops(&it.payload)?,
                ops(&it.watch)?,
                ops(&it.init)?,
                it.names,
            ),
            Err(CompileError::Processor) => "None".to_owned(),
            Err(error) => return Err(format!("profiles/{name}.json: {error:?}").into()),
        };
        // `names` prints as a slice of (number, "name").
        let (name, sha256) = (name.to_uppercase(), hex::encode(Sha256::digest(&text)));
        writeln!(
            code,
            "pub(super) static {name}: Built = Built {{ sha256: {sha256:?}, filters: {filters} }};"
        )?;
    }
    Ok(fs::write(PathBuf::from(env::var("OUT_DIR")?).join("filters.rs"), code)?)
}

fn ops(program: &[sock_filter]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for word in program {
        write!(text, "op({}, {}, {}, {}), ", word.code, word.jt, word.jf, word.k)?;
    }
    Ok(text)
}
