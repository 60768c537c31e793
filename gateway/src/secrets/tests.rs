use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use mesh_backends::{Backends, ClientOptions};
use mesh_core::{
    Backend, BackendId, Credential, Endpoint, Limits, NamespaceSelector, Place, PrivacyLevel,
    Protocol, Sensitive, Snapshot,
};

use super::{RENEW, Secrets};

/// An API server with one Secret, as it is now: status and value.
#[derive(Clone)]
struct Server {
    now: Arc<Mutex<(u16, &'static str)>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn new() -> Self {
        Self {
            now: Arc::new(Mutex::new((200, "first"))),
            asked: Arc::default(),
        }
    }

    fn becomes(&self, status: u16, value: &'static str) {
        *self.now.lock().expect("a state") = (status, value);
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            server.asked.fetch_add(1, Ordering::Relaxed);
            assert_eq!(
                request.uri().path(),
                "/api/v1/namespaces/mesh-system/secrets/cloud"
            );
            let (status, value) = *server.now.lock().expect("a state");
            let reason = if status == 404 { "NotFound" } else { "Other" };
            let body = if status == 200 {
                let value = k8s_openapi::ByteString(value.as_bytes().to_vec());
                serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cloud"}, "data": {"apiKey": value}})
            } else {
                serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": reason, "code": status})
            };
            let response = Response::builder()
                .status(status)
                .body(Body::from(body.to_string().into_bytes()));
            std::future::ready(response)
        });
        Client::new(service, "default")
    }

    fn secrets(&self) -> Secrets {
        Secrets {
            client: self.client(),
            namespaces: [String::from("mesh-system")].into(),
            backends: Arc::new(Backends::new(ClientOptions::default()).expect("clients")),
            keys: mesh_backends::Keys::new(),
            renewed: None,
        }
    }
}

fn credential(namespace: &str) -> Credential {
    Credential::Secret {
        namespace: namespace.to_owned(),
        name: String::from("cloud"),
        key: String::from("apiKey"),
    }
}

fn snapshot(namespace: &str) -> Snapshot {
    let mut snapshot = Snapshot::empty("mesh-system", jiff::Timestamp::UNIX_EPOCH);
    snapshot.backends = vec![Arc::new(Backend {
        id: BackendId::home(namespace, "cloud"),
        place: Place::External(Endpoint {
            url: "https://a.example/v1".parse().expect("a url"),
            protocol: Protocol::OpenAI,
            credentials: Some(credential(namespace)),
            auth_header: None,
            headers: Vec::new(),
            organization: None,
            insecure_plaintext: false,
            resolved: Vec::new(),
            cluster_networks: Arc::default(),
        }),
        models: Vec::new(),
        max_privacy: PrivacyLevel::Restricted,
        limits: Limits::default(),
        available_to: NamespaceSelector::default(),
        request_overrides: serde_json::Map::new(),
        stream_upstream: true,
        hardware_vendor: None,
    })];
    snapshot
}

fn key(secrets: &Secrets) -> Option<&str> {
    let found = secrets.keys.get(&credential("mesh-system"));
    found.map(|key: &Sensitive<String>| key.expose().as_str())
}

/// A cluster in which something changes ten times a second.
async fn busy(secrets: &mut Secrets, time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis() / step.as_millis() {
        tokio::time::advance(step).await;
        secrets.refresh(&snapshot("mesh-system")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_and_a_revoked_key_go_out_of_use_while_the_cluster_keeps_changing() {
    let server = Server::new();
    let mut secrets = server.secrets();
    secrets.refresh(&snapshot("mesh-system")).await;
    assert_eq!(key(&secrets), Some("first"));
    server.becomes(200, "second");
    busy(&mut secrets, RENEW).await;
    assert_eq!(key(&secrets), Some("second"));
    server.becomes(404, "");
    busy(&mut secrets, RENEW).await;
    assert_eq!(key(&secrets), None);
}

#[tokio::test(start_paused = true)]
async fn a_busy_cluster_does_not_make_the_api_server_busy() {
    let server = Server::new();
    let mut secrets = server.secrets();
    busy(&mut secrets, RENEW * 4).await;
    let asked = server.asked.load(Ordering::Relaxed);
    assert!((4..=6).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_while_the_api_server_is_away_and_goes_when_it_may_not_be_read() {
    let server = Server::new();
    let mut secrets = server.secrets();
    secrets.refresh(&snapshot("mesh-system")).await;
    for status in [500, 503, 429] {
        server.becomes(status, "");
        busy(&mut secrets, RENEW).await;
        assert_eq!(key(&secrets), Some("first"), "{status}");
    }
    server.becomes(403, "");
    busy(&mut secrets, RENEW).await;
    assert_eq!(key(&secrets), None);
}

#[tokio::test(start_paused = true)]
async fn secrets_of_namespaces_that_were_not_named_are_not_even_asked_for() {
    let server = Server::new();
    let mut secrets = server.secrets();
    secrets.refresh(&snapshot("team")).await;
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    assert!(secrets.keys.is_empty());
}
