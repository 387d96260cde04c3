//! Builds the default strategy and hands its component to the crate, so that a gateway without a file has one.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    for input in [
        "build.rs",
        "../plugins/tag-prefix",
        "../wit",
        "../Cargo.lock",
        "../Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let component = tagway_plugin_builder::build("tag-prefix", &out.join("plugins"))?;
    fs::write(out.join("tag-prefix.wasm"), component)?;
    Ok(())
}
