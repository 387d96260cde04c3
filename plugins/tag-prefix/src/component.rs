//! The glue between the logic and `strategy.wit`.

#![allow(
    unsafe_code,
    reason = "what wit-bindgen generates moves values across the component's boundary"
)]

use std::cell::OnceCell;

use crate::routes::{Routes, SCHEMA};

wit_bindgen::generate!({
    world: "strategy",
    path: "../../wit",
});

use exports::tagway::strategy::lifecycle;
use exports::tagway::strategy::router;
use tagway::strategy::types::{
    Attribute, BackendInfo, CachePolicy, Decision, Example, Manifest, Operation, Placement, Problem, Refusal, Request,
    Scope, Setup, Tag,
};

thread_local! {
    /// An instance lives for one call, and `configure` comes first.
    static ROUTES: OnceCell<Routes> = const { OnceCell::new() };
}

struct TagPrefix;

export!(TagPrefix);

impl lifecycle::Guest for TagPrefix {
    fn configure(setup: Setup) -> Result<(), Vec<Problem>> {
        let backends: Vec<&str> = setup.catalog.iter().map(|backend| backend.id.as_str()).collect();
        let routes = Routes::configure(&setup.settings, &backends).map_err(|problems| {
            problems
                .into_iter()
                .map(|problem| Problem {
                    path: problem.path,
                    message: problem.message,
                })
                .collect::<Vec<_>>()
        })?;
        // The host configures an instance once; a second time changes nothing.
        ROUTES.with(|cell| _ = cell.set(routes));
        Ok(())
    }

    fn describe() -> Manifest {
        let tags = with_routes(|routes| routes.tags().map(str::to_owned).collect()).unwrap_or_else(Vec::new);
        Manifest {
            name: "tag-prefix".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: tags
                .into_iter()
                .map(|prefix| Tag {
                    prefix,
                    description: "Lives in the backend that the settings name for it.".to_owned(),
                })
                .collect(),
            claims: Vec::new(),
            context: Vec::new(),
            settings_schema: Some(SCHEMA.to_owned()),
            attributes: Vec::new(),
        }
    }

    fn examples() -> Vec<Example> {
        let setup = Setup {
            settings: r#"{"tenant_config_": {"backend": "hot", "ttl": "60s", "stale": "10m"}}"#.to_owned(),
            catalog: vec![BackendInfo {
                id: "hot".to_owned(),
                kind: "embedded".to_owned(),
                max_value_bytes: 1 << 20,
                attributes: Vec::new(),
            }],
            attributes: Vec::new(),
        };
        let input = Request {
            tag: "tenant_config_".to_owned(),
            name: "payment-gateway".to_owned(),
            operation: Operation::Read,
            tenant: "acme".to_owned(),
            claims: Vec::new(),
            context: Vec::new(),
            attributes: Vec::new(),
        };
        vec![
            Example {
                title: "the tag's backend is home".to_owned(),
                setup: setup.clone(),
                input: input.clone(),
                expected: Ok(Decision {
                    home: Placement {
                        backend: "hot".to_owned(),
                        scope: Scope::Tenant,
                        namespace: String::new(),
                        cache: Some(CachePolicy {
                            ttl_ms: 60_000,
                            stale_ms: 600_000,
                            negative_ms: 5_000,
                        }),
                        options: Vec::<Attribute>::new(),
                    },
                    former: Vec::new(),
                    defaults: Vec::new(),
                    reason: None,
                }),
            },
            Example {
                title: "a tag without a route has no place".to_owned(),
                setup,
                input: Request {
                    tag: "other_".to_owned(),
                    ..input
                },
                expected: Err(Refusal::Unplaced(String::new())),
            },
        ]
    }
}

impl router::Guest for TagPrefix {
    fn decide(request: Request) -> Result<Decision, Refusal> {
        Ok(Decision {
            home: placement(&request.tag)?,
            former: Vec::new(),
            defaults: Vec::new(),
            reason: Some(format!("the settings place {} there", request.tag)),
        })
    }

    fn enumerate(request: Request) -> Result<Vec<Placement>, Refusal> {
        Ok(vec![placement(&request.tag)?])
    }
}

fn placement(tag: &str) -> Result<Placement, Refusal> {
    with_routes(|routes| {
        routes.route(tag).map(|route| Placement {
            backend: route.backend.clone(),
            scope: Scope::Tenant,
            namespace: route.namespace.clone(),
            cache: route.cache.map(|[ttl_ms, stale_ms, negative_ms]| CachePolicy {
                ttl_ms,
                stale_ms,
                negative_ms,
            }),
            options: Vec::new(),
        })
    })
    .flatten()
    .ok_or_else(|| Refusal::Unplaced(format!("the settings name no backend for {tag}")))
}

fn with_routes<T>(f: impl FnOnce(&Routes) -> T) -> Option<T> {
    ROUTES.with(|cell| cell.get().map(f))
}
