//! Programs of Debian's, from the PATH; or out of packages, which are unpacked on first use and not installed.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python::{target, text_of};

/// A program to be started. `packages` are those that it needs if it is not on the PATH, its own first.
pub(crate) fn program(name: &str, packages: &[&str]) -> Command {
    let on_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut found = on_path
        .map(|folder| folder.join(name))
        .filter(|program| program.is_file());
    if let Some(program) = found.next() {
        return Command::new(program);
    }
    let folder = unpacked(packages);
    let mut command = Command::new(folder.join("usr/bin").join(name));
    command.env("LD_LIBRARY_PATH", libraries(&folder));
    command
}

/// Each package's in a folder of its own, below the first one's name.
fn unpacked(packages: &[&str]) -> PathBuf {
    let [own, ..] = packages else {
        panic!("a program comes in a package");
    };
    // Said with every failure to find it.
    let advice = format!(
        "This test needs programs of Debian's package `{own}` on the PATH (`apt-get install {own}`), or an apt-get that can \
         download: {packages:?}."
    );
    let folder = target().join("test-servers").join(own);
    fs::create_dir_all(&folder).expect("the target folder can be written");
    // Tests start together: one unpacks, the others wait.
    let lock = File::create(folder.with_extension("lock")).expect("the target folder can be written");
    lock.lock().expect("the file system has locks");
    let whole = folder.join("whole");
    if !whole.is_file() {
        let download = || {
            let mut command = Command::new("apt-get");
            command.arg("download").args(packages).current_dir(&folder);
            command
        };
        if !download().output().is_ok_and(|output| output.status.success()) {
            // A new machine has no lists of packages yet. Who may not fetch them has to.
            _ = Command::new("apt-get").arg("update").output();
            text_of(&mut download(), &advice);
        }
        let files = fs::read_dir(&folder).expect("it is there").filter_map(Result::ok);
        let files = files.map(|entry| entry.path());
        for package in files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
            let mut unpack = Command::new("dpkg-deb");
            text_of(unpack.arg("--extract").arg(package).arg(&folder), &advice);
        }
        File::create(whole).expect("the target folder can be written");
    }
    folder
}

/// Where libraries are that came along and that the loader does not look for there: `usr/lib/<machine>/systemd`, say.
fn libraries(folder: &Path) -> OsString {
    fn below(folder: &Path, depth: u8, found: &mut Vec<PathBuf>) {
        found.push(folder.to_owned());
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        for entry in entries
            .map(|entry| entry.path())
            .filter(|path| depth > 0 && path.is_dir())
        {
            below(&entry, depth - 1, found);
        }
    }
    let mut found = Vec::new();
    below(&folder.join("lib"), 1, &mut found);
    below(&folder.join("usr/lib"), 2, &mut found);
    env::join_paths(found).expect("packages have plain names")
}
