//! Isolation: what a tenant is shown is its own. Who writes puts the tenant's name before each value.

use super::Verdict;

/// Looks at values.
pub struct Isolation {
    /// What is to be said so far.
    pub verdict: Verdict,
}

impl Default for Isolation {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Isolation"),
        }
    }
}

impl Isolation {
    /// `tenant` was shown this value at `key`.
    pub fn saw(&mut self, tenant: &str, key: &str, value: &[u8]) {
        let own = value.strip_prefix(tenant.as_bytes());
        let is_own = own.is_some_and(|rest| rest.first() == Some(&b' '));
        let breach = || format!("{tenant} was shown {:?} at {key}", String::from_utf8_lossy(value));
        self.verdict.judge((!is_own).then(breach));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anothers_value_is_noticed() {
        let mut isolation = Isolation::default();
        isolation.saw("acme", "t_a", b"acme 1");
        assert_eq!((isolation.verdict.judged, isolation.verdict.broken), (1, 0));
        isolation.saw("acme", "t_a", b"globex 1");
        isolation.saw("acme", "t_a", b"acme-2 1");
        assert_eq!((isolation.verdict.judged, isolation.verdict.broken), (3, 2));
    }
}
