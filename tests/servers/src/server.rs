//! A server's process, which ends with whoever holds it, in whatever way that one ends.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::python::{isolated, own, python};

/// How long a server may take for an answer, on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_mins(1);

/// One that runs.
pub(crate) struct Server {
    endpoint: String,
    /// Its standard input is a pipe whose other end is here and nowhere else: it closes when this process is gone,
    /// even if it was killed or keeps this in a `static`, and the server ends at that.
    process: Child,
    agent: Agent,
}

impl Server {
    /// `python/serve.py` with these arguments and variables. Returns when the server answers at `health`.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)], health: &str) -> Self {
        let mut log = tempfile::tempfile().expect("a file");
        let mut process = isolated(&python())
            // It leaves no compiled files in the repository.
            .arg("-B")
            .arg(own("python/serve.py"))
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a second handle"))
            .spawn()
            .expect("the interpreter starts");
        let mut port = String::new();
        let stdout = process.stdout.take().expect("it is piped");
        // It is the server's own word, so whatever answers there is the server. No word is the end of the process.
        BufReader::new(stdout).read_line(&mut port).expect("a pipe can be read");
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None);
        let mut server = Self {
            endpoint: format!("http://127.0.0.1:{}", port.trim_end()),
            process,
            agent: config.build().into(),
        };
        let ready = match port.trim_end().parse::<u16>() {
            Ok(_) => server
                .agent
                .get(server.url(health))
                .call()
                .map_err(|error| error.to_string()),
            Err(_) => Err("it ended".to_owned()),
        };
        if let Err(error) = ready {
            server.end();
            let mut said = Vec::new();
            log.rewind().expect("a file can be read again");
            log.read_to_end(&mut said).expect("a file can be read");
            panic!(
                "{arguments:?} did not start: {error}\n{}",
                String::from_utf8_lossy(&said)
            );
        }
        server
    }

    /// Where clients find it.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks the server itself, and not what it stands in for.
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.agent.get(self.url(path)).call();
        let mut answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = answer.body_mut().read_to_string().expect("servers speak text");
        serde_json::from_str(&text).expect("servers speak JSON about themselves")
    }

    /// Tells the server itself, and not what it stands in for.
    pub(crate) fn send(&self, method: &str, path: &str, body: &Value) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = self.agent.run(request.expect("a path is part of an address"));
        answer.unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"));
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Closes the pipe, and waits for what follows.
    fn end(&mut self) {
        // It fails if there is nothing to wait for any more.
        _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
