//! Agreement: a list is the set of keys that Get finds, and its pages neither skip nor repeat what stands throughout. Convergence: when
//! changes stop, a watcher holds what a list shows.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;

/// Keys, and the etag of each.
pub type Held = BTreeMap<String, String>;

/// Compares lists with Gets, with one another, and with what must be in them.
pub struct Agreement {
    /// What is to be said so far.
    pub verdict: Verdict,
}

/// Compares watchers with lists.
pub struct Convergence {
    /// What is to be said so far.
    pub verdict: Verdict,
}

impl Default for Agreement {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Agreement"),
        }
    }
}

impl Default for Convergence {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Convergence"),
        }
    }
}

impl Agreement {
    /// All pages of a list together were that, while these stood throughout.
    pub fn walked(&mut self, whose: &str, listed: &[String], stood: &[String]) {
        let set: BTreeSet<&String> = listed.iter().collect();
        let missed = stood.iter().find(|key| !set.contains(key));
        let breach = match missed {
            Some(missed) => Some(format!("{whose}: {missed} stood all the while and was skipped")),
            None if set.len() < listed.len() => Some(format!("{whose}: a key comes twice in {listed:?}")),
            None => None,
        };
        self.verdict.judge(breach);
    }

    /// When nothing changed, that is what both were.
    pub fn compared(&mut self, difference: Option<String>) {
        self.verdict.judge(difference);
    }
}

impl Convergence {
    /// When nothing had changed for long enough, that is what a watcher and a list were.
    pub fn compared(&mut self, difference: Option<String>) {
        self.verdict.judge(difference);
    }

    /// A watch did what none may.
    pub fn broken(&mut self, how: String) {
        self.verdict.judge(Some(how));
    }
}

/// What one of two holds and the other does not.
#[must_use]
pub fn difference(one: (&str, &Held), other: (&str, &Held)) -> Option<String> {
    let keys: BTreeSet<&String> = one.1.keys().chain(other.1.keys()).collect();
    let differ: Vec<String> = keys
        .into_iter()
        .filter(|key| one.1.get(*key) != other.1.get(*key))
        .map(|key| format!("{key} is {:?} and {:?}", one.1.get(key), other.1.get(key)))
        .collect();
    (!differ.is_empty()).then(|| format!("{} and {}: {}", one.0, other.0, differ.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(keys: &[(&str, &str)]) -> Held {
        let owned = |(key, etag): &(&str, &str)| ((*key).to_owned(), (*etag).to_owned());
        keys.iter().map(owned).collect()
    }

    #[test]
    fn pages_that_skip_or_repeat_are_noticed() {
        let mut agreement = Agreement::default();
        let keys = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
        agreement.walked("acme", &keys(&["a", "b", "c"]), &keys(&["a", "b"]));
        assert_eq!((agreement.verdict.judged, agreement.verdict.broken), (1, 0));
        agreement.walked("acme", &keys(&["a", "c"]), &keys(&["a", "b"]));
        agreement.walked("acme", &keys(&["a", "b", "b"]), &keys(&["a", "b"]));
        assert_eq!((agreement.verdict.judged, agreement.verdict.broken), (3, 2));
    }

    #[test]
    fn what_differs_is_noticed() {
        let (mut agreement, mut convergence) = (Agreement::default(), Convergence::default());
        let stands = held(&[("a", "1"), ("b", "1")]);
        for (other, broken) in [
            (stands.clone(), 0),
            (held(&[("a", "1"), ("b", "2")]), 1),
            (held(&[("a", "1")]), 2),
        ] {
            agreement.compared(difference(("a list", &stands), ("Gets", &other)));
            convergence.compared(difference(("a list", &stands), ("a watcher", &other)));
            assert_eq!((agreement.verdict.broken, convergence.verdict.broken), (broken, broken));
        }
        convergence.broken("a subscription ended".to_owned());
        assert_eq!((convergence.verdict.judged, convergence.verdict.broken), (4, 3));
    }
}
