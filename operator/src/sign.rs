//! The signing endpoint over HTTP: a certificate request in, a certificate out. Served by every replica.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use mesh_identity::{LARGEST_REQUEST, SIGN_PATH, SignError, Signer};

/// Longest time for a request's body.
const BODY_TIME: Duration = Duration::from_secs(5);

pub(crate) fn router(signer: Arc<Signer>) -> Router {
    Router::new()
        .route(SIGN_PATH, post(sign))
        .with_state(signer)
}

async fn sign(State(signer): State<Arc<Signer>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIME, to_bytes(body, LARGEST_REQUEST)).await;
    let Ok(body) = body else {
        return (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response();
    };
    let Ok(body) = body else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n").into_response();
    };
    let csr = String::from_utf8_lossy(&body);
    match signer.sign(bearer(&parts.headers), &csr, SystemTime::now()) {
        Ok((account, certificate)) => {
            tracing::info!(%account, "signed a certificate");
            let kind = "application/pem-certificate-chain";
            ([(header::CONTENT_TYPE, kind)], certificate).into_response()
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &SignError) -> Response {
    tracing::info!(reason = error.reason(), "signed nothing");
    let mut response = (error.status(), format!("{error}\n")).into_response();
    if matches!(error, SignError::TooMany | SignError::NotReady) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response
}

/// The credential of `authorization: Bearer …` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use mesh_identity::{
        AUDIENCE, Account, Authority, Member, SIGN_PATH, Signer, Trust, account_of,
    };
    use mesh_testkit::accounts::{Accounts, ISSUER};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use tower::ServiceExt;

    const DAY: Duration = Duration::from_hours(24);

    fn signer(accounts: &Accounts) -> Arc<Signer> {
        let authority = Authority::generate(SystemTime::now(), DAY * 365).expect("an authority");
        let trust = Trust::new();
        trust
            .set(authority.certificate(), &accounts.keys, ISSUER)
            .expect("trust");
        let gateway = Account::new("mesh-system", "mesh-gateway");
        let hosts = HashMap::from([(gateway, crate::keeper::hosts("mesh-gateway", "mesh-system"))]);
        let signer = Signer::new(trust, hosts, DAY);
        signer.authority.store(Some(Arc::new(authority)));
        Arc::new(signer)
    }

    async fn ask(router: &Router, token: Option<&str>, csr: String) -> (StatusCode, String) {
        let mut request = Request::post(SIGN_PATH);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(csr)).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn a_token_becomes_a_certificate_of_its_account_and_nothing_else_does() {
        let accounts = Accounts::new();
        let router = super::router(signer(&accounts));
        let csr = || mesh_identity::Request::new().expect("a request").csr;
        let token = accounts.token("team", "app", AUDIENCE);
        let (status, certificate) = ask(&router, Some(&token), csr()).await;
        assert_eq!(status, StatusCode::OK, "{certificate}");
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        assert_eq!(account_of(&der), Some(Account::new("team", "app")));

        let foreign = Accounts::new().token("team", "app", AUDIENCE);
        let other = accounts.token("team", "app", "api");
        for token in [None, Some(foreign.as_str()), Some(&other), Some("")] {
            let (status, said) = ask(&router, token, csr()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert!(!said.contains("CERTIFICATE"), "{said}");
        }
        let (status, _) = ask(&router, Some(&token), String::from("nonsense")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let (status, _) = ask(&router, Some(&token), "x".repeat(1 << 16)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn who_asks_without_pause_is_told_to_wait_and_an_operator_without_authority_says_so() {
        let accounts = Accounts::new();
        let signer = signer(&accounts);
        let router = super::router(Arc::clone(&signer));
        let token = accounts.token("team", "app", AUDIENCE);
        let mut seen = Vec::new();
        for _ in 0..12 {
            let csr = mesh_identity::Request::new().expect("a request").csr;
            seen.push(ask(&router, Some(&token), csr).await.0);
        }
        assert_eq!(seen[0], StatusCode::OK);
        assert_eq!(seen[11], StatusCode::TOO_MANY_REQUESTS);
        signer.authority.store(None);
        let (status, _) = ask(&router, Some(&token), String::new()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let nobody = Member::new();
        assert!(nobody.ready(SystemTime::now()).is_err());
    }
}
