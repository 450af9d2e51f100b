//! Turns the protos into Rust, without a system `protoc`, and keeps their descriptors for server reflection.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const PROTOS: [&str; 2] = ["warifu/v1/comm_module.proto", "warifu/v1/key.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("warifu_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::wire::LeanCodec")
        // Sealed frames are cut out of the receive buffer, not copied, and cheap to send again.
        .bytes(".warifu.v1.DeviceOutput.frame")
        // A frame holds nothing clear, yet vendor formats carry masked tracks: its Debug prints its length only.
        .skip_debug(["warifu.v1.DeviceOutput"])
        .compile_fds(descriptors)?;
    Ok(())
}
