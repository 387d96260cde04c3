//! A strategy's file, checked and compiled: what can be instantiated, and nothing else.

use wasmparser::{BinaryReaderError, Parser, Payload};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};

use super::engine::Engine;
use super::limits::{CallError, Guest, Limits, first_lines, processor_time};
use crate::wit;

/// Why a file is no strategy that runs here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedComponent {
    /// Too large.
    #[error("it has {size} bytes, more than its limit of {limit}")]
    Size {
        /// What it has.
        size: usize,
        /// What it may have.
        limit: u64,
    },
    /// Native code is trusted by whoever runs it. Only wasm is accepted.
    #[error("it is precompiled; give the .wasm itself")]
    Precompiled,
    /// Something else.
    #[error("it is no WebAssembly: it does not begin with \\0asm")]
    NotWasm,
    /// A module of wasm's first kind.
    #[error("it is a core module and no component; wrap it, as plugins/builder does")]
    CoreModule,
    /// A small file that would become a large one: whoever compiles it lays out each instance of an instance.
    #[error("it instantiates {0} components and modules; a strategy has a few")]
    Instances(usize),
    /// Not wasm, or wasm that does not validate.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// It wants something of the host.
    #[error("it imports the function `{0}`; a strategy is pure and imports none")]
    Import(String),
    /// Another world.
    #[error("it does not export the world `tagway:strategy/strategy`: {0}")]
    World(String),
    /// Parts of the contract that are not served yet.
    #[error("it exports a validator, which this gateway does not ask yet")]
    Validator,
}

/// Most instances that a component may name, in all that is nested in it. What bindings make has fewer than ten.
const INSTANCES: usize = 32;

/// How many instances a component names. Nested ones multiply when they are laid out, which nothing else bounds: of 32 there are no
/// more than 3^11.
fn instances(bytes: &[u8]) -> Result<usize, BinaryReaderError> {
    let mut instances = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        instances += match payload? {
            Payload::ComponentInstanceSection(section) => section.count() as usize,
            Payload::InstanceSection(section) => section.count() as usize,
            _ => 0,
        };
    }
    Ok(instances)
}

/// Compiled, and ready to be instantiated once a call.
#[derive(Clone)]
pub(super) struct Prepared {
    engine: Engine,
    pre: wit::StrategyPre<wasmtime::StoreLimits>,
}

impl Prepared {
    /// Checks and compiles. It takes tens of milliseconds and has been known to panic on malformed bytes: run it on a
    /// thread that may.
    pub(super) fn compile(engine: &Engine, bytes: &[u8], limit: u64) -> Result<Self, RefusedComponent> {
        if bytes.len() as u64 > limit {
            return Err(RefusedComponent::Size {
                size: bytes.len(),
                limit,
            });
        }
        if wasmtime::Engine::detect_precompiled(bytes).is_some() {
            return Err(RefusedComponent::Precompiled);
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(RefusedComponent::NotWasm);
        }
        // The version field: 1 and layer 0 is a core module, layer 1 a component.
        if bytes.starts_with(b"\0asm\x01\0\0\0") {
            return Err(RefusedComponent::CoreModule);
        }
        let instances = instances(bytes).map_err(|error| RefusedComponent::Compile(error.to_string()))?;
        if instances > INSTANCES {
            return Err(RefusedComponent::Instances(instances));
        }
        // `from_binary` and not `new`: the latter reads the text format and precompiled files too.
        let component = Component::from_binary(engine.wasmtime(), bytes)
            .map_err(|error| RefusedComponent::Compile(first_lines(&format!("{error:#}"))))?;
        if let Some(import) = imported_function(engine, &component) {
            return Err(RefusedComponent::Import(import));
        }
        let exports = component.component_type();
        if exports
            .exports(engine.wasmtime())
            .any(|(name, _)| name.starts_with("tagway:strategy/validator"))
        {
            return Err(RefusedComponent::Validator);
        }
        let world = |error: wasmtime::Error| RefusedComponent::World(first_lines(&format!("{error:#}")));
        // An empty linker: there is nothing to link to.
        let linker = Linker::new(engine.wasmtime());
        let pre = linker.instantiate_pre(&component).map_err(world)?;
        Ok(Self {
            engine: engine.clone(),
            pre: wit::StrategyPre::new(pre).map_err(world)?,
        })
    }

    /// Instantiates, hands `f` the instance, and throws it away: nothing of one call is left for the next, and a trap
    /// poisons nothing but its own store. Where requests are served the caller holds one of the engine's slots.
    pub(super) fn call<T>(
        &self,
        limits: &Limits,
        f: impl FnOnce(&mut Guest, &wit::Strategy) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let mut store = limits
            .store(&self.engine)
            .map_err(|error| CallError::Trap(first_lines(&format!("{error:#}"))))?;
        let begun = processor_time();
        let result = self
            .pre
            .instantiate(&mut store)
            .and_then(|instance| f(&mut store, &instance));
        result.map_err(|error| limits.explain(processor_time().saturating_sub(begun), &error))
    }

    /// As [`Self::call`], after `configure` has accepted `setup` as it did before.
    pub(super) fn call_configured<T>(
        &self,
        limits: &Limits,
        setup: &wit::Setup,
        f: impl FnOnce(&mut Guest, &wit::Strategy) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let answer = self.call(limits, |store, instance| {
            match instance
                .tagway_strategy_lifecycle()
                .call_configure(&mut *store, setup)?
            {
                Ok(()) => f(store, instance).map(Ok),
                Err(problems) => Ok(Err(problems)),
            }
        })?;
        answer.map_err(|problems| CallError::Unconfigured(describe(&problems)))
    }
}

/// Problems as one line.
pub(super) fn describe(problems: &[wit::Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .take(8)
        .map(|problem| match problem.path.as_str() {
            "" => problem.message.clone(),
            path => format!("{path}: {}", problem.message),
        })
        .collect();
    first_lines(&lines.join("; "))
}

/// The first function that the component wants from outside, however deep in an interface.
fn imported_function(engine: &Engine, component: &Component) -> Option<String> {
    let ty = component.component_type();
    let mut pending: Vec<(String, ComponentItem)> = ty
        .imports(engine.wasmtime())
        .map(|(name, item)| (name.to_owned(), item.ty))
        .collect();
    while let Some((name, item)) = pending.pop() {
        match item {
            ComponentItem::Type(_) => {}
            ComponentItem::ComponentInstance(instance) => {
                let parts = instance.exports(engine.wasmtime());
                pending.extend(parts.map(|(part, item)| (format!("{name}#{part}"), item.ty)));
            }
            // A function; or a resource, module or component, which are made of them.
            _ => return Some(first_lines(&name)),
        }
    }
    None
}
