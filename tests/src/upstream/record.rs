//! What a scripted upstream was sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::to_bytes;
use axum::extract::Request;
use serde_json::Value;

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method.
    pub method: String,
    /// Path, without the query.
    pub path: String,
    /// Query, without the question mark.
    pub query: Option<String>,
    /// Headers; names in lower case, sorted by name.
    pub headers: Vec<(String, String)>,
    /// Body, byte by byte.
    pub body: Vec<u8>,
}

impl Received {
    pub(super) async fn read(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let mut headers: Vec<(String, String)> = parts
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.as_str().to_owned(), value.into_owned())
            })
            .collect();
        headers.sort();
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers,
            body: to_bytes(body, usize::MAX)
                .await
                .map(|bytes| bytes.to_vec())
                .unwrap_or_default(),
        }
    }

    /// A header, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Top-level fields of the body, in the order they came.
    pub fn fields(&self) -> Vec<String> {
        match self.json() {
            Value::Object(fields) => fields.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

/// Everything that arrived. Cheap to share.
#[derive(Debug, Clone)]
pub(super) struct Record {
    kept: Option<Arc<Kept>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<Received>>,
    bytes: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

impl Record {
    pub(super) fn new(keep: bool) -> Self {
        Self {
            kept: keep.then(Arc::default),
            connections: Arc::default(),
        }
    }

    /// Counts a connection and gives the place for its bytes.
    pub(super) fn connection(&self) -> Option<Arc<Mutex<Vec<u8>>>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let bytes = Arc::default();
        lock(&self.kept.as_ref()?.bytes).push(Arc::clone(&bytes));
        Some(bytes)
    }

    pub(super) fn keep(&self, received: &Received) {
        if let Some(kept) = &self.kept {
            lock(&kept.requests).push(received.clone());
        }
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        self.kept
            .as_ref()
            .map(|kept| lock(&kept.requests).clone())
            .unwrap_or_default()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> Vec<Vec<u8>> {
        let Some(kept) = &self.kept else {
            return Vec::new();
        };
        lock(&kept.bytes)
            .iter()
            .map(|connection| lock(connection).clone())
            .collect()
    }

    pub(super) fn saw(&self, text: &str) -> bool {
        let text = text.as_bytes();
        text.is_empty()
            || self
                .bytes()
                .iter()
                .any(|bytes| bytes.windows(text.len()).any(|window| window == text))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
