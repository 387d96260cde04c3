//! Any text as a page token opens nothing; what was sealed opens to what was sealed, and for nobody and nothing else.

#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use tagway::clock::Clock;
use tagway::config::PageTokens;
use tagway::identity::VerifiedTenant;
use tagway::internals::{open_page, seal_page};
use tagway::key::{NAME_BYTES, TAG_BYTES};
use tagway_fuzz::Issuer;

struct Fixture {
    tokens: PageTokens,
    acme: VerifiedTenant,
    globex: VerifiedTenant,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let issuer = Issuer::default();
    Fixture {
        tokens: PageTokens::new(b"a secret", Clock::system()).expect("AES works"),
        acme: issuer.tenant("acme"),
        globex: issuer.tenant("globex"),
    }
});

// The first line is the request; what follows is the token, and what is sealed.
fuzz_target!(|data: &str| {
    let (request, text) = data.split_once('\n').unwrap_or(("", data));
    let Fixture { tokens, acme, globex } = &*FIXTURE;
    assert_eq!(open_page(tokens, acme, request, text), None);
    assert_eq!(open_page(tokens, acme, request, &URL_SAFE_NO_PAD.encode(text)), None);

    let sealed = seal_page(tokens, acme, request, text).expect("sealed");
    if text.len() <= TAG_BYTES + NAME_BYTES {
        assert_eq!(open_page(tokens, acme, request, &sealed).as_deref(), Some(text));
    }
    assert_eq!(open_page(tokens, globex, request, &sealed), None);
    assert_eq!(open_page(tokens, acme, &format!("{request}_"), &sealed), None);
});
