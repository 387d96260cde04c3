//! Stand-ins for AWS that tests run against: real servers, each a process of its own on a port that the kernel chose.
//!
//! Nothing has to be installed by hand but Python: what the servers are made of is installed on first use, beside what
//! cargo builds. Everything here blocks; a test that must not wait calls it before its runtime starts, or on a thread
//! for such things.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test says what went wrong by failing"
)]

mod debian;
mod linters;
mod microburst;
mod ministack;
mod prometheus;
mod python;
mod roto;
mod server;

pub use linters::{cfn_lint, hadolint, kubernetes_validate, systemd_analyze, yaml, yamllint};
pub use microburst::{Fault, Microburst};
pub use ministack::{ACCOUNT, Ministack};
pub use prometheus::{Prometheus, promtool};
pub use python::{boto3, python};
pub use roto::Roto;
