//! Values by environment, region and tier, or whatever the settings call them: a tenant's value for just these, over its
//! value for fewer of them, over its base, over what all tenants share in the same order.
//!
//! ```toml
//! [strategies.layered.settings.tenant_config_]
//! backend = "hot"
//! shared = "hot"                                     # where shared defaults are; leave it out for none
//! layers = [["env", "region", "tier"], ["env"]]      # most specific first; the base comes last by itself
//! claims = ["tier"]                                  # these are taken from the token, and not from the caller
//! ```
//!
//! A write goes to the most specific layer for which the request says everything: with `env=prod` it is the value for
//! production, without a context it is the base.
//!
//! The logic is plain Rust with native tests; what turns it into a component is in [`component`] and exists only there.

#[cfg(target_arch = "wasm32")]
mod component;
mod layers;

pub use layers::{Layers, Place, Problem, Refused, Tag};
