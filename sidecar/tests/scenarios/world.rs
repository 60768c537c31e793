//! A mesh without Kubernetes, and a pod of it with a sidecar in this process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mesh_core::pushed::{Floor, Floors, Line, Pushed, VERSION};
use mesh_core::{PrivacyLevel, SovereigntyClass};
use mesh_identity::{AUDIENCE, Account, Authority, Member, Signer, Trust};
use mesh_runtime::{Shutdown, serve};
use mesh_sidecar::{Args, Sidecar};
use mesh_testkit::accounts::{Accounts, ISSUER};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::peer::{Peer, limited};

const DAY: Duration = Duration::from_hours(24);

/// Who is who.
pub(crate) struct Mesh {
    accounts: Accounts,
    signer: Signer,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        mesh_runtime::install_crypto_provider();
        let accounts = Accounts::new();
        let authority = Authority::generate(SystemTime::now(), DAY * 365).expect("an authority");
        let trust = Trust::new();
        trust
            .set(authority.certificate(), &accounts.keys, ISSUER)
            .expect("trust");
        let signer = Signer::new(trust, HashMap::new(), DAY);
        signer.authority.store(Some(Arc::new(authority)));
        Self { accounts, signer }
    }

    /// A member whose certificate names `hosts`.
    pub(crate) fn member(&self, namespace: &str, name: &str, hosts: &[&str]) -> Arc<Member> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let account = Account::new(namespace, name);
        let own = self.signer.own(&account, &hosts, SystemTime::now());
        let (chain, key) = own.expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    pub(crate) fn gateway(&self) -> Arc<Member> {
        self.member("mesh-system", "mesh-gateway", &["localhost"])
    }

    pub(crate) fn floor(&self) -> Arc<Member> {
        self.member("mesh-system", "floor-worker", &[])
    }

    /// What members of it trust.
    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.signer.trust)
    }

    fn authorities(&self) -> String {
        let authority = self.signer.authority.load_full().expect("an authority");
        authority.certificate().to_owned()
    }
}

/// A floor at `address`.
pub(crate) fn floor_at(address: SocketAddr) -> Floor {
    Floor {
        backend: String::from("floor"),
        url: format!("https://localhost:{}", address.port())
            .parse()
            .expect("a URL"),
        account: String::from("mesh-system/floor-worker"),
        model: String::from("smollm2"),
        names: vec![String::from("smollm2"), String::from("small")],
        class: SovereigntyClass::OwnHardware,
        max_privacy: PrivacyLevel::Restricted,
        trim: true,
    }
}

/// A policy with this base.
pub(crate) fn policy(base_level: PrivacyLevel) -> Pushed {
    Pushed {
        version: VERSION,
        policies: Vec::new(),
        base_level,
        incomplete_level: PrivacyLevel::Restricted,
        default_latency: None,
        minimum_class: [
            SovereigntyClass::CloudRetained,
            SovereigntyClass::CloudDomestic,
            SovereigntyClass::RentedHardware,
            SovereigntyClass::OwnHardware,
        ],
        deadline_ms: 60_000,
        substitution: true,
        floor: None,
    }
}

pub(crate) fn line(pushed: &Pushed) -> String {
    String::from_utf8(Line::Snapshot(Box::new(pushed.clone())).write()).expect("text")
}

/// What Kubernetes puts into a pod.
pub(crate) struct Pod {
    folder: TempDir,
    pub(crate) token: String,
}

impl Pod {
    pub(crate) fn new(mesh: &Mesh, floors: &[Floor]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let token = mesh.accounts.token("team", "app", AUDIENCE);
        let floors = Floors::new(floors.iter().cloned().collect()).write();
        for name in ["trust", "snapshot"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        for (file, text) in [
            ("trust/ca.crt", mesh.authorities().as_str()),
            ("trust/jwks.json", &mesh.accounts.keys),
            ("trust/issuer", ISSUER),
            ("trust/floor", &floors),
            ("token", &token),
        ] {
            std::fs::write(folder.path().join(file), text).expect("written");
        }
        Self { folder, token }
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    pub(crate) fn keep_snapshot(&self, text: &str) {
        let file = Path::new(&self.path("snapshot")).join("snapshot.json");
        std::fs::write(file, text).expect("written");
    }

    pub(crate) fn kept_snapshot(&self) -> Option<String> {
        std::fs::read_to_string(Path::new(&self.path("snapshot")).join("snapshot.json")).ok()
    }

    /// The command line of its sidecar.
    pub(crate) fn args(&self, gateway: SocketAddr) -> Vec<String> {
        let gateway = format!("https://localhost:{}", gateway.port());
        let (trust, token, snapshot) = (
            self.path("trust"),
            self.path("token"),
            self.path("snapshot"),
        );
        [
            ("--gateway-url", gateway.as_str()),
            ("--trust", &trust),
            ("--token-file", &token),
            ("--snapshot", &snapshot),
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect()
    }
}

/// A running sidecar.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) sidecar: Sidecar,
    registry: Registry,
    shutdown: Shutdown,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.token.cancel();
    }
}

impl Running {
    pub(crate) async fn start(pod: &Pod, gateway: SocketAddr, more: &[&str]) -> Self {
        let mut args = vec![String::from("mesh-sidecar")];
        args.extend(pod.args(gateway));
        args.extend(more.iter().map(|word| (*word).to_owned()));
        let shutdown = Shutdown::new();
        let sidecar = Sidecar::start(&Args::parse_from(args), &shutdown).expect("a sidecar");
        let mut registry = Registry::with_prefix("mesh_sidecar");
        sidecar.register(&mut registry);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (router, own) = (sidecar.router(), shutdown.clone());
        shutdown.spawn(async move {
            serve::serve(listener, router, serve::Limits::default(), &own).await;
        });
        Self {
            address,
            sidecar,
            registry,
            shutdown,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Waits until the gateway's snapshot is in use and the floor is known.
    pub(crate) async fn told(self) -> Self {
        self.until(|state| state["snapshotAgeSeconds"].is_u64())
            .await;
        self.knows_a_floor().await
    }

    /// Waits until the floor is known.
    pub(crate) async fn knows_a_floor(self) -> Self {
        self.until(|state| state["floor"] == "known").await;
        self
    }

    pub(crate) async fn until(&self, found: impl Fn(&Value) -> bool) {
        let looking = async {
            while !found(&self.sidecar.state()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        limited(looking).await;
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text
    }

    pub(crate) async fn wait_for_metric(&self, line: &str) {
        let looking = async {
            while !self.metrics().lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        limited(looking).await;
    }

    pub(crate) async fn open(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        limited(self.client.request(request))
            .await
            .expect("an answer")
    }

    pub(crate) fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body)).expect("a request")
    }

    /// Asks and reads the whole answer.
    pub(crate) async fn ask(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        let request = self.post("/v1/chat/completions", headers, body.to_string());
        Answer::read(self.open(request).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(format!("http://{}{path}", self.address));
        let request = request.body(Full::default()).expect("a request");
        Answer::read(self.open(request).await).await
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    async fn read(answer: Response<Incoming>) -> Self {
        let (parts, body) = answer.into_parts();
        let body = limited(body.collect()).await.expect("a body").to_bytes();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }
}

pub(crate) fn chat(text: &str) -> Value {
    json!({"model": "auto", "messages": [{"role": "user", "content": text}]})
}

/// A gateway that tells this policy, a floor, and a sidecar that knows both.
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) pod: Pod,
    pub(crate) gateway: Peer,
    pub(crate) floor: Peer,
}

impl World {
    pub(crate) async fn new() -> Self {
        let mesh = Mesh::new();
        let gateway = Peer::start(&mesh.gateway()).await;
        let floor = Peer::start(&mesh.floor()).await;
        let pod = Pod::new(&mesh, &[floor_at(floor.address)]);
        Self {
            mesh,
            pod,
            gateway,
            floor,
        }
    }

    pub(crate) async fn told(self, pushed: &Pushed) -> (Self, Running) {
        self.gateway.push(&line(pushed));
        let running = Running::start(&self.pod, self.gateway.address, &[]).await;
        let running = running.told().await;
        (self, running)
    }
}
