//! Pods of a cluster: a prompt goes to the pod that proves to be one of its backend, and to no other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use mesh_backends::{AttemptError, Backends, ClientOptions, PodTls};
use mesh_core::{Backend, BackendId, Place, Pod, Pods};
use mesh_identity::{Account, Authority, Member, Signer, Trust, client_config, server_config};
use mesh_runtime::Shutdown;
use mesh_runtime::serve::{Limits, serve_tls};
use mesh_testkit::accounts::{Accounts, ISSUER};
use tokio::net::TcpListener;

use crate::world::{admitted, backend, chat, endpoint, finished, send, text};

const DAY: Duration = Duration::from_hours(24);
const ANSWER: &str = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"},\"finish_reason\":null}]}\n\n\
data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// An authority and those it vouches for.
struct Mesh {
    signer: Signer,
}

impl Mesh {
    fn new() -> Self {
        let authority = Authority::generate(SystemTime::now(), DAY * 365).expect("an authority");
        let trust = Trust::new();
        trust
            .set(authority.certificate(), &Accounts::new().keys, ISSUER)
            .expect("trust");
        let signer = Signer::new(trust, HashMap::new(), DAY);
        signer.authority.store(Some(Arc::new(authority)));
        Self { signer }
    }

    fn member(&self, namespace: &str, name: &str) -> Arc<Member> {
        let account = Account::new(namespace, name);
        let (chain, key) = self
            .signer
            .own(&account, &[], SystemTime::now())
            .expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    fn gateway(&self) -> Arc<Gateway> {
        Arc::new(Gateway {
            member: self.member("mesh-system", "mesh-gateway"),
            trust: Arc::clone(&self.signer.trust),
        })
    }
}

#[derive(Debug)]
struct Gateway {
    member: Arc<Member>,
    trust: Arc<Trust>,
}

impl PodTls for Gateway {
    fn generation(&self) -> u64 {
        0
    }

    fn config(&self, backend: &BackendId) -> Option<rustls::ClientConfig> {
        let expected = Account::new(&backend.namespace, format!("{}-worker", backend.name));
        client_config(Some(&self.member), &self.trust, Some(expected)).ok()
    }
}

/// A pod that counts what reaches it.
struct Server {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
}

async fn pod(member: &Arc<Member>, trust: &Arc<Trust>, shutdown: &Shutdown) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let answer = |State(seen): State<Arc<AtomicUsize>>| async move {
        seen.fetch_add(1, Ordering::Relaxed);
        ([("content-type", "text/event-stream")], ANSWER)
    };
    let router = Router::new()
        .route("/v1/chat/completions", post(answer))
        .route("/v1/models", get(answer))
        .with_state(Arc::clone(&seen));
    let tls = server_config(member, Some(trust)).expect("TLS");
    let serving = shutdown.clone();
    shutdown.spawn(async move {
        serve_tls(listener, tls, router, Limits::default(), &serving).await;
    });
    Server { address, seen }
}

fn backends(gateway: &Arc<Gateway>) -> Backends {
    Backends::new(ClientOptions {
        connect_timeout: Duration::from_secs(5),
        pods: Some(Arc::<Gateway>::clone(gateway)),
        ..ClientOptions::default()
    })
    .expect("clients")
}

fn served_by(pods: &[&Server]) -> Backend {
    let pod = |(number, server): (usize, &&Server)| {
        Arc::new(Pod {
            name: format!("pod-{number}"),
            address: server.address,
            node: None,
        })
    };
    let pods = pods.iter().enumerate().map(pod).collect();
    Backend {
        id: BackendId::home("default", "small"),
        place: Place::Pods(Pods { pods }),
        ..backend(endpoint("https://nowhere.invalid"))
    }
}

#[tokio::test]
async fn a_pod_of_another_account_gets_no_prompt_and_the_true_one_answers() {
    let (mesh, shutdown) = (Mesh::new(), Shutdown::new());
    let trust = &mesh.signer.trust;
    let forged = pod(&mesh.member("default", "other-worker"), trust, &shutdown).await;
    let stranger = pod(
        &Mesh::new().member("default", "small-worker"),
        trust,
        &shutdown,
    )
    .await;
    let gateway = mesh.gateway();
    let backends = backends(&gateway);

    let only = served_by(&[&forged, &stranger]);
    let (events, error) = send(&backends, &admitted(only.clone()), chat()).await;
    assert!(events.is_empty());
    assert!(matches!(error, Some(AttemptError::Tls(_))), "{error:?}");
    let probed = backends.probe(&only).await;
    assert!(matches!(probed, Err(AttemptError::Tls(_))), "{probed:?}");

    let genuine = pod(&mesh.member("default", "small-worker"), trust, &shutdown).await;
    let all = served_by(&[&forged, &stranger, &genuine]);
    for _ in 0..4 {
        let (events, error) = send(&backends, &admitted(all.clone()), chat()).await;
        assert_eq!(error, None);
        assert!(finished(&events));
        assert_eq!(text(&events), "hello");
    }
    assert_eq!(genuine.seen.load(Ordering::Relaxed), 4);
    for pretender in [&forged, &stranger] {
        assert_eq!(pretender.seen.load(Ordering::Relaxed), 0, "not one request");
    }
    drop(backends);
    assert!(shutdown.finish(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_pod_that_speaks_plain_text_gets_none() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let router = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { "plain" }
    });
    let plain = Server { address, seen };
    let gateway = mesh.gateway();
    let backends = backends(&gateway);
    let backend = admitted(served_by(&[&plain]));
    tokio::select! {
        served = axum::serve(listener, router) => unreachable!("{served:?}"),
        (events, error) = send(&backends, &backend, chat()) => {
            assert!(events.is_empty());
            assert!(matches!(error, Some(AttemptError::Tls(_))), "{error:?}");
        }
    }
    assert_eq!(plain.seen.load(Ordering::Relaxed), 0);
}
