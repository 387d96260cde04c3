//! Prometheus and its tool.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::debian;

/// What `promtool` says with these arguments, in this folder.
#[must_use]
pub fn promtool(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = program("promtool");
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
        let mut process = program("prometheus")
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

fn program(name: &str) -> Command {
    debian::program(name, &["prometheus"])
}
