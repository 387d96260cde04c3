//! A strategy that decides what its settings say, word for word.
//!
//! `{ "<tenant>": { "<layer>": { home, former, defaults, hidden } } }`, where the layer is the dimension `layer` of the
//! context, or empty. A placement is `[backend, namespace]`, or `[backend, namespace, "shared"]`. All are enumerated but
//! the `hidden` one. Names that are among its `traps` or `refuses` are not decided, and each decision takes `spins` rounds.

#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, unsafe_code, reason = "a guest is generated code around a table")]

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::hint::black_box;

use serde::Deserialize;

wit_bindgen::generate!({
    world: "strategy",
    path: "../../wit",
});

use exports::tagway::strategy::{lifecycle, router};
use tagway::strategy::types::{Decision, Example, Manifest, Placement, Problem, Refusal, Request, Scope, Setup, Tag};

type Place = Vec<String>;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    home: Place,
    #[serde(default)]
    former: Vec<Place>,
    #[serde(default)]
    defaults: Vec<Place>,
    #[serde(default)]
    hidden: Vec<Place>,
    #[serde(default)]
    traps: Vec<String>,
    #[serde(default)]
    refuses: Vec<String>,
    #[serde(default)]
    spins: u64,
}

type Script = BTreeMap<String, BTreeMap<String, Layer>>;

thread_local! {
    static SCRIPT: OnceCell<Script> = const { OnceCell::new() };
}

struct Scripted;

export!(Scripted);

impl lifecycle::Guest for Scripted {
    fn configure(setup: Setup) -> Result<(), Vec<Problem>> {
        let script = serde_json::from_str(&setup.settings).map_err(|error| {
            vec![Problem {
                path: String::new(),
                message: error.to_string(),
            }]
        })?;
        SCRIPT.with(|cell| _ = cell.set(script));
        Ok(())
    }

    fn describe() -> Manifest {
        Manifest {
            name: "scripted".to_owned(),
            version: "0.1.0".to_owned(),
            tags: vec![Tag {
                prefix: "t_".to_owned(),
                description: String::new(),
            }],
            claims: Vec::new(),
            context: vec!["layer".to_owned()],
            settings_schema: None,
            attributes: Vec::new(),
        }
    }

    fn examples() -> Vec<Example> {
        Vec::new()
    }
}

impl router::Guest for Scripted {
    fn decide(request: Request) -> Result<Decision, Refusal> {
        let layer = layer(&request)?;
        if layer.traps.contains(&request.name) {
            core::arch::wasm32::unreachable();
        }
        if layer.refuses.contains(&request.name) {
            return Err(Refusal::Unplaced("so it is written".to_owned()));
        }
        for round in 0..layer.spins {
            black_box(round);
        }
        let places = |places: &[Place]| places.iter().map(placement).collect();
        Ok(Decision {
            home: placement(&layer.home),
            former: places(&layer.former),
            defaults: places(&layer.defaults),
            reason: Some("so it is written".to_owned()),
        })
    }

    fn enumerate(request: Request) -> Result<Vec<Placement>, Refusal> {
        let layer = layer(&request)?;
        let places = std::iter::once(&layer.home).chain(&layer.former).chain(&layer.defaults);
        Ok(places
            .filter(|place| !layer.hidden.contains(place))
            .map(placement)
            .collect())
    }
}

fn layer(request: &Request) -> Result<Layer, Refusal> {
    let name = request.context.first().map_or("", |layer| layer.value.as_str());
    let found = SCRIPT.with(|cell| cell.get()?.get(&request.tenant)?.get(name).cloned());
    found.ok_or_else(|| Refusal::Unplaced("nothing is written".to_owned()))
}

fn placement(place: &Place) -> Placement {
    let word = |index: usize| place.get(index).cloned().unwrap_or_default();
    Placement {
        backend: word(0),
        scope: if word(2) == "shared" {
            Scope::Shared
        } else {
            Scope::Tenant
        },
        namespace: word(1),
        cache: None,
        options: Vec::new(),
    }
}
