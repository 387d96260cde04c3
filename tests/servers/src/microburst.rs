//! Microburst: a proxy in front of another stand-in, that fails the way AWS fails, because none of them does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::Server;

const HEALTH: &str = "/_microburst/health";
const RULES: &str = "/_microburst/rules";

/// One that runs. What has no fault passes unchanged.
pub struct Microburst(Server);

impl Microburst {
    /// One in front of the server with this endpoint.
    #[must_use]
    pub fn start(upstream: &str) -> Self {
        Self(Server::start(&["microburst", upstream], &[], HEALTH))
    }

    /// What goes into `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.endpoint()
    }

    /// The next so many calls of an operation (`PutItem`, `GetParametersByPath`) fail like this; then they pass. Of
    /// several faults for one operation the first is used up first.
    pub fn inject(&self, operation: &str, fault: Fault, times: u32) {
        let mut rule = fault.effect();
        rule["operation"] = operation.into();
        rule["times"] = times.into();
        self.rule(&rule);
    }

    /// Adds a rule of Microburst's own, for what [`Self::inject`] cannot say. Of several the first that matches is the
    /// one. **What it does not know in a rule it ignores.**
    ///
    /// - Which calls: `service` (as in a signature: `dynamodb`, `ssm`, `events`), `operation`, `region`, `resource` (a
    ///   part of a table's, parameter's or queue's name), `headers` (parts of theirs), `body` (a `JMESPath` that is true).
    /// - How many of them: `times` (so many, then none), `sequence` (`{"fail": 3, "pass": 2}`, over and over), `rate`
    ///   (`{"count": 5, "window_s": 60}`), `probability`, `ttl_s`.
    /// - Before AWS is asked: `latency` (milliseconds, or `{"min": 5, "max": 50}`), `reset`, `timeout_ms` (so long
    ///   nothing, then status 504), `error` (`{"code": .., "status": .., "message": ..}`).
    /// - After AWS has answered, under `response`: `abort_bytes` or `abort_frac` (the connection ends there),
    ///   `truncate_bytes` or `truncate_frac`, `corrupt_bytes` (so many are wrong), `bandwidth_kbps`, `set_headers`,
    ///   `strip_headers`.
    pub fn rule(&self, rule: &Value) {
        self.0.send("PATCH", RULES, &json!([rule]));
    }

    /// From here on every call passes.
    pub fn clear(&self) {
        self.0.send("DELETE", RULES, &json!([]));
    }

    /// How often calls of an operation met a fault, of the last 2000 faults.
    #[must_use]
    pub fn fired(&self, operation: &str) -> usize {
        let faults = self
            .0
            .get(&format!("/_microburst/fired?limit=2000&operation={operation}"));
        faults.as_array().expect("faults are listed").len()
    }

    /// How many calls came, whether they passed or not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.get(HEALTH)["requests_seen"].as_u64().expect("calls are counted")
    }
}

/// What can happen to a call. The first four never reach AWS; in the others AWS does what it was asked.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// `ThrottlingException`: too many requests.
    Throttled,
    /// `InternalServerError`, with status 500.
    Internal,
    /// `ExpiredTokenException`: the caller's credentials are too old.
    ExpiredToken,
    /// The connection ends in place of an answer.
    Reset,
    /// The call is held so long on its way. It is done then, even if its caller has given up.
    Slow(Duration),
    /// The connection ends in the middle of the answer's body.
    Cut,
    /// The answer's body is half of what it was, and says nothing of the rest.
    Truncated,
    /// The answer is lost: its head may come, of its body nothing, and the connection ends.
    Lost,
}

impl Fault {
    fn effect(self) -> Value {
        let error = |status: u16, code: &str| json!({ "error": { "status": status, "code": code, "message": code } });
        match self {
            Self::Throttled => error(400, "ThrottlingException"),
            Self::Internal => error(500, "InternalServerError"),
            Self::ExpiredToken => error(400, "ExpiredTokenException"),
            Self::Reset => json!({ "reset": true }),
            Self::Slow(time) => json!({ "latency": time.as_secs_f64() * 1000.0 }),
            Self::Cut => json!({ "response": { "abort_frac": 0.5 } }),
            Self::Truncated => json!({ "response": { "truncate_frac": 0.5 } }),
            Self::Lost => json!({ "response": { "abort_bytes": 0 } }),
        }
    }
}
