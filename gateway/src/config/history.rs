//! Earlier versions of a key.

use super::list::PAGE_BYTES;
use super::{Config, ConfigError, Configs, Keyed, Scope, check_history};
use crate::identity::Reader;
use crate::strategy::{Context, Operation};

/// What a look into the past asks for.
#[derive(Debug, Clone)]
pub struct HistoryRequest<'r> {
    /// Whose past.
    pub key: &'r str,
    /// At most so many; at least 1.
    pub page_size: usize,
    /// Where the page before ended. Empty: from what stands.
    pub page_token: &'r str,
    /// For the strategy.
    pub context: &'r Context,
    /// What is addressed.
    pub scope: Scope,
}

/// A page, the newest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What stood.
    pub versions: Vec<Config>,
    /// The way to the next page. Empty: that was all.
    pub next_page_token: String,
}

impl Configs {
    /// A page of what stands and stood at `key` in the place that answers now, as far back as its store keeps it.
    pub async fn history(&self, reader: &Reader, request: HistoryRequest<'_>) -> Result<History, ConfigError> {
        let snapshot = self.registry.current();
        let (context, scope) = (request.context, request.scope);
        let Keyed { key, placed, .. } =
            Self::place(&snapshot, reader, request.key, Operation::Read, context, scope).await?;
        for (origin, place) in self.past(reader, &placed).await? {
            let backend = self.backend(&place.backend)?;
            check_history(backend)?;
            // A position is one in this very place.
            let bound = (
                "history",
                key.to_string(),
                context,
                &*place.backend,
                place.name.to_string(),
            );
            let after = if request.page_token.is_empty() {
                String::new()
            } else {
                match self.page_tokens.open(reader, &bound, request.page_token) {
                    Some(after) => after,
                    None => continue,
                }
            };
            // Half of a page for values leaves the other half for a last one that is large.
            let page = backend
                .history(reader, &place.name, &after, request.page_size, PAGE_BYTES / 2)
                .await?;
            if page.entries.is_empty() && after.is_empty() {
                continue;
            }
            let next = page.next.map(|next| self.page_tokens.seal(reader, &bound, &next));
            let config = |entry| Config::new(&key, origin, place, entry);
            return Ok(History {
                versions: page.entries.into_iter().map(config).collect(),
                next_page_token: next.transpose()?.unwrap_or_default(),
            });
        }
        Err(if request.page_token.is_empty() {
            ConfigError::NotFound
        } else {
            ConfigError::PageToken
        })
    }
}
