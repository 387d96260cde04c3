//! What the whole-system tests share: an issuer of tokens, a server of its keys, the real binary, clients of it, and validators of what
//! it promises.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test says what went wrong by failing"
)]

pub mod admin;
pub mod authority;
pub mod client;
pub mod gateway;
pub mod issuer;
pub mod jwks_server;
pub mod mutant;
pub mod validators;
pub mod watcher;
