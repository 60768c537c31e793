use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use mesh_backends::{Backends, Certificates, ClientOptions, HealthEffect, LARGEST_KEY};
use mesh_core::{
    Authority, Backend, BackendId, Credential, Endpoint, Kept, Limits, NamespaceSelector, Place,
    PrivacyLevel, Protocol, Proxy, Snapshot,
};
use mesh_testkit::front;

use super::{Id, Known, Of, PATIENCE, RENEW, Secrets};

/// An API server with one Secret and one ConfigMap that hold the same, as it is now: status and value.
#[derive(Clone)]
struct Server {
    now: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn new() -> Self {
        Self {
            now: Arc::new(Mutex::new((200, String::from("first")))),
            asked: Arc::default(),
        }
    }

    fn becomes(&self, status: u16, value: &str) {
        *self.now.lock().expect("a state") = (status, value.to_owned());
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            server.asked.fetch_add(1, Ordering::Relaxed);
            let (status, value) = server.now.lock().expect("a state").clone();
            let reason = if status == 404 { "NotFound" } else { "Other" };
            let body = if status == 200 {
                match request.uri().path() {
                    "/api/v1/namespaces/mesh-system/secrets/cloud" => {
                        let value = k8s_openapi::ByteString(value.into_bytes());
                        serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cloud"}, "data": {"apiKey": value}})
                    }
                    "/api/v1/namespaces/mesh-system/configmaps/cloud" => {
                        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cloud"}, "data": {"apiKey": value}})
                    }
                    other => panic!("{other} was asked for"),
                }
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
            known: std::collections::BTreeMap::new(),
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
            authority: None,
            proxy: None,
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

fn known(secrets: &Secrets, of: Of, kept: Kept) -> Option<&Known> {
    let id = Id {
        of,
        kept,
        namespace: String::from("mesh-system"),
        name: String::from("cloud"),
        key: String::from("apiKey"),
    };
    secrets.known.get(&id)
}

fn key(secrets: &Secrets) -> Option<&str> {
    match known(secrets, Of::Key, Kept::Secret)? {
        Known::Key(text) => Some(text.expose().as_str()),
        _ => None,
    }
}

fn certificates(secrets: &Secrets, kept: Kept) -> Option<Arc<Certificates>> {
    match known(secrets, Of::Authority, kept)? {
        Known::Authority(found) => Some(Arc::clone(found)),
        _ => None,
    }
}

/// The same backend, proven by an authority that is kept there.
fn trusting(namespace: &str, kept: Kept) -> Snapshot {
    let mut snapshot = snapshot(namespace);
    let mut backend = Backend::clone(&snapshot.backends[0]);
    if let Place::External(endpoint) = &mut backend.place {
        endpoint.credentials = None;
        endpoint.authority = Some(Authority::Entry {
            kept,
            namespace: namespace.to_owned(),
            name: String::from("cloud"),
            key: String::from("apiKey"),
        });
    }
    snapshot.backends = vec![Arc::new(backend)];
    snapshot
}

/// What the clients make of the authority after everything was read anew.
async fn fault(secrets: &mut Secrets, snapshot: &Snapshot) -> Option<&'static str> {
    tokio::time::advance(RENEW).await;
    secrets.refresh(snapshot).await;
    let read = secrets.backends.authority(&snapshot.backends[0])?;
    match read.err()?.health() {
        HealthEffect::Marked(reason) => Some(reason),
        effect => panic!("{effect:?}"),
    }
}

/// A cluster in which something changes ten times a second.
async fn busy(secrets: &mut Secrets, time: Duration) {
    busy_with(secrets, &snapshot("mesh-system"), time).await;
}

async fn busy_with(secrets: &mut Secrets, snapshot: &Snapshot, time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis() / step.as_millis() {
        tokio::time::advance(step).await;
        secrets.refresh(snapshot).await;
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
    for snapshot in [
        snapshot("mesh-system"),
        trusting("mesh-system", Kept::Secret),
        trusting("mesh-system", Kept::ConfigMap),
    ] {
        for status in [200, 404, 403] {
            let server = Server::new();
            server.becomes(status, "first");
            let mut secrets = server.secrets();
            busy_with(&mut secrets, &snapshot, RENEW * 4).await;
            let asked = server.asked.load(Ordering::Relaxed);
            assert!((4..=6).contains(&asked), "{status}: {asked}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_made_later_is_found_within_the_time_of_a_renewal() {
    let server = Server::new();
    server.becomes(404, "");
    let mut secrets = server.secrets();
    busy(&mut secrets, RENEW / 2).await;
    assert_eq!(key(&secrets), None);
    server.becomes(200, "made");
    busy(&mut secrets, RENEW).await;
    assert_eq!(key(&secrets), Some("made"));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_be_asked_for_is_not_called_missing_and_asked_for_soon() {
    let pem = front::Authority::new("mesh").pem();
    for kept in [Kept::Secret, Kept::ConfigMap] {
        let server = Server::new();
        let mut secrets = server.secrets();
        let snapshot = trusting("mesh-system", kept);
        let said = |secrets: &Secrets| secrets.backends.authority(&snapshot.backends[0]);
        server.becomes(503, "");
        busy_with(&mut secrets, &snapshot, PATIENCE * 2).await;
        assert_eq!(said(&secrets), None);
        let asked = server.asked.load(Ordering::Relaxed);
        assert!((2..=3).contains(&asked), "{asked}");
        server.becomes(200, &pem);
        busy_with(&mut secrets, &snapshot, PATIENCE).await;
        assert_eq!(said(&secrets), Some(Ok(())));
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_is_looked_at_when_it_changes_and_a_large_one_not_at_all() {
    let pem = front::Authority::new("mesh").pem();
    let server = Server::new();
    let mut secrets = server.secrets();
    let snapshot = trusting("mesh-system", Kept::ConfigMap);
    server.becomes(200, &pem);
    assert_eq!(fault(&mut secrets, &snapshot).await, None);
    let first = certificates(&secrets, Kept::ConfigMap).expect("it is there");
    assert_eq!(fault(&mut secrets, &snapshot).await, None);
    let renewed = certificates(&secrets, Kept::ConfigMap).expect("it is there");
    assert!(Arc::ptr_eq(&first, &renewed), "it was looked at once");
    server.becomes(200, &format!("{pem}{}", "#".repeat(256 << 10)));
    let said = fault(&mut secrets, &snapshot).await;
    assert_eq!(said, Some("AuthorityInvalid"));
    let large = certificates(&secrets, Kept::ConfigMap).expect("it is there");
    let words = large.usable().expect_err("it is too large").to_string();
    assert!(words.contains("256 KiB"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn of_a_key_that_is_none_no_more_is_kept_than_says_so() {
    let server = Server::new();
    let mut secrets = server.secrets();
    for text in ["k", "\u{e9}"] {
        server.becomes(200, &text.repeat(1 << 19));
        busy(&mut secrets, RENEW).await;
        let kept = key(&secrets).expect("it is there").len();
        assert!(
            (LARGEST_KEY + 1..=LARGEST_KEY + 4).contains(&kept),
            "{kept}"
        );
    }
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
    for kept in [Kept::Secret, Kept::ConfigMap] {
        secrets.refresh(&trusting("team", kept)).await;
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    assert!(secrets.known.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_authority_is_read_where_it_is_kept_renewed_and_never_replaced_by_the_systems() {
    let pem = front::Authority::new("mesh").pem();
    for kept in [Kept::Secret, Kept::ConfigMap] {
        let server = Server::new();
        let mut secrets = server.secrets();
        let snapshot = trusting("mesh-system", kept);
        assert_eq!(
            fault(&mut secrets, &snapshot).await,
            Some("AuthorityInvalid")
        );
        server.becomes(200, &pem);
        assert_eq!(fault(&mut secrets, &snapshot).await, None, "{kept:?}");
        server.becomes(503, "");
        assert_eq!(fault(&mut secrets, &snapshot).await, None, "it stays");
        server.becomes(404, "");
        assert_eq!(
            fault(&mut secrets, &snapshot).await,
            Some("AuthorityMissing")
        );
        server.becomes(200, &pem);
        assert_eq!(fault(&mut secrets, &snapshot).await, None);
        server.becomes(403, "");
        assert_eq!(
            fault(&mut secrets, &snapshot).await,
            Some("AuthorityMissing")
        );
        assert!(certificates(&secrets, kept).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_key_for_a_proxy_is_read_as_any_other() {
    let server = Server::new();
    let mut secrets = server.secrets();
    let mut snapshot = trusting("mesh-system", Kept::ConfigMap);
    let mut backend = Backend::clone(&snapshot.backends[0]);
    if let Place::External(endpoint) = &mut backend.place {
        endpoint.proxy = Some(Proxy {
            url: "http://proxy.example:3128".parse().expect("a url"),
            credentials: Some(credential("mesh-system")),
        });
    }
    snapshot.backends = vec![Arc::new(backend)];
    secrets.refresh(&snapshot).await;
    assert_eq!(key(&secrets), Some("first"));
    assert!(certificates(&secrets, Kept::ConfigMap).is_some());
}
