//! A small world: backends at scripted upstreams, admitted by the real policy code.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mesh_backends::{AttemptError, Backends, ClientOptions, Outbound, Started};
use mesh_core::policy::{Constraints, Overflow, Ownership};
use mesh_core::{
    Backend, BackendId, Caller, Capabilities, Complexity, Credential, Endpoint, Facts,
    LatencyClass, Limits, NamespaceSelector, Needs, Place, Policy, PolicyId, PrivacyLevel,
    Protocol, Scan, ServedModel, Snapshot, SovereigntyClass, TaskType,
};
use mesh_protocol::{Event, ModelRequest, Surface};
use mesh_routing::{AdmitInput, Admitted, admit, join};
use mesh_testkit::upstream::ScriptedUpstream;
use serde_json::{Map, Value, json};

/// What must never be seen outside.
pub(crate) const CANARY: &str = "canary-7f3a";

pub(crate) fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.parse().expect("a url"),
        protocol: Protocol::OpenAI,
        credentials: None,
        auth_header: None,
        headers: Vec::new(),
        organization: None,
        insecure_plaintext: true,
        resolved: Vec::new(),
        cluster_networks: Arc::default(),
        authority: None,
        proxy: None,
    }
}

pub(crate) fn backend(endpoint: Endpoint) -> Backend {
    Backend {
        id: BackendId::home("default", "cloud"),
        place: Place::External(endpoint),
        models: vec![ServedModel {
            name: String::from("big"),
            target: Some(String::from("big-2026")),
            aliases: Vec::new(),
            license: None,
            family: None,
            price: None,
            capabilities: Capabilities::default(),
        }],
        max_privacy: PrivacyLevel::Restricted,
        limits: Limits::default(),
        available_to: NamespaceSelector::default(),
        request_overrides: Map::new(),
        stream_upstream: true,
        hardware_vendor: None,
    }
}

/// A backend at a scripted upstream.
pub(crate) fn at(upstream: &ScriptedUpstream) -> Backend {
    backend(endpoint(&upstream.url()))
}

fn policy(networks: &[&str]) -> Policy {
    let minimum = PrivacyLevel::ALL.map(|level| (level, SovereigntyClass::CloudRetained));
    Policy {
        id: PolicyId::home("default", "test"),
        digest: String::new(),
        origin: mesh_core::policy::Origin::Written,
        namespaces: NamespaceSelector::default(),
        service_accounts: Vec::new(),
        ownership: Some(Ownership {
            nodes: None,
            networks: networks
                .iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
            ..Ownership::default()
        }),
        default_privacy: Some(PrivacyLevel::Internal),
        default_latency: None,
        weights: None,
        privacy_weight: None,
        references: None,
        prefer_local_gap: None,
        max_share: None,
        durable_from: None,
        constraints: Constraints {
            minimum_class: minimum.into_iter().collect(),
            ..Constraints::default()
        },
        incomplete_level: None,
        failover: None,
        floor: None,
        tests: Vec::new(),
    }
}

/// Admits a backend whose class rests on nothing.
pub(crate) fn admitted(backend: Backend) -> Admitted {
    admitted_within(backend, &[])
}

/// Admits a backend whose class rests on owned networks.
pub(crate) fn admitted_within(backend: Backend, networks: &[&str]) -> Admitted {
    let mut snapshot = Snapshot::empty("default", jiff::Timestamp::UNIX_EPOCH);
    snapshot.policies = vec![Arc::new(policy(networks))];
    let vectors = backend.models[0].capabilities.embedding.is_some();
    let facts = Facts {
        level: PrivacyLevel::Internal,
        task: TaskType::Chat,
        complexity: Complexity::new(0.5),
        latency: LatencyClass::Standard,
        needs: Needs {
            embeddings: vectors,
            ..Needs::default()
        },
        scan: Scan::default(),
        findings: Vec::new(),
        entries: Vec::new(),
    };
    let input = AdmitInput {
        policy: &join(&snapshot, &Caller::local(&*backend.id.namespace)),
        facts: &facts,
        local_only: false,
        embedding: None,
        overflow: false,
        recorded: true,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    admit(&input, &Arc::new(backend), "big").expect("admitted")
}

pub(crate) fn clients() -> Backends {
    Backends::new(ClientOptions {
        connect_timeout: Duration::from_secs(2),
        probe_timeout: Duration::from_secs(2),
        ..ClientOptions::default()
    })
    .expect("clients")
}

pub(crate) fn outbound(surface: Surface, body: Value) -> Outbound {
    let Value::Object(body) = body else {
        panic!("an object");
    };
    Outbound {
        request: Arc::new(ModelRequest::from_body(surface, body).expect("a request")),
        tenant: String::from("tenant-canary"),
        level: PrivacyLevel::Internal,
        latency: LatencyClass::Standard,
        sole: false,
        protect: false,
        overflow: Overflow::default(),
        drop_tools: false,
    }
}

/// A chat request that holds the canary.
pub(crate) fn chat() -> Outbound {
    outbound(
        Surface::Chat,
        json!({"model": "auto", "messages": [{"role": "user", "content": CANARY}], "stream": true}),
    )
}

/// Everything the answer consists of, until its end or its error.
pub(crate) async fn collect(started: Started) -> (Vec<Event>, Option<AttemptError>) {
    let (mut events, mut stream) = (Vec::new(), started.events);
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => events.push(event),
            Err(error) => {
                assert!(stream.next().await.is_none(), "nothing follows an error");
                return (events, Some(error));
            }
        }
    }
    (events, None)
}

/// Sends a request and collects all of it; an error before the answer comes with no events.
pub(crate) async fn send(
    backends: &Backends,
    admitted: &Admitted,
    outbound: Outbound,
) -> (Vec<Event>, Option<AttemptError>) {
    match backends.start(admitted, outbound).await {
        Ok(started) => collect(started).await,
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// The error of an attempt that must fail, without a word of the request in it.
pub(crate) async fn error(
    backends: &Backends,
    admitted: &Admitted,
    outbound: Outbound,
) -> AttemptError {
    let (_, error) = send(backends, admitted, outbound).await;
    let error = error.expect("an error");
    let printed = format!("{error} {error:?} {error:#?}");
    assert!(!printed.contains("canary"), "{printed}");
    assert!(AttemptError::OUTCOMES.contains(&error.outcome()));
    error
}

pub(crate) fn text(events: &[Event]) -> String {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

pub(crate) fn finished(events: &[Event]) -> bool {
    events
        .iter()
        .any(|event| matches!(event, Event::Finish { .. }))
}

/// A key in a file, and the folder that keeps it.
pub(crate) fn key_file(key: &str) -> (tempfile::TempDir, Credential) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, key).expect("written");
    (folder, Credential::File(path))
}
