//! The glue between the logic and `strategy.wit`.

#![allow(
    unsafe_code,
    reason = "what wit-bindgen generates moves values across the component's boundary"
)]

use std::cell::OnceCell;

use crate::moves::{Moves, Place, SCHEMA};

wit_bindgen::generate!({
    world: "strategy",
    path: "../../wit",
});

use exports::tagway::strategy::{lifecycle, router};
use tagway::strategy::types::{
    BackendInfo, Decision, Example, Manifest, Operation, Placement, Problem, Refusal, Request, Scope, Setup, Tag,
};

thread_local! {
    /// An instance lives for one call, and `configure` comes first.
    static MOVES: OnceCell<Moves> = const { OnceCell::new() };
}

struct Migrate;

export!(Migrate);

impl lifecycle::Guest for Migrate {
    fn configure(setup: Setup) -> Result<(), Vec<Problem>> {
        let backends: Vec<&str> = setup.catalog.iter().map(|backend| backend.id.as_str()).collect();
        let moves = Moves::configure(&setup.settings, &backends).map_err(|problems| {
            let problems = problems.into_iter();
            let problems = problems.map(|crate::Problem { path, message }| Problem { path, message });
            problems.collect::<Vec<_>>()
        })?;
        // The host configures an instance once; a second time changes nothing.
        MOVES.with(|cell| _ = cell.set(moves));
        Ok(())
    }

    fn describe() -> Manifest {
        MOVES.with(|cell| Manifest {
            name: "migrate".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: cell
                .get()
                .into_iter()
                .flat_map(Moves::tags)
                .map(|prefix| Tag {
                    prefix: prefix.to_owned(),
                    description: "Moves from one backend to another, some tenants at a time.".to_owned(),
                })
                .collect(),
            claims: Vec::new(),
            context: Vec::new(),
            settings_schema: Some(SCHEMA.to_owned()),
            attributes: Vec::new(),
        })
    }

    fn examples() -> Vec<Example> {
        let example = |title: &str, percent: u8, home: &str, former: &str| Example {
            title: title.to_owned(),
            setup: Setup {
                settings: format!(
                    r#"{{"t_": {{"from": {{"backend": "old"}}, "to": {{"backend": "new"}}, "percent": {percent}}}}}"#
                ),
                catalog: ["old", "new"].map(backend).into(),
                attributes: Vec::new(),
            },
            input: Request {
                tag: "t_".to_owned(),
                name: "a".to_owned(),
                operation: Operation::Write,
                tenant: "acme".to_owned(),
                claims: Vec::new(),
                context: Vec::new(),
                attributes: Vec::new(),
            },
            expected: Ok(decision(&Place::of(home), &Place::of(former))),
        };
        vec![
            example("nobody has moved, and both are read", 0, "old", "new"),
            example("everybody has moved, and both are read", 100, "new", "old"),
        ]
    }
}

impl router::Guest for Migrate {
    fn decide(request: Request) -> Result<Decision, Refusal> {
        with_places(&request, |[home, former]| decision(home, former))
    }

    fn enumerate(request: Request) -> Result<Vec<Placement>, Refusal> {
        with_places(&request, |places| places.map(placement).into())
    }
}

fn with_places<T>(request: &Request, f: impl FnOnce([&Place; 2]) -> T) -> Result<T, Refusal> {
    MOVES.with(|cell| {
        let places = cell.get().and_then(|moves| moves.places(&request.tag, &request.tenant));
        places
            .map(f)
            .ok_or_else(|| Refusal::Unplaced(format!("the settings name no move of {}", request.tag)))
    })
}

impl Place {
    fn of(backend: &str) -> Self {
        Self {
            backend: backend.to_owned(),
            namespace: String::new(),
        }
    }
}

fn decision(home: &Place, former: &Place) -> Decision {
    Decision {
        home: placement(home),
        former: vec![placement(former)],
        defaults: Vec::new(),
        reason: Some(format!(
            "written to {}, and read from {} too",
            home.backend, former.backend
        )),
    }
}

fn placement(place: &Place) -> Placement {
    Placement {
        backend: place.backend.clone(),
        scope: Scope::Tenant,
        namespace: place.namespace.clone(),
        cache: None,
        options: Vec::new(),
    }
}

fn backend(id: &str) -> BackendInfo {
    BackendInfo {
        id: id.to_owned(),
        kind: "embedded".to_owned(),
        max_value_bytes: 1 << 20,
        attributes: Vec::new(),
    }
}
