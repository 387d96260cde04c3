//! Takes so many requests at once and no more: one too many is told at once, and waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::around::{Around, Next};
use super::peer::Peer;
use super::status;
use super::taken::{self, Lasts};

/// After a drain has nothing left to do: for clients to learn that their connection goes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is under way.
#[derive(Clone)]
pub(super) struct InFlight {
    places: Arc<Semaphore>,
    /// For what has no end: it keeps nobody's answer from anybody.
    lasting: Arc<Semaphore>,
    requests: TaskTracker,
}

impl InFlight {
    pub(super) fn new(at_once: u32, lasting: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once as usize)),
            lasting: Arc::new(Semaphore::new(lasting)),
            requests: TaskTracker::new(),
        }
    }

    /// How many more there may be.
    pub(super) fn places(&self) -> usize {
        self.places.available_permits()
    }

    /// Waits until nothing is under way and nothing new came for a moment. Until then everything is served.
    pub(super) async fn ended(&self) {
        self.requests.close();
        loop {
            self.requests.wait().await;
            sleep(GOODBYE).await;
            if self.requests.is_empty() {
                return;
            }
        }
    }
}

impl Around for InFlight {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let lasts = Lasts::of(&request);
        let peer = request.extensions().get::<Peer>().cloned();
        let (places, lasting) = match lasts {
            Lasts::Long => (&self.lasting, peer.as_ref().map(Peer::lasting)),
            Lasts::Shortly | Lasts::OnItsOwn => (&self.places, None),
        };
        let (Ok(place), None | Some(Some(_))) = (Arc::clone(places).try_acquire_owned(), &lasting) else {
            return status::overloaded().into_http();
        };
        let held = (place, self.requests.token(), lasting);
        let answer = next.run(request).await;
        match (lasts, peer) {
            (Lasts::Shortly, peer) => taken::hold(answer, (held, peer.map(|peer| peer.answer()))),
            (Lasts::Long, _) => taken::hold(answer, held),
            // What of it is on its way has to be taken as an answer has.
            (Lasts::OnItsOwn, Some(peer)) => taken::each(answer, move || peer.answer()),
            (Lasts::OnItsOwn, None) => answer,
        }
    }
}
