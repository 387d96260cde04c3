//! Any bytes as a strategy's component are refused or accepted, by way of the registry: where the compiler panics, that
//! is a refusal too.

#![no_main]

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::panic;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tagway::app::strategy_catalog;
use tagway::settings::development::development;
use tagway::settings::{Settings, Source};
use tagway::strategy::{Engine, Registry};
use tokio::runtime::Runtime;

struct Fixture {
    engine: Engine,
    settings: Settings,
    component: File,
    runtime: Runtime,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let mut settings = development(Path::new("nowhere"), []).expect("settings");
    let component = tempfile::tempfile().expect("a file");
    for strategy in settings.strategies.values_mut() {
        // A file without a name is found nowhere else, and gone with the process.
        strategy.source = Source::File(format!("/proc/self/fd/{}", component.as_raw_fd()).into());
        // What is accepted is called; this is enough for a call and little for a loop.
        strategy.limits.fuel = 500_000;
    }
    Fixture {
        engine: Engine::new().expect("an engine"),
        settings,
        component,
        runtime: tagway_fuzz::runtime(),
    }
});

fuzz_target!(
    // libFuzzer's hook ends the process at every panic; one that the gateway catches is none of ours. Others still reach
    // libFuzzer, which then ends it.
    init: drop(panic::take_hook()),
    |data: &[u8]| {
        let fixture = &*FIXTURE;
        let mut component = &fixture.component;
        component.set_len(0).expect("truncated");
        component.rewind().expect("rewound");
        component.write_all(data).expect("written");
        let (settings, catalog) = (&fixture.settings, strategy_catalog(&fixture.settings));
        let loading = Registry::load(&fixture.engine, &settings.strategies, &settings.limits, &catalog);
        let loaded = fixture.runtime.block_on(loading).current();
        assert_eq!(loaded.serves(), loaded.rejected().next().is_none());
    }
);
