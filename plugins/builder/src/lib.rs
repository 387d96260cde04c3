//! Turns a strategy's crate into a component without imports: `cargo build` for `wasm32-unknown-unknown`, then a wrap.
//!
//! The gateway's build embeds its default strategy with it, tests build their guests with it, and plugin authors
//! call its command. `wasm32-unknown-unknown` because std on `wasm32-wasip2` imports a dozen WASI interfaces, and a
//! strategy that imports any function is refused.
//!
//! The same source gives the same bytes, wherever it lies and whoever builds it, so that a component's digest can be held
//! against its source.

mod paths;

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";

/// The workspace's profile for components.
const PROFILE: &str = "component";

/// Every call of a strategy gets a fresh instance, and the stack is the greater part of what has to be wiped for it:
/// 64 KiB instead of rustc's 1 MiB halves the price of a call.
const STACK: &str = "-Clink-arg=-zstack-size=65536";

/// What stands between two flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\u{1f}";

/// Builds `package` of the workspace in the current directory's tree and returns the component's bytes.
///
/// `target_dir` must not be the target folder of a cargo that runs right now: that one holds its lock.
///
/// # Errors
/// When cargo fails (its own words go to stderr), or when the module does not implement a world of its WIT.
pub fn build(package: &str, target_dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let flags = [vec![STACK.to_owned()], paths::remapped(cargo(), TARGET)?].concat();
    let status = cargo()
        .args(["build", "--locked", "--lib", "--package", package])
        .args(["--target", TARGET, "--profile", PROFILE])
        .args(["--config", "build.rustc-wrapper=''"])
        .args(["--config", "build.rustc-workspace-wrapper=''"])
        .arg("--target-dir")
        .arg(target_dir)
        // Stands before every other way to set flags, those in configuration files included.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR))
        .status()?;
    if !status.success() {
        return Err(format!(
            "building {package} for {TARGET} failed ({status}); if the target is missing: rustup target add {TARGET}"
        )
        .into());
    }
    let module = target_dir
        .join(TARGET)
        .join(PROFILE)
        .join(package.replace('-', "_"))
        .with_extension("wasm");
    let module = fs::read(&module).map_err(|error| format!("{}: {error}", module.display()))?;
    Ok(ComponentEncoder::default().validate(true).module(&module)?.encode()?)
}

/// The cargo around this one, without what was meant for that one alone.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if steers_a_build(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether the variable was meant for the build around this one: flags, wrappers, target and profile settings, and
/// what cargo tells a build script. Where cargo finds its home, its network and its job server stays.
fn steers_a_build(variable: &OsStr) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO",
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
    ];
    let Some(name) = variable.to_str() else {
        return false;
    };
    let kept = KEPT
        .iter()
        .any(|kept| name == *kept || (kept.ends_with('_') && name.starts_with(kept)));
    let of_the_script = ["TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS", "OUT_DIR"].contains(&name);
    !kept && (name.starts_with("CARGO_") || name.starts_with("RUSTC") || name.ends_with("FLAGS") || of_the_script)
}

#[cfg(test)]
mod tests {
    use super::steers_a_build;

    #[test]
    fn only_what_steers_the_outer_build_is_removed() {
        for name in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_COMPONENT_OPT_LEVEL",
            "CARGO_ENCODED_RUSTFLAGS",
            "PROFILE",
        ] {
            assert!(steers_a_build(name.as_ref()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO",
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_MAKEFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!steers_a_build(name.as_ref()), "{name}");
        }
    }
}
