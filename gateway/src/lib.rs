//! Tagway: a gRPC gateway for multi-tenant configuration. `ARCHITECTURE.md` beside this crate's manifest tells the way
//! of a request through these modules.

#![forbid(unsafe_code)]

pub mod app;
pub mod audit;
pub mod backend;
pub mod cache;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod event;
mod fair_semaphore;
mod folder;
pub mod identity;
#[cfg(feature = "internals")]
pub mod internals;
pub mod key;
pub mod placement;
pub mod quota;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod status;
pub mod strategy;
pub mod telemetry;
pub mod tls;
pub mod watch;
mod watched_files;
pub mod wit;
