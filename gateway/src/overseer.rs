//! What the operator may ask and nobody else: how all backends do, for their status. It is known by its
//! certificate alone. Whoever shows none, or another's, is a caller like any other.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::Method;
use mesh_crds::Standings;
use mesh_dataplane::Dataplane;
use mesh_identity::{Account, account_of, validity};
use mesh_runtime::serve::PeerCertificate;

/// ServiceAccount of the operator.
const OPERATOR: &str = "mesh-operator";
/// Where callers see what they may use, and the operator everything.
const PATH: &str = "/mesh/v1/backends";

/// Tells how all backends do.
type Tell = Arc<dyn Fn() -> Standings + Send + Sync>;

#[derive(Clone)]
struct Overseer {
    operator: Account,
    tell: Tell,
}

/// What the data plane serves, but for what the operator asks. Only for a listener that verifies certificates.
pub(crate) fn router(dataplane: &Dataplane, mesh_namespace: &str) -> Router {
    let told = dataplane.clone();
    let tell = Arc::new(move || told.standings());
    before(dataplane.router_of_cluster(), mesh_namespace, tell)
}

fn before(router: Router, mesh_namespace: &str, tell: Tell) -> Router {
    let overseer = Overseer {
        operator: Account::new(mesh_namespace, OPERATOR),
        tell,
    };
    router.layer(from_fn_with_state(overseer, answer))
}

async fn answer(State(overseer): State<Overseer>, request: Request, next: Next) -> Response {
    let asked = request.method() == Method::GET && request.uri().path() == PATH;
    let shown = request.extensions().get::<PeerCertificate>();
    if asked && shown.is_some_and(|shown| overseer.is(shown, SystemTime::now())) {
        return Json((overseer.tell)()).into_response();
    }
    next.run(request).await
}

impl Overseer {
    /// True if the handshake has verified the operator. A connection may live longer than the certificate
    /// that it began with.
    fn is(&self, shown: &PeerCertificate, now: SystemTime) -> bool {
        let lives = validity(&shown.0).is_ok_and(|(_, until)| now < until);
        lives && account_of(&shown.0).as_ref() == Some(&self.operator)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use http::{Method, Request};
    use mesh_crds::inference_backend::HealthState;
    use mesh_crds::{Standing, Standings};
    use mesh_identity::{Account, Authority, Member, Signer, Trust};
    use mesh_runtime::serve::PeerCertificate;
    use tower::ServiceExt;

    use super::before;

    const HOUR: Duration = Duration::from_hours(1);

    /// A certificate for this account, as the authority of a mesh gives it.
    fn certificate(account: &Account, now: SystemTime) -> PeerCertificate {
        mesh_runtime::install_crypto_provider();
        let authority = Authority::generate(now, HOUR * 24).expect("an authority");
        let signer = Signer::new(Trust::new(), HashMap::new(), HOUR);
        signer.authority.store(Some(Arc::new(authority)));
        let (chain, key) = signer.own(account, &[], now).expect("signed");
        let member = Member::new();
        member.install(&chain, &key).expect("installed");
        PeerCertificate(member.chain().remove(0))
    }

    async fn ask(method: Method, path: &str, shown: Option<PeerCertificate>) -> String {
        let behind = Router::new().fallback(async || "a caller like any other");
        let standing = Standing {
            namespace: String::from("team"),
            name: String::from("big"),
            state: HealthState::Unhealthy,
            reason: Some(String::from("Failures")),
            authority: None,
        };
        let tell = Arc::new(move || Standings {
            backends: vec![standing.clone()],
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        if let Some(shown) = shown {
            request.extensions_mut().insert(shown);
        }
        let router = before(behind, "mesh-system", tell);
        let answer = router.oneshot(request).await.expect("an answer");
        let body = to_bytes(answer.into_body(), 4096).await.expect("a body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn the_operator_is_told_how_all_backends_do() {
        let operator = Account::new("mesh-system", "mesh-operator");
        let shown = certificate(&operator, SystemTime::now());
        let told = ask(Method::GET, "/mesh/v1/backends", Some(shown)).await;
        let expected = r#"{"backends":[{"namespace":"team","name":"big","state":"Unhealthy","reason":"Failures"}]}"#;
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn everybody_else_is_a_caller_like_any_other() {
        let now = SystemTime::now();
        let operator = Account::new("mesh-system", "mesh-operator");
        let good = certificate(&operator, now);
        let others = [
            None,
            Some(certificate(
                &Account::new("mesh-system", "mesh-gateway"),
                now,
            )),
            Some(certificate(&Account::new("team", "mesh-operator"), now)),
            // Of a connection that has outlived it.
            Some(certificate(&operator, now - HOUR * 2)),
        ];
        for shown in others {
            let told = ask(Method::GET, "/mesh/v1/backends", shown).await;
            assert_eq!(told, "a caller like any other");
        }
        for (method, path) in [
            (Method::POST, "/mesh/v1/backends"),
            (Method::GET, "/v1/models"),
            (Method::GET, "/mesh/v1/backends/"),
        ] {
            let told = ask(method, path, Some(good.clone())).await;
            assert_eq!(told, "a caller like any other");
        }
    }
}
