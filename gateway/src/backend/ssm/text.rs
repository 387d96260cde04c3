//! Values as text. Parameter Store keeps text and not what it is, and other programs read it: so what is said to be JSON
//! and parses stands as it is, and so does text that does not. Everything else is a `data:` URL (RFC 2397).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode, utf8_percent_encode};
use serde::de::IgnoredAny;

const SCHEME: &str = "data:";
const BASE64: &str = ";base64";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
/// What a URL without a type means (RFC 2397).
const UNTYPED: &str = "text/plain;charset=US-ASCII";

/// What would end a type, or be lost in one.
const IN_TYPE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'%')
    .add(b',')
    .add(b'"')
    .add(b'#')
    .add(b'{')
    .add(b'}');
/// What Parameter Store, or whoever reads the URL, would take for something else.
const IN_DATA: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'#').add(b'{').add(b'}');

/// As it is kept. Never empty.
pub(super) fn write(value: &Bytes, content_type: &str) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if stands_as_it_is(text) && content_type == inferred(text) => text.to_owned(),
        readable => wrapped(value, readable.is_ok(), content_type),
    }
}

/// What was kept, whoever wrote it.
pub(super) fn read(kept: &str) -> (Bytes, String) {
    unwrapped(kept).unwrap_or_else(|| (Bytes::copy_from_slice(kept.as_bytes()), inferred(kept).to_owned()))
}

/// What can be kept, and read for what it is. A value is not empty and has no double braces, in which Parameter Store
/// sees another parameter's name (API reference, `PutParameter`).
fn stands_as_it_is(text: &str) -> bool {
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    !text.is_empty() && !begins_a_url(text) && !text.contains("{{") && text.chars().all(printable)
}

fn begins_a_url(text: &str) -> bool {
    text.get(..SCHEME.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(SCHEME))
}

fn inferred(text: &str) -> &'static str {
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        JSON
    } else {
        TEXT
    }
}

fn wrapped(value: &Bytes, readable: bool, content_type: &str) -> String {
    let mut content_type = utf8_percent_encode(content_type, IN_TYPE).to_string();
    if ends_in_base64(&content_type) {
        // It is a part of the type, and says nothing of the data.
        let at = content_type.len() - BASE64.len();
        content_type.replace_range(at..=at, "%3B");
    }
    let base64 = || format!("{SCHEME}{content_type}{BASE64},{}", BASE64_STANDARD.encode(value));
    if !readable {
        return base64();
    }
    // Legible, unless that takes too much.
    let plain = format!("{SCHEME}{content_type},{}", percent_encode(value, IN_DATA));
    let base64 = base64();
    if plain.len() <= base64.len() { plain } else { base64 }
}

/// None: it is no such URL.
fn unwrapped(kept: &str) -> Option<(Bytes, String)> {
    if !begins_a_url(kept) {
        return None;
    }
    let (content_type, data) = kept[SCHEME.len()..].split_once(',')?;
    let base64 = ends_in_base64(content_type);
    let content_type = if base64 {
        &content_type[..content_type.len() - BASE64.len()]
    } else {
        content_type
    };
    let content_type = match percent_decode_str(content_type).decode_utf8().ok()? {
        untyped if untyped.is_empty() => UNTYPED.to_owned(),
        parameters if parameters.starts_with(';') => format!("{TEXT}{parameters}"),
        content_type => content_type.into_owned(),
    };
    let data: Vec<u8> = percent_decode_str(data).collect();
    let data = if base64 {
        BASE64_STANDARD.decode(data).ok()?
    } else {
        data
    };
    Some((data.into(), content_type))
}

fn ends_in_base64(content_type: &str) -> bool {
    content_type
        .len()
        .checked_sub(BASE64.len())
        .and_then(|at| content_type.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(BASE64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(value: &str, content_type: &str) -> String {
        write(&Bytes::copy_from_slice(value.as_bytes()), content_type)
    }

    #[test]
    fn what_people_write_stands_as_it_is() {
        for (value, content_type) in [
            ("{\"a\": 1}", JSON),
            ("100", JSON),
            ("hello, world\n", TEXT),
            ("a: 1\nb: [x]", TEXT),
            ("Grüße {name}", TEXT),
            ("50%", TEXT),
        ] {
            assert_eq!(kept(value, content_type), value);
            assert_eq!(read(value), (value.into(), content_type.to_owned()));
        }
    }

    #[test]
    fn what_could_not_be_told_is_a_url_that_people_can_read() {
        for (value, content_type, expected) in [
            ("100", TEXT, "data:text/plain,100"),
            ("not json", JSON, "data:application/json,not%20json"),
            ("a: 1", "application/yaml", "data:application/yaml,a:%201"),
            ("", TEXT, "data:text/plain,"),
            ("data:,x", TEXT, "data:text/plain,data:,x"),
            ("DATA:,x", TEXT, "data:text/plain,DATA:,x"),
            ("Hi {{name}}", TEXT, "data:text/plain,Hi%20%7B%7Bname%7D%7D"),
            (
                "x",
                "text/html; charset=\"utf-8\"",
                "data:text/html;%20charset=%22utf-8%22,x",
            ),
            ("x", "text/plain;base64", "data:text/plain%3Bbase64,x"),
        ] {
            assert_eq!(kept(value, content_type), expected);
            assert_eq!(read(expected), (value.into(), content_type.to_owned()));
        }
        let bytes = Bytes::from_static(&[0, 0xff, 0x80]);
        assert_eq!(write(&bytes, "image/png"), "data:image/png;base64,AP+A");
    }

    #[test]
    fn what_others_wrote_is_read_for_what_it_is() {
        for (kept, value, content_type) in [
            ("data:,a%20b", "a b", UNTYPED),
            ("data:;charset=utf-8,a", "a", "text/plain;charset=utf-8"),
            ("Data:text/plain;BASE64,YQ==", "a", TEXT),
            ("data: no url", "data: no url", TEXT),
            (
                "data:text/plain;base64,not base64",
                "data:text/plain;base64,not base64",
                TEXT,
            ),
            ("a,b,c", "a,b,c", TEXT),
        ] {
            assert_eq!(read(kept), (value.into(), content_type.to_owned()), "{kept}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            value in prop_oneof![any::<Vec<u8>>(), "\\PC*".prop_map(String::into_bytes), "(data:|DATA:)?[a-z;,%{}\"#/]*".prop_map(String::into_bytes)],
            content_type in prop_oneof!["application/json", "text/plain", "[a-z]+/[ -~]*[!-~]"],
        ) {
            let value = Bytes::from(value);
            let kept = write(&value, &content_type);
            prop_assert!(!kept.is_empty() && !kept.contains("{{"));
            prop_assert_eq!(read(&kept), (value, content_type));
        }
    }
}
