//! The contract with strategies, `wit/strategy.wit`, as types. Its comments are the specification.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code follows its generator's style"
)]

wasmtime::component::bindgen!({
    world: "strategy",
    path: "../wit",
});

pub use exports::tagway::strategy::router::{Decision, Placement, Refusal, Request};
pub use tagway::strategy::types::{
    Attribute, BackendInfo, CachePolicy, Example, Manifest, Operation, Problem, Scope, Setup,
};
