//! What a component calls the files that it was made of: the same on every machine, so that the same source gives the same
//! bytes wherever it lies.
//!
//! What panics names its file, and so a component holds the names of its sources, of its dependencies', and of std's where
//! rustup's `rust-src` is there.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Flags that have rustc take those names for the ones of this machine. `cargo` is one without arguments yet.
pub(crate) fn remapped(mut cargo: Command, target: &str) -> Result<Vec<String>, Box<dyn Error>> {
    cargo.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        target,
    ]);
    let metadata: Value = serde_json::from_str(&said(&mut cargo)?)?;
    let root = metadata["workspace_root"].as_str().ok_or("cargo tells no workspace")?;
    let mut names = vec![(root.to_owned(), "/workspace".to_owned())];
    names.extend(
        dependencies(&metadata)
            .into_iter()
            .map(|folder| (folder, "/dependencies".to_owned())),
    );
    let sysroot = said(Command::new("rustc").args(["--print", "sysroot"]))?;
    let version = said(Command::new("rustc").arg("-vV"))?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    // What std calls its files where its sources are not there.
    names.push((
        format!("{}/lib/rustlib/src/rust", sysroot.trim_end()),
        format!("/rustc/{}", commit.ok_or("rustc tells no commit")?),
    ));
    Ok(names
        .into_iter()
        .map(|(here, everywhere)| format!("--remap-path-prefix={here}={everywhere}"))
        .collect())
}

/// Where the folders of packages lie that are not of the workspace: registries are cargo's, mirrors or vendored, and each has
/// its own.
fn dependencies(metadata: &Value) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let others = packages.filter(|package| !package["source"].is_null());
    others
        .filter_map(|package| {
            Path::new(package["manifest_path"].as_str()?)
                .ancestors()
                .nth(2)?
                .to_str()
        })
        .map(str::to_owned)
        .collect()
}

/// What a command that must succeed prints.
fn said(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{errors}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
