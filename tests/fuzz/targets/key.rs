//! Any text as a key, with any tags declared: what parses is the text itself, within its bounds, and found by each of its
//! beginnings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tagway::key::{KeyPrefix, NAME_BYTES, NAME_SEGMENTS, TAG_BYTES, Tags};

// The first line declares further tags; what follows is the key.
fuzz_target!(|data: &str| {
    let (declared, text) = data.split_once('\n').unwrap_or(("", data));
    let ordinary = ["a_", "a_b_", "tenant_config_"];
    let tags = Tags::new(
        ordinary
            .into_iter()
            .chain(declared.split(' '))
            .filter_map(|tag| tag.parse().ok()),
    );

    if let Ok(prefix) = text.parse::<KeyPrefix>() {
        assert_eq!(prefix.to_string(), text);
        assert!(text.len() <= TAG_BYTES + NAME_BYTES);
        for touched in tags.touched(&prefix) {
            let whole = format!("{}{}", touched.tag, touched.name_prefix);
            assert!(if touched.named {
                whole == text
            } else {
                whole.starts_with(text)
            });
        }
    }

    let Ok(key) = tags.parse(text) else { return };
    let (tag, name) = (key.tag().as_str(), key.name().as_str());
    assert_eq!(key.to_string(), text);
    assert_eq!(format!("{tag}{name}"), text);
    assert!(tag.ends_with('_') && tag.len() <= TAG_BYTES);
    assert!((1..=NAME_BYTES).contains(&name.len()) && name.split('/').count() <= NAME_SEGMENTS);
    assert!(name.split('/').all(|segment| !["", ".", ".."].contains(&segment)));
    // Get and List agree on where it belongs.
    for end in 0..=text.len() {
        let Ok(prefix) = text[..end].parse() else { continue };
        let touched = tags.touched(&prefix);
        assert!(
            touched
                .iter()
                .any(|part| part.tag == *key.tag() && name.starts_with(&*part.name_prefix))
        );
    }
});
