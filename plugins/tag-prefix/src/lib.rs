//! Tagway's default strategy: the settings name a backend for each tag, and nothing else decides.
//!
//! ```toml
//! [strategies.tag-prefix.settings]
//! tenant_config_ = { backend = "hot", ttl = "60s", stale = "10m" }
//! param_config_ = { backend = "params", namespace = "live", ttl = "5m", stale = "1h", negative = "5s" }
//! ```
//!
//! The logic is plain Rust with native tests; what turns it into a component is in [`component`] and exists only there.

#[cfg(target_arch = "wasm32")]
mod component;
mod routes;

pub use routes::{Problem, Route, Routes};
