//! One request to one model server that speaks OpenAI's API: vLLM, llama.cpp, ollama, TGI, our
//! worker, a cloud.

use ipnet::IpNet;
use mesh_core::{BackendId, Endpoint, Sensitive};
use mesh_protocol::ModelRequest;
use mesh_routing::Admitted;
use reqwest::Client;
use serde_json::Value;
use url::Url;

use crate::address::Reach;
use crate::answer::{self, Expected};
use crate::body::OutgoingBody;
use crate::client::{Clients, Whose};
use crate::headers::{self, Accept};
use crate::scrub::Scrubber;
use crate::way::Way;
use crate::{
    AttemptError, ClientOptions, Error, Outbound, Started, authority, credential, failure,
};

/// A worker of this mesh says so if it left old turns out.
const TRIMMED: &str = "mesh-context-trimmed";

/// A backend that may be spoken to: address checked, key at hand.
pub(crate) struct Target {
    pub(crate) client: Client,
    endpoint: Endpoint,
    key: Option<Sensitive<String>>,
}

impl Target {
    pub(crate) fn new(
        clients: &Clients,
        id: &BackendId,
        endpoint: &Endpoint,
        (reach, whose): (Reach, Whose),
        networks: Option<&[IpNet]>,
    ) -> Result<Self, AttemptError> {
        let url = &endpoint.url;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(AttemptError::Unusable("its url is not http or https"));
        }
        // The client would turn it into an authorization header that nobody declared.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AttemptError::Unusable("its url holds a user or password"));
        }
        let guard = clients.guard(reach, networks, &endpoint.cluster_networks);
        guard.check_literal(url)?;
        let key = endpoint
            .credentials
            .as_ref()
            .map(|credential| credential::resolve(credential, &clients.keys.load()))
            .transpose()?;
        let way = Way::find(endpoint, &clients.keys.load(), &clients.authorities.load())?;
        if let Some(via) = &way.proxy {
            // Names are checked by the resolver, which is asked for the proxy's alone.
            guard.check_literal(via.url())?;
        }
        let client = clients.get(id, url, guard, (whose, way)).map_err(|error| {
            match (&endpoint.authority, error) {
                (Some(authority), error @ Error::Authority(_)) => {
                    authority::unusable(authority, &error)
                }
                _ => AttemptError::Unusable("its client could not be built"),
            }
        })?;
        Ok(Self {
            client,
            endpoint: endpoint.clone(),
            key,
        })
    }

    /// A server that proves itself by its certificate and needs no key.
    pub(crate) const fn with(client: Client, endpoint: Endpoint) -> Self {
        Self {
            client,
            endpoint,
            key: None,
        }
    }

    /// The address of a path below the base; the base's own query stays.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url.set_fragment(None);
        url
    }

    pub(crate) fn headers(&self, accept: Accept) -> Result<http::HeaderMap, AttemptError> {
        headers::outgoing(&self.endpoint, self.key.as_ref(), accept)
    }

    /// Why there was no answer.
    pub(crate) fn unsent(&self, error: &reqwest::Error) -> AttemptError {
        failure::unsent(error, self.endpoint.proxy.is_some())
    }

    pub(crate) fn scrubber(&self) -> Scrubber {
        Scrubber::new(&self.endpoint, self.key.as_ref())
    }
}

/// A request that is ready to be sent.
pub(crate) struct Dispatch {
    request: reqwest::RequestBuilder,
    stream: bool,
    expected: Expected,
    target: Target,
}

impl Dispatch {
    pub(crate) fn new(
        target: Target,
        admitted: &Admitted,
        outbound: &Outbound,
        options: &ClientOptions,
    ) -> Result<Self, AttemptError> {
        let request = &*outbound.request;
        let model = admitted.model();
        let body = OutgoingBody::new(request, admitted.backend(), model, outbound.drop_tools);
        let stream = body.stream();
        let accept = if stream { Accept::Stream } else { Accept::Json };
        let bytes = serde_json::to_vec(&body)
            .map_err(|_| AttemptError::Unusable("the request could not be written as JSON"))?;
        let embedding = model.capabilities.embedding.as_ref();
        Ok(Self {
            request: target
                .client
                .post(target.url(request.surface.path()))
                .headers(target.headers(accept)?)
                .body(bytes),
            stream,
            expected: Expected {
                surface: request.surface,
                n: request.n,
                inputs: inputs(request),
                dimensions: embedding.map(|spec| spec.dimensions),
                answer_limit: options.answer_limit,
                event_limit: options.event_limit,
            },
            target,
        })
    }

    /// Adds a header of ours.
    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) async fn send(self) -> Result<Started, AttemptError> {
        let scrubber = self.target.scrubber();
        let sent = self.request.send().await;
        let response = sent.map_err(|error| self.target.unsent(&error))?;
        if !response.status().is_success() {
            return Err(failure::refused(response, &scrubber).await);
        }
        answer::check_type(&response, self.stream)?;
        let context_trimmed = response.headers().contains_key(TRIMMED);
        let headers = headers::incoming(response.headers());
        let events = if self.stream {
            answer::streamed(response, &self.expected, scrubber)
        } else {
            answer::whole(response, self.expected, scrubber)
        };
        Ok(Started {
            events,
            context_trimmed,
            system_fingerprint: None,
            headers,
        })
    }
}

/// How many inputs an embeddings request has: a list of texts or of token lists, else one.
fn inputs(request: &ModelRequest) -> usize {
    match request.body.get("input") {
        Some(Value::Array(items)) if !items.iter().all(Value::is_number) => items.len(),
        _ => 1,
    }
}
