//! Generates the messages, clients and servers. protox compiles the protos in pure Rust, so that a build needs no
//! `protoc` on the machine.

use std::path::Path;
use std::{env, fs};

use protox::prost::Message as _;

const PROTOS: [&str; 2] = ["tagway/v1/config.proto", "tagway/v1/admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["."])?;
    let described = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(described, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Values are shared, not copied, from the store's answer to the socket.
        .bytes(".tagway.v1.Config.value")
        .bytes(".tagway.v1.PutConfigRequest.value")
        .codec_path("crate::codec::LeanCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
