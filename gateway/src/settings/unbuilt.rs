//! Keys of the contract whose part is not built yet. They parse, and are refused by name: a setting that is ignored
//! lies to whoever wrote it.

use toml::de::DeValue;

use super::Problem;
use super::document::Document;

/// A dotted path in which `*` stands for any one key, and the values that mean "without it".
const UNBUILT: &[(&str, &[&str])] = &[("strategies.*.class", &["strict"])];

/// One problem for each key that asks for a part that is not there.
pub(super) fn refuse(document: &Document<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    document.each(|path, _, value| {
        let Some((_, without)) = UNBUILT.iter().find(|(pattern, _)| matches(pattern, path)) else {
            return;
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Array(array) if array.is_empty() => "[]".to_owned(),
            _ => "another".to_owned(),
        };
        if without.contains(&text.as_str()) {
            return;
        }
        let fix = match without {
            [] => "leave it out".to_owned(),
            [""] => "leave it out, or empty".to_owned(),
            [only, ..] => format!("leave it out, or say {only}"),
        };
        problems.push(document.problem(path, format!("this part of the gateway is not built yet: {fix}")));
    });
    problems
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut path = path.split('.');
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(key)) if expected == "*" || expected == key => {}
            _ => return false,
        }
    }
}
