//! Messages of the package `lazyattn.v1`, generated from `proto/`.

/// The encoded `google.protobuf.FileDescriptorSet` of the package, for reflection and for generating clients.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

include!(concat!(env!("OUT_DIR"), "/lazyattn.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/lazyattn.v1.serde.rs"));
