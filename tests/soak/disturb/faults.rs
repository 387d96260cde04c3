//! AWS fails for some seconds, as AWS does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tagway_tests::validators::timeline::{Store, Trouble};
use tokio::time::sleep;

use crate::Soak;

/// How.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It is too much for it.
    Throttled,
    /// Status 500.
    Errors,
    /// It takes its time.
    Slow,
    /// Connections end before an answer comes; what was asked is not done.
    Reset,
    /// What was asked is done, and its answer is lost.
    Lost,
    /// Every call fails.
    Away,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Throttled,
        Self::Errors,
        Self::Slow,
        Self::Reset,
        Self::Lost,
        Self::Away,
    ];

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "AWS throttles",
            Self::Errors => "AWS answers 500",
            Self::Slow => "AWS is slow",
            Self::Reset => "AWS resets connections",
            Self::Lost => "AWS's answers are lost",
            Self::Away => "AWS is away",
        }
    }

    fn effect(self) -> Value {
        let error = |status: u16, code: &str| json!({ "status": status, "code": code, "message": code });
        match self {
            Self::Throttled => json!({ "probability": 0.5, "error": error(400, "ThrottlingException") }),
            Self::Errors => json!({ "probability": 0.5, "error": error(500, "InternalServerError") }),
            Self::Slow => json!({ "latency": { "min": 100, "max": 1500 } }),
            Self::Reset => json!({ "probability": 0.5, "reset": true }),
            Self::Lost => json!({ "probability": 0.3, "response": { "abort_bytes": 0 } }),
            Self::Away => json!({ "error": error(500, "InternalServerError") }),
        }
    }
}

/// A store fails like that for a while, or what tells of changes does, which nothing that is asked for needs.
pub(crate) async fn run(soak: Arc<Soak>, fault: Fault, mut random: fastrand::Rng) {
    let (service, store) = [
        ("dynamodb", Some(Store::DynamoDb)),
        ("ssm", Some(Store::ParameterStore)),
        ("sqs", None),
        ("events", None),
    ][random.usize(..4)];
    let time = Duration::from_secs(random.u64(2..7));
    let mut rule = fault.effect();
    rule["service"] = service.into();
    rule["ttl_s"] = time.as_secs().into();
    let trouble = store.map(Trouble::Fault);
    if let Some(trouble) = trouble {
        soak.judges.bench().timeline.begins(trouble);
    }
    soak.fleet.fault(rule).await;
    // The proxy's clock is another, and what it holds comes later.
    sleep(time + Duration::from_secs(2)).await;
    if let Some(trouble) = trouble {
        soak.judges.bench().timeline.ends(trouble);
    }
}
