//! The same source gives the same component: in another folder, with cargo's home elsewhere, by whomever.

#![allow(clippy::expect_used, reason = "a test says what went wrong by failing")]

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What cargo asks for of the workspace, to build one package of it.
const NEEDED: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "gateway",
    "plugins",
    "proto",
    "tests",
    "wit",
];

/// Puts what is at one place in the other, instead of what was there.
fn replace(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).expect("copied");
        return;
    }
    // There is none the first time.
    _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        // Another workspace, and whatever was built.
        if name != "fuzz" && name != "target" {
            replace(&from.join(&name), &to.join(&name));
        }
    }
}

/// Cargo's home by another name, with what it has downloaded.
fn home_at(alias: &Path) {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    // There is none the first time.
    _ = fs::remove_dir_all(alias);
    fs::create_dir_all(alias).expect("made");
    for entry in fs::read_dir(home.expect("cargo has a home")).expect("a folder") {
        let entry = entry.expect("an entry");
        symlink(entry.path(), alias.join(entry.file_name())).expect("linked");
    }
}

/// The component as it comes out of a copy of this workspace in `folder`, by `cargo`'s variables.
fn built_in(folder: &Path, cargo: &[(&str, &Path)]) -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::create_dir_all(folder).expect("made");
    for name in NEEDED {
        replace(&workspace.join(name), &folder.join(name));
    }
    let mut builder = Command::new(env!("CARGO_BIN_EXE_tagway-plugin-builder"));
    builder.args(["tag-prefix", "router.wasm"]).current_dir(folder);
    let built = builder.envs(cargo.iter().copied()).status();
    assert!(built.expect("it starts").success());
    fs::read(folder.join("router.wasm")).expect("it was made")
}

#[test]
fn the_same_source_gives_the_same_bytes_wherever_it_lies() {
    // They stay, so that dependencies are built once.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let one = built_in(&kept.join("one"), &[]);
    let home = kept.join("home");
    home_at(&home);
    let other = built_in(&kept.join("of a longer name/and deeper"), &[("CARGO_HOME", &home)]);
    let differs = one.iter().zip(&other).position(|(one, other)| one != other);
    assert!(
        one == other,
        "{} bytes and {}, and the first that differs is at {differs:?}",
        one.len(),
        other.len()
    );
}
