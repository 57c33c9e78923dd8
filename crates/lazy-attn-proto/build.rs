//! Compiles `proto/` into messages and their JSON form, without `protoc`.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message;

/// Enums whose JSON names `src/enum_names.rs` writes by hand: it accepts and prints short forms.
const SHORT_ENUMS: [&str; 4] = [
    ".lazyattn.v1.DocumentAttention",
    ".lazyattn.v1.FinishReason",
    ".lazyattn.v1.CacheOutcome",
    ".lazyattn.v1.Role",
];

const FILES: [&str; 2] = ["proto/lazyattn/v1/types.proto", "proto/lazyattn/v1/generation_service.proto"];

fn main() -> Result<(), Box<dyn error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let bytes = descriptors.encode_to_vec();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), &bytes)?;

    prost_build::Config::new()
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."])
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."])
        .exclude(SHORT_ENUMS)
        .emit_fields()
        .build(&[".lazyattn.v1"])?;
    Ok(())
}
