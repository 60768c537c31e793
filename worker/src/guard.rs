//! `mesh-worker guard`: the TLS front for a model server that is not ours (vLLM, llama.cpp), beside it in
//! its pod. Only the paths of OpenAI's API go through, with few headers; what else such a server offers
//! (its administration, its adapters) is nobody's business out there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use http_body_util::{LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mesh_protocol::openai::error::ErrorBody;
use mesh_runtime::{Admin, Shutdown, listen, serve};
use prometheus_client::registry::Registry;

use crate::transport::{Front, Transport};

/// Largest request body in bytes.
const BODY_LIMIT: usize = 8 << 20;
/// Longest time to connect; it is the same machine.
const CONNECT: Duration = Duration::from_secs(2);
/// How often the model server is asked whether it is well, and how long it may take to say so.
const LOOK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What goes through, to the server and back.
const ASKED: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ACCEPT];
const ANSWERED: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
];

/// Settings of `guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Guard {
    #[command(flatten)]
    transport: Transport,
    /// Where the model server listens.
    #[arg(long, env = "MESH_GUARDED", default_value = "127.0.0.1:8000")]
    to: SocketAddr,
    /// Path that answers 200 once the model server can serve.
    #[arg(long, env = "MESH_HEALTH_PATH", default_value = "/health")]
    health_path: String,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    admin_listen: SocketAddr,
    /// Seconds after SIGTERM in which requests are still taken, until every sender has heard.
    #[arg(long, env = "MESH_DRAIN_DELAY", default_value_t = 0)]
    drain_delay: u64,
    /// Seconds after that in which answers may end.
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value_t = 30)]
    drain_timeout: u64,
}

type Forward = Client<HttpConnector, Body>;

#[derive(Clone)]
struct Guarded {
    client: Forward,
    authority: Authority,
}

pub(crate) async fn run(options: Guard) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    let admin_listener = listen::bind(options.admin_listen, "--admin-listen").await?;
    tracing::info!("admin on http://{}", admin_listener.local_addr()?);
    let Some((front, listener)) = Front::start(&options.transport, &shutdown).await? else {
        anyhow::bail!("--tls-listen is missing: a guard without TLS guards nothing");
    };
    let guarded = Guarded::new(options.to)?;
    let well = Arc::new(AtomicBool::new(false));
    watch(&guarded, &options.health_path, &well, &shutdown)?;

    let mut registry = Registry::with_prefix("mesh_guard");
    front.register(&mut registry);
    let (seen, ending, admitted) = (Arc::clone(&well), shutdown.clone(), front.clone());
    let missing = move || {
        let mut missing: Vec<String> = admitted.missing().into_iter().collect();
        if !seen.load(Ordering::Relaxed) {
            missing.push(String::from(
                "the model server does not say that it is well",
            ));
        }
        if ending.draining() {
            missing.push(String::from("it was asked to end"));
        }
        missing
    };
    let admin = Admin::new(registry, Arc::new(missing), Arc::new(|| ())).router();
    let admin = admin.route(
        "/engine",
        get(move || std::future::ready(engine(well.load(Ordering::Relaxed)))),
    );
    let ended = shutdown.clone();
    shutdown.spawn(async move {
        serve::serve(admin_listener, admin, serve::Limits::default(), &ended).await;
    });

    let signals = shutdown.clone();
    let delay = Duration::from_secs(options.drain_delay);
    shutdown.spawn(async move { signals.on_signal_drain(delay).await });
    let limits = serve::Limits {
        grace: Duration::from_secs(options.drain_timeout),
        ..serve::Limits::default()
    };
    tracing::info!(to = %options.to, "guarding");
    if !front
        .serve(listener, router(guarded), limits, &shutdown)
        .await?
    {
        tracing::warn!("answers still running were cut");
    }
    shutdown.finish(GRACE).await;
    Ok(())
}

/// For the model server's own probes, which cannot reach its loopback.
fn engine(well: bool) -> (StatusCode, &'static str) {
    if well {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not well\n")
    }
}

impl Guarded {
    fn new(to: SocketAddr) -> anyhow::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(connector),
            authority: to.to_string().parse()?,
        })
    }

    fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme("http")
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
    }

    async fn healthy(&self, uri: &Uri) -> bool {
        let asked = self.client.get(uri.clone());
        let answered = tokio::time::timeout(ANSWER, asked).await;
        matches!(answered, Ok(Ok(answer)) if answer.status().is_success())
    }
}

/// Asks the model server again and again whether it is well.
fn watch(
    guarded: &Guarded,
    path: &str,
    well: &Arc<AtomicBool>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let uri = guarded.uri(path)?;
    let (guarded, well, token) = (guarded.clone(), Arc::clone(well), shutdown.token.clone());
    let look = async move {
        loop {
            well.store(guarded.healthy(&uri).await, Ordering::Relaxed);
            tokio::time::sleep(LOOK).await;
        }
    };
    shutdown.spawn(async move {
        token.run_until_cancelled(look).await;
    });
    Ok(())
}

fn router(guarded: Guarded) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(forward))
        .route("/v1/completions", post(forward))
        .route("/v1/embeddings", post(forward))
        .route("/v1/models", get(forward))
        .fallback(|| async {
            fault(
                StatusCode::NOT_FOUND,
                "there is nothing at this path",
                "not_found",
            )
        })
        .with_state(guarded)
}

async fn forward(State(guarded): State<Guarded>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Without its query: the API has none, and a server may.
    let Ok(uri) = guarded.uri(parts.uri.path()) else {
        return fault(
            StatusCode::BAD_REQUEST,
            "this is not a path",
            "invalid_request",
        );
    };
    let announced = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
        return too_large();
    }
    let mut outgoing = http::Request::new(Body::new(Limited::new(body, BODY_LIMIT)));
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = kept(&parts.headers, &ASKED);
    match guarded.client.request(outgoing).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            let mut response = Response::new(Body::new(body));
            *response.status_mut() = parts.status;
            *response.headers_mut() = kept(&parts.headers, &ANSWERED);
            response
        }
        Err(error) if limit(&error) => too_large(),
        Err(error) => {
            tracing::debug!(%error, "the model server did not answer");
            let mut response = fault(
                StatusCode::SERVICE_UNAVAILABLE,
                "the model server does not answer",
                "engine_unavailable",
            );
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
            response
        }
    }
}

fn kept(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let found = names
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    found.collect()
}

/// True if the body was longer than it may be.
fn limit(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if inner.is::<LengthLimitError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

fn too_large() -> Response {
    fault(
        StatusCode::PAYLOAD_TOO_LARGE,
        "the request is larger than 8 MiB",
        "request_too_large",
    )
}

fn fault(status: StatusCode, message: &str, code: &str) -> Response {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    let body = axum::Json(ErrorBody::new(message, kind, None, code));
    (status, body).into_response()
}

#[cfg(test)]
mod tests;
