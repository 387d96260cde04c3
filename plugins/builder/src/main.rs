//! `cargo run -p tagway-plugin-builder -- PACKAGE OUT.wasm`: builds a strategy of this workspace into a component that
//! the gateway loads with `source = "file:OUT.wasm"`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [package, out] = arguments.as_slice() else {
        return Err("usage: tagway-plugin-builder PACKAGE OUT.wasm".into());
    };
    let component = tagway_plugin_builder::build(package, Path::new("target/plugins"))?;
    fs::write(out, component)?;
    Ok(())
}
