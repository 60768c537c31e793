//! At most so many requests at once; one more is refused at once instead of waiting. A request
//! counts until its answer has been sent, streams included.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Finished, Kept};

/// Places for requests.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// So many at once.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            at_once.min(Semaphore::MAX_PERMITS),
        )))
    }
}

/// Memory for request bodies, over all requests.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// So many bytes, counted in KiB.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            (bytes / 1024).clamp(1, Semaphore::MAX_PERMITS),
        )))
    }

    /// Takes `bytes` of it, or refuses at once.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if there is not so much left.
    pub fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.0).try_acquire_many_owned(kib);
        held.map_err(|_| Error::Overloaded)
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

/// Takes a place for a request, or refuses it at once.
///
/// # Errors
/// [`Error::Overloaded`] if no place is free.
pub async fn limit(
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
