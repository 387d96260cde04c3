//! A settings file together with the variables that override it: what a key says, and where it was said.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::Problem;

/// The beginning of every variable of ours.
const PREFIX: &str = "TAGWAY_";
/// What separates tables in a variable's name, so that keys may hold single underscores.
const SEPARATOR: &str = "__";
/// Variables that are the command line's and no settings.
const OF_THE_COMMAND_LINE: [&str; 9] = [
    "TAGWAY_ADMIN_ENDPOINT",
    "TAGWAY_ADMIN_TOKEN",
    "TAGWAY_CONFIG",
    "TAGWAY_ENDPOINT",
    "TAGWAY_TENANT",
    "TAGWAY_TLS_CA",
    "TAGWAY_TLS_CERT",
    "TAGWAY_TLS_KEY",
    "TAGWAY_TOKEN",
];

/// A parsed file with its variables on top.
pub(super) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    /// Variables that override. The n-th one's keys have the n-th span behind the text's end.
    variables: Vec<&'t str>,
}

impl<'t> Document<'t> {
    /// Parses `text`, which came from `file`, and lays `variables` over it.
    pub(super) fn parse(file: &'t str, text: &'t str, variables: &'t [(String, String)]) -> Result<Self, Vec<Problem>> {
        let mut document = Self {
            file,
            text,
            root: Spanned::new(0..0, DeTable::default()),
            variables: Vec::new(),
        };
        document.root = DeTable::parse(text).map_err(|error| vec![document.problem_of(&error)])?;
        let problems: Vec<Problem> = variables
            .iter()
            .filter_map(|(name, value)| document.lay_over(name, value).err())
            .collect();
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(problems)
        }
    }

    /// Reads the whole as `T`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<Problem>> {
        T::deserialize(Deserializer::from(self.root.clone())).map_err(|error| vec![self.problem_of(&error)])
    }

    /// A problem with `key`, and where it stands.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let mut span = None;
        self.each(|path, key_span, _| {
            // The key itself, or the nearest table around it that was written down.
            if key == path || key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')) {
                span = Some(key_span);
            }
        });
        self.problem_at(key.to_owned(), span, message.into())
    }

    /// Calls `f` with the dotted path, the span and the value of every key that is set, tables included.
    pub(super) fn each(&self, mut f: impl FnMut(&str, Range<usize>, &Spanned<DeValue<'t>>)) {
        walk(self.root.get_ref(), "", &mut f);
    }

    fn problem_of(&self, error: &toml::de::Error) -> Problem {
        let span = error.span();
        let mut key = String::new();
        if let Some(at) = &span {
            self.each(|path, key_span, value| {
                if key_span.contains(&at.start) || value.span().contains(&at.start) {
                    path.clone_into(&mut key);
                }
            });
        }
        self.problem_at(key, span, error.message().to_owned())
    }

    fn problem_at(&self, key: String, span: Option<Range<usize>>, message: String) -> Problem {
        let place = match span {
            Some(span) if span.start > self.text.len() => {
                let variable = self.variables.get(span.start - self.text.len() - 1);
                (*variable.unwrap_or(&self.file)).to_owned()
            }
            Some(span) => {
                let line = self.text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
                format!("{}:{line}", self.file)
            }
            None => self.file.to_owned(),
        };
        Problem { place, key, message }
    }

    /// Sets the key that the variable names.
    fn lay_over(&mut self, name: &'t str, value: &'t str) -> Result<(), Problem> {
        let Some(path) = name.strip_prefix(PREFIX) else {
            return Ok(());
        };
        if OF_THE_COMMAND_LINE.contains(&name) || is_service_link(path) {
            return Ok(());
        }
        let problem = |key: String, message: String| Problem {
            place: name.to_owned(),
            key,
            message,
        };
        let path = path.to_lowercase();
        let keys: Vec<&str> = path.split(SEPARATOR).collect();
        let (Some((last, parents)), true) = (keys.split_last(), keys.len() > 1) else {
            return Err(problem(
                String::new(),
                "names no setting; a variable is TAGWAY_<TABLE>__<KEY>, as in TAGWAY_SERVER__LISTEN".to_owned(),
            ));
        };
        self.variables.push(name);
        let at = self.text.len() + self.variables.len();
        let spanned = |key: &str| Spanned::new(at..at + 1, Cow::Owned(key.to_owned()));
        // What reads as a TOML value is one; everything else is a string, so that no quotes are needed for it.
        let value = match DeValue::parse(value) {
            Ok(parsed) if !parsed.get_ref().is_datetime() => all_at(parsed.into_inner(), at),
            _ => DeValue::String(Cow::Borrowed(value)),
        };
        let mut table = self.root.get_mut();
        for key in parents {
            let inner = table
                .entry(spanned(key))
                .or_insert_with(|| Spanned::new(at..at + 1, DeValue::Table(DeTable::default())));
            let DeValue::Table(inner) = inner.get_mut() else {
                return Err(problem(path.replace(SEPARATOR, "."), format!("`{key}` is not a table")));
            };
            table = inner;
        }
        // A map keeps the key that it has: out with it, so that the span is the variable's.
        table.remove(&spanned(last));
        table.insert(spanned(last), Spanned::new(at..at + 1, value));
        Ok(())
    }
}

/// Kubernetes tells every pod of a service called `tagway...` in variables of its own.
fn is_service_link(name: &str) -> bool {
    let link = ["SERVICE_HOST", "SERVICE_PORT", "PORT"];
    let of = |part: &str| name == part || name.ends_with(&format!("_{part}"));
    let longer = ["SERVICE_PORT_", "PORT_"]
        .into_iter()
        .any(|part| name.starts_with(part) || name.contains(&format!("_{part}")));
    !name.contains(SEPARATOR) && (longer || link.into_iter().any(of))
}

/// The value with the variable's span throughout, in place of the spans within the variable's text.
fn all_at<'t>(value: DeValue<'t>, at: usize) -> DeValue<'t> {
    let spanned = |value: Spanned<DeValue<'t>>| Spanned::new(at..at + 1, all_at(value.into_inner(), at));
    match value {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(spanned).collect()),
        DeValue::Table(table) => {
            let entries = table.into_iter();
            let entries = entries.map(|(key, value)| (Spanned::new(at..at + 1, key.into_inner()), spanned(value)));
            DeValue::Table(entries.collect())
        }
        other => other,
    }
}

/// Visits every key in depth-first order.
fn walk<'t>(table: &DeTable<'t>, path: &str, f: &mut impl FnMut(&str, Range<usize>, &Spanned<DeValue<'t>>)) {
    for (key, value) in table {
        let path = if path.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{path}.{}", key.get_ref())
        };
        f(&path, key.span(), value);
        if let DeValue::Table(inner) = value.get_ref() {
            walk(inner, &path, f);
        }
    }
}
