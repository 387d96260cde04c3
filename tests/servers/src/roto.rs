//! Roto: a second opinion on `DynamoDB` and Parameter Store, so that nothing is fitted to one emulator's quirks.

use std::path::Path;

use crate::server::Server;

/// One that runs. It knows no idempotency tokens, no Streams, and no old item on a failed condition.
pub struct Roto(Server);

impl Roto {
    /// One with nothing in it, that forgets everything when it ends.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["--ephemeral"])
    }

    /// One that keeps in `folder` what it acknowledged, and finds there what another kept before.
    #[must_use]
    pub fn start_in(folder: &Path) -> Self {
        let folder = folder.to_str().expect("folders of tests have plain names");
        Self::start_with(&["--durable", "--data-dir", folder])
    }

    fn start_with(arguments: &[&str]) -> Self {
        Self(Server::start(&[&["roto"], arguments].concat(), &[], "/roto-api/health"))
    }

    /// What goes into `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}
