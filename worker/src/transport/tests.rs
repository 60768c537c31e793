//! Who is served over TLS, by connections as gateways and sidecars make them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_identity::{AUDIENCE, Account, Authority, Member, Signer, Trust, client_config};
use mesh_runtime::Shutdown;
use mesh_runtime::serve::Limits;
use mesh_testkit::accounts::{Accounts, ISSUER};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::Front;

const DAY: Duration = Duration::from_hours(24);

/// A mesh without Kubernetes.
pub(crate) struct Mesh {
    accounts: Accounts,
    signer: Signer,
}

pub(crate) fn gateway() -> Account {
    Account::new("mesh-system", "mesh-gateway")
}

fn worker() -> Account {
    Account::new("team", "small-worker")
}

impl Mesh {
    pub(crate) fn new() -> Self {
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

    fn member(&self, account: &Account) -> Arc<Member> {
        let (chain, key) = self
            .signer
            .own(account, &[], SystemTime::now())
            .expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        member
    }

    pub(crate) fn front(&self) -> Front {
        Front {
            member: self.member(&worker()),
            trust: Arc::clone(&self.signer.trust),
            gateway: gateway(),
        }
    }

    pub(crate) fn token(&self, namespace: &str, audience: &str) -> String {
        self.accounts.token(namespace, "app", audience)
    }

    /// One request over TLS as `client`, with a token if there is one.
    pub(crate) async fn ask(
        &self,
        address: SocketAddr,
        client: Option<&Account>,
        request: Request<Body>,
    ) -> Result<(StatusCode, String), String> {
        let member = client.map(|account| self.member(account));
        let config = client_config(member.as_ref(), &self.signer.trust, Some(worker()));
        let connector = TlsConnector::from(Arc::new(config.expect("TLS")));
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = ServerName::IpAddress(address.ip().into());
        let words = |error: &dyn std::error::Error| error.to_string();
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| words(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| words(&error))?;
        let asking = async move {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| words(&error))?;
            let status = answer.status();
            let body = answer
                .into_body()
                .collect()
                .await
                .map_err(|error| words(&error))?;
            Ok((
                status,
                String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            ))
        };
        tokio::join!(asking, connection).0
    }
}

pub(crate) fn request(path: &str, token: Option<&str>) -> Request<Body> {
    let mut request = Request::get(path).header(header::HOST, "worker");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Body::empty()).expect("a request")
}

/// Serves `router` behind the front while `work` runs.
pub(crate) async fn serving<T>(
    front: Front,
    router: Router,
    work: impl AsyncFnOnce(SocketAddr) -> T,
) -> T {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = Shutdown::new();
    let serve = front.serve(listener, router, Limits::default(), &shutdown);
    let work = async {
        let done = work(address).await;
        shutdown.token.cancel();
        done
    };
    let (served, done) = tokio::join!(serve, work);
    assert!(served.expect("TLS"), "every answer ended by itself");
    done
}

#[tokio::test]
async fn gateways_and_tokens_of_the_namespace_are_served_and_everybody_else_gets_401() {
    let mesh = Mesh::new();
    // Echoes what it was told of the caller.
    let seen = |headers: http::HeaderMap| async move {
        headers.contains_key(header::AUTHORIZATION).to_string()
    };
    let router = Router::new().route("/v1/models", get(seen));
    serving(mesh.front(), router, async |address| {
        let ask = async |client: Option<&Account>, token: Option<&str>| {
            mesh.ask(address, client, request("/v1/models", token))
                .await
        };
        let (own, other) = (
            mesh.token("team", AUDIENCE),
            mesh.token("elsewhere", AUDIENCE),
        );
        let api = mesh.token("team", "api");
        let (status, told) = ask(Some(&gateway()), None).await.expect("answered");
        assert_eq!(status, StatusCode::OK, "{told}");
        let (status, told) = ask(None, Some(&own)).await.expect("answered");
        assert_eq!(
            (status, told.as_str()),
            (StatusCode::OK, "false"),
            "the token stays here"
        );
        for (client, token) in [
            (None, None),
            (None, Some(other.as_str())),
            (None, Some(api.as_str())),
            (None, Some("nonsense")),
            (Some(Account::new("team", "app")), None),
            (Some(Account::new("team", "mesh-gateway")), None),
        ] {
            let (status, told) = ask(client.as_ref(), token).await.expect("answered");
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            let body: serde_json::Value = serde_json::from_str(&told).expect("JSON");
            assert_eq!(body["error"]["code"], "invalid_api_key", "{told}");
        }
        let (status, _) = ask(None, None).await.expect("answered");
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let hidden = mesh.ask(address, None, request("/health", None)).await;
        assert_eq!(
            hidden.expect("answered").0,
            StatusCode::UNAUTHORIZED,
            "every path asks"
        );
    })
    .await;
}

#[tokio::test]
async fn a_gateway_of_another_mesh_does_not_even_get_a_connection() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    serving(mesh.front(), Router::new(), async |address| {
        // It would trust this worker, but the worker does not trust it.
        let member = other.member(&gateway());
        let config = client_config(Some(&member), &mesh.signer.trust, Some(worker()));
        let connector = TlsConnector::from(Arc::new(config.expect("TLS")));
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = ServerName::IpAddress(address.ip().into());
        // With TLS 1.3 the refusal comes with the first byte that is read.
        let Ok(mut stream) = connector.connect(name, stream).await else {
            return;
        };
        let mut bytes = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
        assert!(read.is_err() && bytes.is_empty());
    })
    .await;
}

#[tokio::test]
async fn plain_text_gets_no_answer_from_the_tls_port() {
    let mesh = Mesh::new();
    let router = Router::new().route("/v1/models", get(|| async { "never" }));
    serving(mesh.front(), router, async |address| {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let text = b"GET /v1/models HTTP/1.1\r\nhost: worker\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, text)
            .await
            .expect("sent");
        let mut answer = Vec::new();
        drop(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await);
        assert!(
            !String::from_utf8_lossy(&answer).contains("HTTP"),
            "{answer:?}"
        );
    })
    .await;
}
