//! What happened, in response headers and in the `mesh` object of an answer.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::degradation::header_value;
use mesh_core::{BackendId, DecisionId, Degradation, PrivacyLevel, SovereigntyClass};
use serde_json::{Value, json};

use crate::decision_header;

/// What happened to one request.
#[derive(Debug, Clone)]
pub struct Report {
    /// The decision behind it.
    pub decision: DecisionId,
    /// Who served.
    pub backend: BackendId,
    /// The model that served.
    pub model: String,
    /// Its class.
    pub class: SovereigntyClass,
    /// Level of the request.
    pub privacy: PrivacyLevel,
    /// Less than what was asked for, sorted, each once.
    pub degraded: Vec<Degradation>,
}

impl Report {
    /// Adds a way in which the answer is less than what was asked for.
    pub fn degrade(&mut self, reason: Degradation) {
        if !self.degraded.contains(&reason) {
            self.degraded.push(reason);
            self.degraded.sort_unstable();
        }
    }

    /// The `mesh` object of the answer.
    pub fn object(&self) -> Value {
        let degraded: Vec<&str> = self.degraded.iter().map(|one| one.as_str()).collect();
        json!({
            "decision": self.decision,
            "backend": self.backend,
            "degraded": degraded,
        })
    }

    /// The response headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        decision_header(headers, &self.decision);
        named(headers, "mesh-backend", &self.backend.to_string());
        named(headers, "mesh-model", &self.model);
        named(headers, "mesh-sovereignty-class", self.class.as_str());
        named(headers, "mesh-privacy", self.privacy.as_str());
        if let Some(reasons) = header_value(&self.degraded) {
            named(headers, "mesh-degraded", &reasons);
        }
    }
}

/// Model names may hold what a header may not: such a header is left out rather than bent.
fn named(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
