//! What services, watchers and platform teams call. The comments in `tagway/v1/*.proto` are the specification; they
//! reappear here on the generated types.

mod codec;

/// The same as clients are told that ask: a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `tagway.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code follows its generator's style"
)]
pub mod v1 {
    tonic::include_proto!("tagway.v1");
}
