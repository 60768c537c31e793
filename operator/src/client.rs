//! The client of the API server: counts what is asked, does not wait for ever for an answer to anything but
//! a watch, and refuses to write for who does not lead.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::lease::Fence;
use crate::metrics::Metrics;

/// Longest wait for the head of an answer. A lease is lost sooner.
const LIMIT: Duration = Duration::from_secs(30);

/// A client for the cluster of the environment; with a fence, writes pass only while that is open.
pub(crate) async fn connect(metrics: &Metrics, fence: Option<Fence>) -> anyhow::Result<Client> {
    let config = Config::infer().await?;
    let layer = Counting {
        metrics: metrics.clone(),
        fence,
    };
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

struct Counting {
    metrics: Metrics,
    fence: Option<Fence>,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            metrics: self.metrics.clone(),
            fence: self.fence.clone(),
        }
    }
}

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    metrics: Metrics,
    fence: Option<Fence>,
}

impl<S> Counted<S> {
    /// The lease itself is how one comes to lead.
    fn may(&self, verb: &str, resource: &str) -> bool {
        matches!(verb, "get" | "list" | "watch")
            || resource == "leases"
            || self.fence.as_ref().is_none_or(Fence::open)
    }
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let uri = request.uri();
        let (verb, resource) = asked(request.method(), uri.path(), uri.query());
        let metrics = self.metrics.clone();
        if !self.may(verb, &resource) {
            metrics.requested(verb, resource, String::from("refused"));
            return Box::pin(std::future::ready(Err("this replica does not lead".into())));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answered = if verb == "watch" {
                answer.await
            } else {
                match tokio::time::timeout(LIMIT, answer).await {
                    Ok(answered) => answered,
                    Err(late) => {
                        metrics.requested(verb, resource, String::from("timeout"));
                        return Err(late.into());
                    }
                }
            };
            let code = answered.as_ref().map_or_else(
                |_| String::from("error"),
                |answer| answer.status().as_u16().to_string(),
            );
            metrics.requested(verb, resource, code);
            answered
        })
    }
}

/// Verb and resource as a rule of RBAC names them.
fn asked(method: &Method, path: &str, query: Option<&str>) -> (&'static str, String) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    // `api/v1` or `apis/<group>/<version>`.
    let prefix = if parts.first() == Some(&"api") { 2 } else { 3 };
    parts.drain(..prefix.min(parts.len()));
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let named = parts.len() > 1;
    let watching = query.is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match *method {
        Method::GET if watching => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    let resource = match parts.as_slice() {
        [resource, _, below, ..] => format!("{resource}/{below}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::asked;

    #[test]
    fn a_request_is_named_as_a_rule_of_rbac_names_it() {
        let backends = "/apis/inferencemesh.dev/v1alpha1/namespaces/a/inferencebackends/b/status";
        let cases = [
            (
                Method::GET,
                "/api/v1/pods",
                Some("&watch=true&timeoutSeconds=290"),
                "watch",
                "pods",
            ),
            (
                Method::GET,
                "/api/v1/pods",
                Some("limit=500"),
                "list",
                "pods",
            ),
            (
                Method::GET,
                "/api/v1/namespaces",
                None,
                "list",
                "namespaces",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                None,
                "get",
                "namespaces",
            ),
            (
                Method::PATCH,
                backends,
                None,
                "patch",
                "inferencebackends/status",
            ),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/a/controllerrevisions",
                None,
                "create",
                "controllerrevisions",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments/d",
                None,
                "delete",
                "deployments",
            ),
        ];
        for (method, path, query, verb, resource) in cases {
            assert_eq!(
                asked(&method, path, query),
                (verb, resource.to_owned()),
                "{path}"
            );
        }
    }
}
