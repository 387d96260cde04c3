//! `tagway explain`

use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, Value, json};
use tagway_proto::v1;

use super::client::{self, Context, Gateway, Output};
use super::failure::Failure;

/// The arguments of `tagway explain`.
#[derive(Args)]
#[command(after_help = "Example: tagway explain tenant_config_limits --context env=prod")]
pub(super) struct Explain {
    /// Tag and name
    key: String,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

impl Explain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = v1::ExplainRouteRequest {
            key: self.key,
            context: self.context.message(),
        };
        let route = self.gateway.connect().await?.explain_route(request).await?.into_inner();
        if self.gateway.output() == Output::Json {
            return client::print(object(&route));
        }
        let mut out = io::stdout().lock();
        writeln!(out, "tag        {}", route.tag)?;
        writeln!(out, "strategy   {} (generation {})", route.strategy, route.generation)?;
        writeln!(out, "component  {}", route.digest)?;
        writeln!(out, "reason     {}", route.reason)?;
        for step in &route.steps {
            let holds = if step.holds_key {
                "holds the key"
            } else {
                "does not hold it"
            };
            let origin = client::origin(step.origin());
            writeln!(out, "{origin:<10} {} {}: {holds}", step.backend, step.physical_name)?;
            writeln!(out, "           can {}", step.capabilities.join(", "))?;
        }
        if !route.ignored_context.is_empty() {
            writeln!(out, "ignores    {}", route.ignored_context.join(", "))?;
        }
        Ok(out.flush()?)
    }
}

fn object(route: &v1::ExplainRouteResponse) -> Map<String, Value> {
    let step = |step: &v1::explain_route_response::Step| {
        json!({
            "backend": step.backend,
            "physical_name": step.physical_name,
            "origin": client::origin(step.origin()),
            "holds_key": step.holds_key,
            "cache_state": step.cache_state,
            "capabilities": step.capabilities,
        })
    };
    let steps: Vec<Value> = route.steps.iter().map(step).collect();
    Map::from_iter([
        ("tag".to_owned(), json!(route.tag)),
        ("strategy".to_owned(), json!(route.strategy)),
        ("digest".to_owned(), json!(route.digest)),
        ("generation".to_owned(), json!(route.generation)),
        ("reason".to_owned(), json!(route.reason)),
        ("steps".to_owned(), json!(steps)),
        ("ignored_context".to_owned(), json!(route.ignored_context)),
    ])
}
