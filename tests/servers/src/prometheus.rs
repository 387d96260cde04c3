//! Prometheus and its tool, from the PATH; or from Debian's package, which is unpacked on first use and not installed.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::python::{target, text_of};

/// Said with every failure to find it.
const ADVICE: &str = "\
    These tests need `prometheus` and `promtool` on the PATH (Debian: `apt-get install prometheus`), or an apt-get that can download \
    that package.";

/// What `promtool` says with these arguments, in this folder.
#[must_use]
pub fn promtool(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).current_dir(folder);
    command.output().expect("it starts")
}

/// One that runs.
pub struct Prometheus {
    process: Child,
    endpoint: String,
}

impl Prometheus {
    /// On the file `prometheus.yaml` in `folder`, where it keeps everything. Returns when it listens.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let mut process = Command::new(program("prometheus"))
            .args([
                "--config.file=prometheus.yaml",
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
            ])
            .current_dir(folder)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let endpoint = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("a pipe can be read");
            assert!(read > 0, "prometheus ended:\n{said}");
            said += &line;
            // It tells the port that it was given.
            let address = line
                .split_once("Listening on")
                .and_then(|(_, said)| said.split_once("address="));
            if let Some((_, address)) = address.filter(|(_, address)| !address.trim().ends_with(":0")) {
                break format!("http://{}", address.trim());
            }
        };
        // What it says later is nobody's to read, and must not stop it.
        std::thread::spawn(move || _ = log.read_to_string(&mut said));
        Self { process, endpoint }
    }

    /// The `data` of an answer of its API; null while it is not ready.
    #[must_use]
    pub fn ask(&self, path: &str) -> Value {
        match ureq::get(format!("{}/api/v1/{path}", self.endpoint)).call() {
            Ok(mut answer) => {
                let text = answer.body_mut().read_to_string().expect("it answers whole");
                let answer: Value = serde_json::from_str(&text).expect("its API speaks JSON");
                answer["data"].clone()
            }
            Err(ureq::Error::StatusCode(503)) => Value::Null,
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let on_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut found = on_path
        .map(|folder| folder.join(name))
        .filter(|program| program.is_file());
    found.next().unwrap_or_else(|| unpacked().join("usr/bin").join(name))
}

fn unpacked() -> &'static Path {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    UNPACKED.get_or_init(|| {
        let folder = target().join("test-servers").join("prometheus");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        // Tests start together: one unpacks, the others wait.
        let lock = File::create(folder.with_extension("lock")).expect("the target folder can be written");
        lock.lock().expect("the file system has locks");
        let whole = folder.join("whole");
        if !whole.is_file() {
            let download = || {
                let mut command = Command::new("apt-get");
                command.args(["download", "prometheus"]).current_dir(&folder);
                command
            };
            if !download().output().is_ok_and(|output| output.status.success()) {
                // A new machine has no lists of packages yet. Who may not fetch them has to.
                _ = Command::new("apt-get").arg("update").output();
                text_of(&mut download(), ADVICE);
            }
            let packages = fs::read_dir(&folder).expect("it is there").filter_map(Result::ok);
            let mut packages = packages.map(|entry| entry.path());
            let package = packages.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
            let package = package.unwrap_or_else(|| panic!("nothing was downloaded\n{ADVICE}"));
            let mut unpack = Command::new("dpkg-deb");
            text_of(unpack.arg("--extract").arg(package).arg(&folder), ADVICE);
            File::create(whole).expect("the target folder can be written");
        }
        folder
    })
}
