//! Any text as a settings file, and any variables over it, are settings or an error that says what is wrong.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tagway::settings::Settings;

// Behind a NUL, which no TOML holds, a variable's name and, behind another, its value; and so on.
fuzz_target!(|data: &str| {
    let mut parts = data.split('\0').map(str::to_owned);
    let text = parts.next().unwrap_or_default();
    let variables: Vec<(String, String)> = std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect();
    if let Err(error) = Settings::parse("tagway.toml", &text, variables) {
        assert!(!error.0.is_empty());
        assert!(
            error
                .0
                .iter()
                .all(|problem| !problem.place.is_empty() && !problem.message.is_empty())
        );
    }
});
