//! A small world: clouds, a floor, a policy, and somebody who asks.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use mesh_backends::{Backends, ClientOptions, LocalModel};
use mesh_core::policy::{Constraints, Failover, Floor, Overflow, Ownership, Substitution};
use mesh_core::{
    Backend, BackendId, Capabilities, Claims, Cloud, Endpoint, JurisdictionSet, Limits,
    NamespaceSelector, Peer, Place, Policy, PolicyId, PrivacyLevel, Protocol, ServedModel,
    Snapshot, SovereigntyClass, TaskQuality, TaskType, Trust,
};
use mesh_dataplane::{ApiKeys, Config, Dataplane, Metrics, Parts, SnapshotStore};
use mesh_ledger::Ledger;
use mesh_testkit::upstream::ScriptedUpstream;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

#[path = "floor.rs"]
mod floor;

pub(crate) use floor::{FLOOR_SAYS, Play, PlayedFloor};

/// Builds a [`World`].
pub(crate) struct Builder {
    pub(crate) config: Config,
    pub(crate) policy: Policy,
    backends: Vec<Arc<Backend>>,
    floor: Option<Arc<PlayedFloor>>,
    ledger: Option<Arc<dyn Ledger>>,
}

/// The data plane with everything around it.
pub(crate) struct World {
    pub(crate) plane: Dataplane,
    pub(crate) store: SnapshotStore,
    pub(crate) registry: Registry,
    pub(crate) floor: Arc<PlayedFloor>,
    router: Router,
    stop: CancellationToken,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A world without anything declared: public by default, with the usual minimum classes.
pub(crate) fn world() -> Builder {
    Builder {
        config: Config::default(),
        policy: policy(),
        backends: Vec::new(),
        floor: None,
        ledger: None,
    }
}

/// A cloud at home that keeps nothing.
pub(crate) fn claims() -> Claims {
    Claims {
        seat: places(&["DE"]),
        data_centers: places(&["DE"]),
        governing_law: places(&["DE"]),
        retention_days: Some(0),
        training: Some(false),
        evidence: None,
        expires: "2099-01-01T00:00:00Z".parse().expect("a date"),
    }
}

pub(crate) fn places(codes: &[&str]) -> JurisdictionSet {
    JurisdictionSet(
        codes
            .iter()
            .map(|code| code.parse().expect("a code"))
            .collect(),
    )
}

impl Builder {
    /// A cloud at home, of this quality.
    pub(crate) fn cloud(self, name: &str, upstream: &ScriptedUpstream, quality: f64) -> Self {
        self.cloud_with(name, upstream, quality, |_| {})
    }

    /// A cloud, changed by `change`.
    pub(crate) fn cloud_with(
        mut self,
        name: &str,
        upstream: &ScriptedUpstream,
        quality: f64,
        change: impl FnOnce(&mut Backend),
    ) -> Self {
        let mut backend = backend(
            name,
            Place::Cloud(Cloud {
                endpoint: endpoint(&upstream.url()),
                provider: format!("{name} inc"),
                claims: Some(claims()),
            }),
            model("big", quality),
        );
        change(&mut backend);
        self.backends.push(Arc::new(backend));
        self
    }

    /// Another mesh at this address.
    pub(crate) fn peer(mut self, name: &str, address: SocketAddr) -> Self {
        let place = Place::Peer(Peer {
            host: url::Host::parse(&address.ip().to_string()).expect("a host"),
            port: address.port(),
            identity: String::from("a-key"),
            trust: Trust::Invited,
        });
        let backend = backend(name, place, model("theirs", 0.95));
        self.backends.push(Arc::new(backend));
        self
    }

    /// A floor that is played, named by the policy.
    pub(crate) fn floor(mut self) -> Self {
        let place = Place::InProcess {
            model_cache: String::from("smollm2"),
            kv_bytes: None,
            context_tokens: None,
        };
        let mut served = model("smollm2", 0.2);
        served.capabilities.context_tokens = Some(8192);
        self.backends
            .push(Arc::new(backend("floor", place, served)));
        self.floor = Some(Arc::default());
        self.named_floor()
    }

    /// A floor that is a server outside, named by the policy.
    pub(crate) fn floor_outside(mut self, server: &ScriptedUpstream) -> Self {
        let place = Place::External(endpoint(&server.url()));
        self.backends
            .push(Arc::new(backend("floor", place, model("big", 0.2))));
        self.named_floor()
    }

    /// The backend `floor` is named by the policy.
    pub(crate) fn named_floor(mut self) -> Self {
        self.policy.floor = Some(Floor {
            backend: (String::from("default"), String::from("floor")),
            protect: true,
            compete: false,
            overflow: Overflow::TrimHistory,
            drill: None,
        });
        self
    }

    /// The floor is asked at once whether it answers, and then so often.
    pub(crate) fn drilled(mut self, every: Duration) -> Self {
        self.config.drill_within = Duration::ZERO;
        self.policy.floor.as_mut().expect("a floor").drill = Some(every);
        self
    }

    /// What is decided from this level on must be kept here.
    pub(crate) fn recorded(
        mut self,
        from: PrivacyLevel,
        ledger: &Arc<impl Ledger + 'static>,
    ) -> Self {
        let ledger = Arc::clone(ledger);
        self.ledger = Some(ledger);
        self.policy(|policy| policy.durable_from = Some(from))
    }

    /// Changes a backend that is there.
    pub(crate) fn backend(mut self, name: &str, change: impl FnOnce(&mut Backend)) -> Self {
        let mut all = self.backends.iter_mut();
        let found = all.find(|backend| backend.id.name == name);
        change(Arc::make_mut(found.expect("a backend")));
        self
    }

    /// Changes the policy.
    pub(crate) fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }

    /// Changes the settings.
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Only callers with one of these keys.
    pub(crate) fn keys(self, file: &str) -> Self {
        let keys = ApiKeys::parse(file).expect("a key file");
        self.config(|config| config.api_keys = Some(keys))
    }

    /// Starts it.
    pub(crate) fn start(self) -> World {
        let backends = Backends::new(ClientOptions::default()).expect("clients");
        let floor = self.floor.clone().unwrap_or_default();
        if self.floor.is_some() {
            let model: Arc<dyn LocalModel> = floor.clone();
            let id = BackendId::home("default", "floor");
            backends.set_local(HashMap::from([(id, model)]));
        }
        let store = SnapshotStore::new(snapshot(self.backends, self.policy));
        let stop = CancellationToken::new();
        let plane = Dataplane::new(Parts {
            config: self.config,
            snapshots: store.clone(),
            backends: Arc::new(backends),
            ledger: self.ledger,
            metrics: Metrics::new(),
            tracker: TaskTracker::new(),
            shutdown: stop.clone(),
            clock: mesh_dataplane::clock::system_clock(),
        })
        .expect("a data plane");
        let mut registry = Registry::with_prefix("mesh_gateway");
        plane.register(&mut registry);
        World {
            router: plane.router(),
            plane,
            store,
            registry,
            floor,
            stop,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    /// The end begins.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Another data plane with this snapshot.
    pub(crate) fn another(&self, config: Config, snapshot: Snapshot) -> Dataplane {
        Dataplane::new(Parts {
            config,
            snapshots: SnapshotStore::new(snapshot),
            backends: Arc::new(Backends::new(ClientOptions::default()).expect("clients")),
            ledger: None,
            metrics: Metrics::new(),
            tracker: TaskTracker::new(),
            shutdown: self.stop.clone(),
            clock: mesh_dataplane::clock::system_clock(),
        })
        .expect("a data plane")
    }

    /// Asks for a chat completion.
    pub(crate) async fn chat(&self, body: Value) -> Reply {
        self.post("/v1/chat/completions", body, &[]).await
    }

    /// Posts JSON with further headers.
    pub(crate) async fn post(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::post(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string()));
        self.send(request.expect("a request")).await
    }

    /// Gets a path.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        let request = Request::get(path).header("host", "localhost");
        self.send(request.body(Body::empty()).expect("a request"))
            .await
    }

    /// Sends any request and reads the answer to its end.
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// Sends any request; the body is still to be read.
    pub(crate) async fn open(&self, request: Request<Body>) -> http::Response<Body> {
        let router = self.router.clone();
        router.oneshot(request).await.expect("an answer")
    }

    /// What a scrape shows.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("metrics");
        text
    }

    /// One line of the metrics ends with this value.
    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let text = self.metrics();
        let found = text.lines().find_map(|found| found.strip_prefix(line))?;
        found.trim().parse().ok()
    }
}

impl Reply {
    /// A header's text, empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Text of the first choice of a whole answer.
    pub(crate) fn text(&self) -> String {
        let content = &self.json()["choices"][0]["message"]["content"];
        content.as_str().expect("a text").to_owned()
    }

    /// The data of every frame of a stream.
    pub(crate) fn frames(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        text.split_terminator("\n\n")
            .map(|frame| frame.strip_prefix("data: ").expect("data").to_owned())
            .collect()
    }

    /// The chunks of a stream, without `[DONE]`.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let frames = self.frames();
        let chunks = frames.iter().filter(|frame| *frame != "[DONE]");
        chunks
            .map(|frame| serde_json::from_str(frame).expect("JSON"))
            .collect()
    }

    /// All text of the first choice of a stream.
    pub(crate) fn streamed_text(&self) -> String {
        let chunks = self.chunks();
        chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect()
    }

    /// True if the stream says that it is complete.
    pub(crate) fn done(&self) -> bool {
        self.frames().last().is_some_and(|frame| frame == "[DONE]")
    }
}

/// A chat request with one message.
pub(crate) fn ask(text: &str) -> Value {
    json!({"model": "auto", "messages": [{"role": "user", "content": text}]})
}

/// The same, as a stream.
pub(crate) fn ask_streaming(text: &str) -> Value {
    let mut body = ask(text);
    body["stream"] = json!(true);
    body
}

pub(crate) fn snapshot(backends: Vec<Arc<Backend>>, policy: Policy) -> Snapshot {
    let mut snapshot = Snapshot::empty("default", Timestamp::now());
    snapshot.generation = 1;
    snapshot.backends = backends;
    snapshot.backends.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot.policies = vec![Arc::new(policy)];
    snapshot
}

fn policy() -> Policy {
    Policy {
        id: PolicyId::home("default", "default"),
        digest: String::from("d1"),
        origin: mesh_core::policy::Origin::Written,
        namespaces: NamespaceSelector::default(),
        service_accounts: Vec::new(),
        ownership: Some(Ownership {
            home_jurisdictions: places(&["DE"]),
            ..Ownership::default()
        }),
        default_privacy: Some(PrivacyLevel::Public),
        default_latency: None,
        weights: None,
        privacy_weight: None,
        references: None,
        prefer_local_gap: None,
        max_share: None,
        durable_from: None,
        constraints: Constraints {
            minimum_class: BTreeMap::from([
                (PrivacyLevel::Public, SovereigntyClass::CloudRetained),
                (PrivacyLevel::Internal, SovereigntyClass::CloudDomestic),
                (PrivacyLevel::Confidential, SovereigntyClass::RentedHardware),
                (PrivacyLevel::Restricted, SovereigntyClass::OwnHardware),
            ]),
            ..Constraints::default()
        },
        incomplete_level: None,
        failover: Some(Failover {
            time_to_first_token: Duration::from_secs(2),
            between_tokens: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            substitution: Substitution::Floor,
            ..Failover::default()
        }),
        floor: None,
        tests: Vec::new(),
    }
}

fn model(name: &str, quality: f64) -> ServedModel {
    ServedModel {
        name: name.to_owned(),
        target: None,
        aliases: Vec::new(),
        license: None,
        family: None,
        price: None,
        capabilities: Capabilities {
            tasks: vec![TaskQuality {
                task: TaskType::Chat,
                quality,
                source: String::from("test"),
            }],
            ..Capabilities::default()
        },
    }
}

fn backend(name: &str, place: Place, model: ServedModel) -> Backend {
    Backend {
        id: BackendId::home("default", name),
        place,
        models: vec![model],
        max_privacy: PrivacyLevel::Restricted,
        limits: Limits::default(),
        available_to: NamespaceSelector::default(),
        request_overrides: serde_json::Map::new(),
        stream_upstream: true,
        hardware_vendor: None,
    }
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.parse().expect("an address"),
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
