//! What is refused before it ever runs, and what the host remembers. Hostile components that do run are the
//! whole-system tests' own.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use wasmtime::component::{Component, Linker};

use super::component::Prepared;
use super::limits::Limits;
use super::*;
use crate::settings::StrategyLimits;

const LIMIT: u64 = 1 << 20;

fn refused(bytes: &[u8]) -> RefusedComponent {
    let engine = Engine::new().unwrap();
    match Prepared::compile(&engine, bytes, LIMIT) {
        Ok(_) => panic!("it must not pass"),
        Err(refused) => refused,
    }
}

#[test]
fn a_function_import_is_refused_by_its_name() {
    for (text, name) in [
        (r#"(component (import "now" (func (result u64))))"#, "now"),
        (
            r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64))))))"#,
            "wasi:clocks/wall-clock@0.2.0#now",
        ),
        (
            r#"(component (import "a:b/c" (instance (export "r" (type (sub resource))))))"#,
            "a:b/c#r",
        ),
        (r#"(component (import "m" (core module)))"#, "m"),
    ] {
        match refused(&wat::parse_str(text).unwrap()) {
            RefusedComponent::Import(import) => assert_eq!(import, name),
            other => panic!("{text}: {other}"),
        }
    }
    // Types alone are no import of anything.
    let types =
        r#"(component (import "a:b/types" (instance (type (record (field "x" u8))) (export "r" (type (eq 0))))))"#;
    assert!(matches!(
        refused(&wat::parse_str(types).unwrap()),
        RefusedComponent::World(_)
    ));
}

#[test]
fn what_is_no_component_is_refused() {
    assert_eq!(refused(b""), RefusedComponent::NotWasm);
    assert_eq!(
        refused(b"(component)"),
        RefusedComponent::NotWasm,
        "the text format is not read"
    );
    assert_eq!(
        refused(&wat::parse_str("(module)").unwrap()),
        RefusedComponent::CoreModule
    );
    assert!(matches!(
        refused(&wat::parse_str("(component)").unwrap()),
        RefusedComponent::World(_)
    ));
    let whole = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
    for length in 8..whole.len() {
        // Cut anywhere it is refused, and nothing panics.
        _ = refused(&whole[..length]);
    }
    let size = RefusedComponent::Size {
        size: 2 << 20,
        limit: LIMIT,
    };
    assert_eq!(refused(&vec![0; 2 << 20]), size);
}

#[test]
fn a_small_file_that_becomes_a_large_one_is_refused() {
    use std::fmt::Write as _;
    let mut text = "(component (component $c0)".to_owned();
    for level in 1..10 {
        let twenty = format!("(instance (instantiate $c{}))", level - 1).repeat(20);
        _ = write!(text, "(component $c{level} {twenty})");
    }
    let bomb = wat::parse_str(text + "(instance (instantiate $c9)))").unwrap();
    assert!(bomb.len() < 4096, "{} bytes", bomb.len());
    assert_eq!(refused(&bomb), RefusedComponent::Instances(181));
}

#[test]
fn native_code_is_refused() {
    let engine = Engine::new().unwrap();
    let component = wat::parse_str("(component)").unwrap();
    let native = engine.wasmtime().precompile_component(&component).unwrap();
    assert_eq!(refused(&native), RefusedComponent::Precompiled);
}

/// Instantiates a component with one core module, within the limits of a call.
fn instantiated(module: &str) -> wasmtime::Result<()> {
    let engine = Engine::new().unwrap();
    let text = format!("(component (core module $m {module}) (core instance (instantiate $m)))");
    let component = Component::from_binary(engine.wasmtime(), &wat::parse_str(text).unwrap())?;
    let mut store = Limits::new(&StrategyLimits::default(), 1 << 20).store(&engine)?;
    let linker = Linker::new(engine.wasmtime());
    linker.instantiate(&mut store, &component).map(drop)
}

#[test]
fn a_table_grows_no_further_than_its_limit() {
    // Grows a table by $1, and traps if that was granted ($2 = 1) or refused ($2 = 0).
    let grow = |by: usize, trap_if_granted: u8| {
        format!(
            "(table 1 funcref)
             (func $f (if (i32.eq (i32.const {trap_if_granted})
                 (i32.ne (i32.const -1) (table.grow (ref.null func) (i32.const {by}))))
                 (then unreachable)))
             (start $f)"
        )
    };
    instantiated(&grow(9_000, 0)).unwrap();
    for hog in [10_000, 1_000_000] {
        instantiated(&grow(hog, 1)).unwrap();
    }
    // To ask for very many costs more fuel than there is.
    assert!(instantiated(&grow(100_000_000, 1)).is_err());
    // One that is born larger is not instantiated at all.
    assert!(instantiated("(table 1000000 funcref)").is_err());
    // Many small ones are no way around it.
    let many = "(table 1 funcref)".repeat(20);
    assert!(instantiated(&many).is_err());
}
