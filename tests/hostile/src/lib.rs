//! A strategy that does whatever a strategy must not. The key's name says what; settings that hold `loop-configure`,
//! `loop-describe` or `trap-describe` have it done before it serves.

#![cfg(target_arch = "wasm32")]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::panic,
    reason = "a guest is generated code around bad manners"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

wit_bindgen::generate!({
    world: "strategy",
    path: "../../wit",
});

use exports::tagway::strategy::{lifecycle, router};
use tagway::strategy::types::{
    Attribute, Decision, Example, Manifest, Placement, Problem, Refusal, Request, Scope, Setup, Tag,
};

struct Hostile;

export!(Hostile);

/// What a call of an instance finds behind: nothing, if the host keeps its word.
static CALLS: AtomicU32 = AtomicU32::new(0);
static LOOPS_IN_DESCRIBE: AtomicU32 = AtomicU32::new(0);

impl lifecycle::Guest for Hostile {
    fn configure(setup: Setup) -> Result<(), Vec<Problem>> {
        if setup.settings.contains("loop-configure") {
            forever();
        }
        if setup.settings.contains("loop-describe") {
            LOOPS_IN_DESCRIBE.store(1, Ordering::Relaxed);
        }
        if setup.settings.contains("trap-describe") {
            LOOPS_IN_DESCRIBE.store(2, Ordering::Relaxed);
        }
        Ok(())
    }

    fn describe() -> Manifest {
        match LOOPS_IN_DESCRIBE.load(Ordering::Relaxed) {
            1 => forever(),
            2 => core::arch::wasm32::unreachable(),
            _ => {}
        }
        Manifest {
            name: "hostile".to_owned(),
            version: "0.1.0".to_owned(),
            tags: vec![Tag {
                prefix: "hostile_".to_owned(),
                description: String::new(),
            }],
            claims: Vec::new(),
            context: Vec::new(),
            settings_schema: None,
            attributes: Vec::new(),
        }
    }

    fn examples() -> Vec<Example> {
        Vec::new()
    }
}

impl router::Guest for Hostile {
    fn decide(request: Request) -> Result<Decision, Refusal> {
        let mut decision = Decision {
            home: placement("local", ""),
            former: Vec::new(),
            defaults: Vec::new(),
            reason: None,
        };
        match request.name.as_str() {
            "loop" => forever(),
            "memory" => hog(),
            "recursion" => {
                black_box(recurse(1));
            }
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("{}", "x".repeat(100 << 20)),
            "placements" => decision.former = vec![placement("local", "a"); 100_000],
            "string" => decision.reason = Some("x".repeat(8 << 20)),
            "reason" => decision.reason = Some("x".repeat(257)),
            // SAFETY: none; that is the point. The host reads the bytes and must not believe them.
            "utf8" => decision.reason = Some(unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, 0xc0, 0x80]) }),
            // SAFETY: none; it lies outside of the memory.
            "outside" => {
                decision.reason = Some(unsafe { String::from_raw_parts(0xffff_0000 as *mut u8, 0xffff, 0xffff) })
            }
            "unknown-backend" => decision.home.backend = "nowhere".to_owned(),
            "ungranted-backend" => decision.home.backend = "secret".to_owned(),
            "shared-home" => decision.home.scope = Scope::Shared,
            "option" => decision.home.options.push(Attribute {
                name: "tenant".to_owned(),
                value: "globex".to_owned(),
            }),
            "namespace-up" => decision.home.namespace = "../globex".to_owned(),
            "namespace-root" => decision.home.namespace = "/".to_owned(),
            "namespace-tag" => decision.home.namespace = "a_".to_owned(),
            "namespace-unicode" => decision.home.namespace = "ä".to_owned(),
            "namespace-nul" => decision.home.namespace = "a\0".to_owned(),
            "leftovers" => decision.reason = Some(format!("{} bytes", leftovers())),
            "refusal" => return Err(Refusal::Denied("\u{1b}[31m".repeat(100_000))),
            "counter" => {
                decision.reason = Some(CALLS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).to_string());
            }
            _ => {}
        }
        Ok(decision)
    }

    fn enumerate(request: Request) -> Result<Vec<Placement>, Refusal> {
        match request.name.as_str() {
            "loop" => forever(),
            "many" => return Ok(vec![placement("local", ""); 33]),
            "escape" => return Ok(vec![placement("local", "..")]),
            _ => {}
        }
        Ok(vec![placement("local", "")])
    }
}

fn placement(backend: &str, namespace: &str) -> Placement {
    Placement {
        backend: backend.to_owned(),
        scope: Scope::Tenant,
        namespace: namespace.to_owned(),
        cache: None,
        options: Vec::new(),
    }
}

fn forever() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Bytes of fresh memory that somebody wrote before; and leaves some behind.
fn leftovers() -> usize {
    const PAGES: usize = 8;
    const WORDS: usize = PAGES * 65536 / 8;
    let page = core::arch::wasm32::memory_grow(0, PAGES);
    // SAFETY: these pages are this instance's since a moment ago, and nobody's before.
    let fresh = unsafe { std::slice::from_raw_parts_mut((page * 65536) as *mut u64, WORDS) };
    let found = fresh.iter().filter(|word| **word != 0).count() * 8;
    fresh.fill(black_box(0x0073_6563_7265_7421));
    black_box(&fresh[0]);
    found
}

/// Takes and touches memory until there is no more.
fn hog() {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![1; 1 << 20]));
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(n: u64) -> u64 {
    black_box(recurse(black_box(n) + 1)) + 1
}
