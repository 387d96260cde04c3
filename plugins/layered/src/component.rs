//! The glue between the logic and `strategy.wit`.

#![allow(
    unsafe_code,
    reason = "what wit-bindgen generates moves values across the component's boundary"
)]

use std::cell::OnceCell;

use crate::layers::{Layers, Place, SCHEMA};

wit_bindgen::generate!({
    world: "strategy",
    path: "../../wit",
});

use exports::tagway::strategy::{lifecycle, router};
use tagway::strategy::types::{
    Attribute, BackendInfo, Decision, Example, Manifest, Operation, Placement, Problem, Refusal, Request, Scope, Setup,
    Tag,
};

thread_local! {
    /// An instance lives for one call, and `configure` comes first.
    static LAYERS: OnceCell<Layers> = const { OnceCell::new() };
}

struct Layered;

export!(Layered);

impl lifecycle::Guest for Layered {
    fn configure(setup: Setup) -> Result<(), Vec<Problem>> {
        let backends: Vec<&str> = setup.catalog.iter().map(|backend| backend.id.as_str()).collect();
        let layers = Layers::configure(&setup.settings, &backends).map_err(|problems| {
            let problems = problems.into_iter();
            let problems = problems.map(|crate::Problem { path, message }| Problem { path, message });
            problems.collect::<Vec<_>>()
        })?;
        // The host configures an instance once; a second time changes nothing.
        LAYERS.with(|cell| _ = cell.set(layers));
        Ok(())
    }

    fn describe() -> Manifest {
        LAYERS.with(|cell| {
            let layers = cell.get();
            let (claims, context) = layers.map(Layers::dimensions).unwrap_or_default();
            let owned = |names: std::collections::BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
            Manifest {
                name: "layered".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                tags: layers
                    .into_iter()
                    .flat_map(Layers::tags)
                    .map(|prefix| Tag {
                        prefix: prefix.to_owned(),
                        description: "Values by the dimensions that the settings name, over shared ones.".to_owned(),
                    })
                    .collect(),
                claims: owned(claims),
                context: owned(context),
                settings_schema: Some(SCHEMA.to_owned()),
                attributes: Vec::new(),
            }
        })
    }

    fn examples() -> Vec<Example> {
        let place = |scope, namespace: &str| Placement {
            backend: "hot".to_owned(),
            scope,
            namespace: namespace.to_owned(),
            cache: None,
            options: Vec::new(),
        };
        let input = Request {
            tag: "tenant_config_".to_owned(),
            name: "limits".to_owned(),
            operation: Operation::Read,
            tenant: "acme".to_owned(),
            claims: Vec::new(),
            context: vec![Attribute {
                name: "env".to_owned(),
                value: "prod".to_owned(),
            }],
            attributes: Vec::new(),
        };
        vec![Example {
            title: "production's value, over the base, over what is shared".to_owned(),
            setup: Setup {
                settings: r#"{"tenant_config_": {"backend": "hot", "shared": "hot", "layers": [["env"]]}}"#.to_owned(),
                catalog: vec![BackendInfo {
                    id: "hot".to_owned(),
                    kind: "embedded".to_owned(),
                    max_value_bytes: 1 << 20,
                    attributes: Vec::new(),
                }],
                attributes: Vec::new(),
            },
            input,
            expected: Ok(Decision {
                home: place(Scope::Tenant, "env-prod"),
                former: Vec::new(),
                defaults: vec![
                    place(Scope::Tenant, ""),
                    place(Scope::Shared, "env-prod"),
                    place(Scope::Shared, ""),
                ],
                reason: None,
            }),
        }]
    }
}

impl router::Guest for Layered {
    fn decide(request: Request) -> Result<Decision, Refusal> {
        let mut places = places(&request)?.into_iter().map(placement);
        // There is always the base.
        let home = places.next().ok_or_else(|| unplaced(&request.tag))?;
        Ok(Decision {
            reason: Some(match home.namespace.as_str() {
                "" => "the base: no layer has all of its dimensions here".to_owned(),
                namespace => format!("the layer {namespace}"),
            }),
            home,
            former: Vec::new(),
            defaults: places.collect(),
        })
    }

    fn enumerate(request: Request) -> Result<Vec<Placement>, Refusal> {
        Ok(places(&request)?.into_iter().map(placement).collect())
    }
}

/// They are the same for all names of a tag.
fn places(request: &Request) -> Result<Vec<Place>, Refusal> {
    let claims = pairs(&request.claims);
    let context = pairs(&request.context);
    LAYERS.with(|cell| {
        let tag = cell.get().and_then(|layers| layers.tag(&request.tag));
        let tag = tag.ok_or_else(|| unplaced(&request.tag))?;
        tag.places(&claims, &context)
            .map_err(|refused| Refusal::Invalid(refused.0))
    })
}

fn pairs(attributes: &[Attribute]) -> Vec<(&str, &str)> {
    let pairs = attributes.iter();
    pairs
        .map(|attribute| (attribute.name.as_str(), attribute.value.as_str()))
        .collect()
}

fn placement(place: Place) -> Placement {
    Placement {
        backend: place.backend,
        scope: if place.shared { Scope::Shared } else { Scope::Tenant },
        namespace: place.namespace,
        cache: None,
        options: Vec::new(),
    }
}

fn unplaced(tag: &str) -> Refusal {
    Refusal::Unplaced(format!("the settings name no layers for {tag}"))
}
