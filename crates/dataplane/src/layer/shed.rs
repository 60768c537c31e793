//! At most so many requests at once; one more is refused at once instead of waiting. A request
//! counts until its answer has been sent, streams included.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::respond::{Error, Finished, Kept};

/// Places for requests.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            at_once.min(Semaphore::MAX_PERMITS),
        )))
    }
}

struct Place {
    permit: Option<OwnedSemaphorePermit>,
}

impl Finished for Place {
    fn finished(&mut self) {
        self.permit = None;
    }
}

pub(crate) async fn limit(
    State(places): State<Places>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let permit = places
        .0
        .try_acquire_owned()
        .map_err(|_| Error::Overloaded)?;
    let response = next.run(request).await;
    let place = Place {
        permit: Some(permit),
    };
    Ok(response.map(|body| Kept::wrap(body, place)))
}
