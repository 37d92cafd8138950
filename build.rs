//! Compiles the schema in `proto/` to Rust. `protox` is a protobuf compiler in Rust, so no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // `Model.proto` imports every other file.
    let descriptors = protox::compile(["proto/Model.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;

    prost_build::Config::new()
        // A decoded model shares its payloads with the file's bytes instead of copying them.
        .bytes(["."])
        // Sorted maps make the encoding deterministic.
        .btree_map(["."])
        // Weights keep their floats as they lie in the file, see `src/weight_params.rs`.
        .extern_path(".CoreML.Specification.WeightParams", "crate::weight_params::WeightParams")
        .include_file("schema.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
