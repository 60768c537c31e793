//! What the application asked, as it can be sent again, and asking the gateway: twice if it is not there, since
//! another replica may be. What a gateway may have begun is not asked of a second one: a cloud would be paid twice.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use mesh_core::{PrivacyLevel, SovereigntyClass};
use tokio::time::Instant;

use crate::Shared;
use crate::head::{asked, passed_on};
use crate::metrics::GATEWAY;
use crate::peer::Failure;
use crate::relay::{relay, word};

/// A failure that took longer will not be quicker the second time.
pub(crate) const QUICK: Duration = Duration::from_secs(1);

/// A request, whole.
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Path and, where the mesh reads one, query.
    pub(crate) path: Uri,
    /// As the application sent them.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    /// For a peer, with the pod's credential instead of the application's.
    pub(crate) fn request(
        &self,
        bearer: &HeaderValue,
        level: Option<PrivacyLevel>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.path);
        *request.headers_mut() = asked(&self.headers, bearer.clone(), level);
        request
    }
}

/// True for an answer that is not a gateway's: somebody on the way says that there is none.
pub(crate) fn absent<B>(answer: &http::Response<B>) -> bool {
    let gone = matches!(
        answer.status(),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    gone && !answer.headers().contains_key("mesh-reason")
}

/// The gateway's answer as it is.
///
/// # Errors
/// If no gateway answers; then nothing has been answered to the application.
pub(crate) async fn gateway(
    shared: &Shared,
    ask: &Ask,
    bearer: &HeaderValue,
    level: Option<PrivacyLevel>,
    limit: Duration,
) -> Result<Response, Failure> {
    let mut last = Failure::Connect;
    for _ in 0..2 {
        let begun = Instant::now();
        let sent = shared.gateway.send(ask.request(bearer, level), limit).await;
        let mut begins = ask.method != Method::GET;
        last = match sent {
            Ok(answer) if absent(&answer) => {
                // Of the three, one says that the request went nowhere.
                begins &= answer.status() != StatusCode::SERVICE_UNAVAILABLE;
                Failure::Absent
            }
            Ok(answer) => return Ok(answered(shared, answer)),
            Err(failure) => {
                begins &= failure != Failure::Connect;
                failure
            }
        };
        shared.metrics.attempted(GATEWAY, None, last.as_str());
        if begins || begun.elapsed() > QUICK {
            break;
        }
    }
    // One that was there and went, or took long over one request, may be there for the next.
    let gone = matches!(last, Failure::Connect | Failure::Absent);
    if gone && shared.breaker.failed() {
        tracing::warn!(cause = last.as_str(), "no gateway answers");
    }
    Err(last)
}

fn answered(shared: &Shared, answer: http::Response<hyper::body::Incoming>) -> Response {
    if shared.breaker.answered() {
        tracing::info!("a gateway answers again");
    }
    let class = answer.headers().get("mesh-sovereignty-class");
    let class = class.and_then(|word| {
        let mut all = SovereigntyClass::ALL.into_iter();
        all.find(|class| class.as_str().as_bytes() == word.as_bytes())
    });
    let outcome = word(&answer).unwrap_or("ok");
    shared.metrics.attempted(GATEWAY, class, outcome);
    let mut headers = answer.headers().clone();
    passed_on(&mut headers);
    relay(answer, headers, None)
}
