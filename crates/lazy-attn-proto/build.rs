//! Compiles `proto/` into messages and their JSON form, and with the feature `grpc` into services, without `protoc`.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message;
use prost_build::Config;

/// Enums whose JSON names `src/enum_names.rs` writes by hand: it accepts and prints short forms.
const SHORT_ENUMS: [&str; 9] = [
    ".lazyattn.v1.DocumentAttention",
    ".lazyattn.v1.ExactnessRung",
    ".lazyattn.v1.DocumentPlacement",
    ".lazyattn.v1.FinishReason",
    ".lazyattn.v1.CacheOutcome",
    ".lazyattn.v1.Role",
    ".lazyattn.v1.ServerState",
    ".lazyattn.v1.KvResidency",
    ".lazyattn.v1.PrefillMode",
];

const FILES: [&str; 4] = [
    "proto/lazyattn/v1/types.proto",
    "proto/lazyattn/v1/document_service.proto",
    "proto/lazyattn/v1/generation_service.proto",
    "proto/lazyattn/v1/engine_service.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let bytes = descriptors.encode_to_vec();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), &bytes)?;

    let mut config = Config::new();
    config.compile_well_known_types().extern_path(".google.protobuf", "::pbjson_types").btree_map(["."]);
    add_services(&mut config);
    config.compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."])
        .exclude(SHORT_ENUMS)
        .emit_fields()
        .build(&[".lazyattn.v1"])?;
    Ok(())
}

#[cfg(feature = "grpc")]
fn add_services(config: &mut Config) {
    config.service_generator(tonic_prost_build::configure().service_generator());
}

#[cfg(not(feature = "grpc"))]
fn add_services(_config: &mut Config) {}
