//! The Python that the servers run in, installed by whichever test comes first.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Said with every failure to install.
const ADVICE: &str = "\
    These tests need Python 3.10 or newer with venv and pip (Debian: `apt-get install python3-venv`), and on first use a \
    package index that pip can reach.";

/// The interpreter that has all of `requirements.txt`.
pub fn python() -> PathBuf {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    // Not a `LazyLock`, which would answer all but the first who fails with nothing but that it is poisoned.
    INSTALLED.get_or_init(install).clone()
}

/// Runs a script with boto3 against a server and returns what it printed. It signs as the account's root.
#[must_use]
pub fn boto3(script: &str, endpoint: &str) -> String {
    let mut command = isolated(&python());
    command.args(["-c", script]).envs([
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]);
    text_of(&mut command, script)
}

/// A program that sees nothing of this process's variables: no credentials, no proxies, no settings of servers.
pub(crate) fn isolated(program: &Path) -> Command {
    let mut command = Command::new(program);
    let kept = ["PATH", "TMPDIR"].map(|name| (name, env::var_os(name)));
    command
        .env_clear()
        .envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn install() -> PathBuf {
    // An environment belongs to one interpreter, and is of no use once that one was upgraded.
    let version = text_of(Command::new("python3").arg("-VV"), ADVICE);
    let mut name = DefaultHasher::new();
    (include_str!("../requirements.txt"), version).hash(&mut name);
    let servers = target().join("test-servers");
    let environment = servers.join(format!("{:016x}", name.finish()));
    let interpreter = environment.join("bin/python");
    fs::create_dir_all(&servers).expect("the target folder can be written");

    // Tests start together: one installs, the others wait.
    let lock = File::create(environment.with_extension("lock")).expect("the target folder can be written");
    lock.lock().expect("the file system has locks");
    let whole = environment.join("whole");
    if !whole.is_file() {
        // They hold the lock too, and so keep it if this process is killed and they go on.
        let step = |program: &Path, arguments: &str, path: &Path| {
            let lock = lock.try_clone().expect("a second handle");
            let mut command = Command::new(program);
            command.args(arguments.split(' ')).arg(path).stdin(lock);
            text_of(&mut command, ADVICE);
        };
        // Cleared, because what is there was cut off.
        step("python3".as_ref(), "-m venv --clear", &environment);
        let pip = "-m pip --quiet --disable-pip-version-check install --requirement";
        step(&interpreter, pip, &own("requirements.txt"));
        File::create(whole).expect("the target folder can be written");
    }
    interpreter
}

/// Where cargo builds, as this program is in `target/<profile>/deps`, or in `target/<profile>` if it is no test.
pub(crate) fn target() -> PathBuf {
    let this = env::current_exe().expect("this program has a path");
    let mut folders = this.ancestors().skip(1);
    let profile = folders.find(|folder| !folder.ends_with("deps"));
    let target = profile.and_then(Path::parent);
    target.expect("cargo builds into a folder of a folder").to_owned()
}

/// A file of this crate.
pub(crate) fn own(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// What a command that must succeed prints. `note` is said if it fails.
pub(crate) fn text_of(command: &mut Command, note: &str) -> String {
    let output = command.output();
    let program = command.get_program().display();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}\n{note}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{program}: {}\n{text}{errors}\n{note}", output.status);
    }
    text
}
