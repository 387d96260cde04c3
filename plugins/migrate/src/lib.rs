//! Moves a tag from one backend to another, some tenants at a time: both are read, one is written, and a write takes the
//! key along.
//!
//! ```toml
//! [strategies.migrate.settings.tenant_config_]
//! from = { backend = "local" }
//! to = { backend = "hot", namespace = "live" }
//! percent = 5        # of tenants that are written to `to`, always the same ones; 0.01 is the least step
//! ```
//!
//! Begin with `percent = 0`, on every replica: then both are read everywhere. Raise and lower it as you like; nothing is
//! lost and nothing comes back. A key that nobody writes stays where it is and is read there. Once an export shows that
//! `from` is empty, let another strategy have the tag.
//!
//! The logic is plain Rust with native tests; what turns it into a component is in [`component`] and exists only there.

#[cfg(target_arch = "wasm32")]
mod component;
mod moves;

pub use moves::{Move, Moves, Place, Problem};
