//! Any bytes as the `authorization` of a request verify nobody, on their own or as a part of a token that would; and a
//! token that is truly signed may claim anything.

#![no_main]

use std::cell::LazyCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use tagway::key::TenantId;
use tagway_fuzz::Issuer;

thread_local! {
    static ISSUER: LazyCell<Issuer> = LazyCell::default();
}

fuzz_target!(|data: &[u8]| {
    ISSUER.with(|issuer| {
        let verifies = |text: &[u8]| issuer.verify(text).is_some_and(|verified| verified.is_ok());
        assert!(!verifies(data));

        let genuine = issuer.token(&["acme".to_owned()], &serde_json::Map::new());
        let made_up = URL_SAFE_NO_PAD.encode(data);
        for replaced in 0..3 {
            let mut parts: Vec<&str> = genuine.split('.').collect();
            if std::mem::replace(&mut parts[replaced], &made_up) != made_up {
                assert!(!verifies(format!("Bearer {}", parts.join(".")).as_bytes()));
            }
        }

        let Ok(claims) = serde_json::from_slice(data) else {
            return;
        };
        let token = format!("Bearer {}", issuer.token(&[], &claims));
        if let Some(Ok(tenant)) = issuer.verify(token.as_bytes()) {
            assert_eq!(tenant.id().as_str().parse().as_ref(), Ok::<&TenantId, _>(tenant.id()));
        }
    });
});
