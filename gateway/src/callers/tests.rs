use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use mesh_dataplane::{ApiKeys, Callers, Unrecognized};
use mesh_watch::Scope;

use super::{ClusterCallers, Labels, refresh};

/// SHA-256 of `secret`, from `printf %s secret | sha256sum`.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
/// SHA-256 of `other`.
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

fn callers(known: bool) -> ClusterCallers {
    let labels =
        move |_: &str| known.then(|| Labels::from([(String::from("a"), String::from("b"))]));
    ClusterCallers::new((Scope::Cluster, "mesh-system"), Box::new(labels), None)
}

#[test]
fn nobody_is_served_before_the_labels_of_their_namespace_are_known() {
    for (known, served) in [(false, Err(Unrecognized::NotYet)), (true, Ok("b"))] {
        let callers = callers(known);
        let keys = ApiKeys::parse(&format!("alice {HASH}")).expect("a key");
        callers.keys.store(Some(Arc::new(keys)));
        let found = callers.caller(b"secret");
        let label = found
            .as_ref()
            .map(|caller| caller.tenant_labels["a"].as_str())
            .map_err(|error| *error);
        assert_eq!(label, served);
        assert_eq!(callers.caller(b"wrong"), Err(Unrecognized::Nobody));
    }
}

/// An API server whose only Secret is this: status and hash; `None` = it cannot be reached.
fn client(now: &Arc<Mutex<Option<(u16, &'static str)>>>) -> Client {
    let now = Arc::clone(now);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (path, now) = (
            request.uri().path().to_owned(),
            *now.lock().expect("a state"),
        );
        std::future::ready(match now {
            Some((status, hash)) if path.ends_with("/secrets/mesh-api-keys") => {
                let reason = if status == 404 { "NotFound" } else { "Other" };
                let body = if status == 200 {
                    let hash = k8s_openapi::ByteString(hash.as_bytes().to_vec());
                    serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"alice": hash}})
                } else {
                    serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": reason, "code": status})
                };
                Response::builder()
                    .status(status)
                    .body(Body::from(body.to_string().into_bytes()))
                    .map_err(|error| error.to_string())
            }
            _ => Err(String::from("no route")),
        })
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn an_api_key_is_rotated_and_revoked_and_stays_while_the_api_server_is_away() {
    let now = Arc::new(Mutex::new(Some((200, HASH))));
    let (client, callers) = (client(&now), callers(true));
    let knows = async |state: Option<(u16, &'static str)>, key: &[u8]| {
        *now.lock().expect("a state") = state;
        refresh(&callers, &client).await;
        callers.caller(key).is_ok()
    };
    assert!(knows(Some((200, HASH)), b"secret").await);
    assert!(knows(None, b"secret").await, "the API server is away");
    assert!(knows(Some((500, "")), b"secret").await, "it stumbles");
    assert!(!knows(Some((200, OTHER)), b"secret").await, "rotated");
    assert!(knows(Some((200, OTHER)), b"other").await);
    assert!(!knows(Some((404, "")), b"other").await, "revoked");
    assert!(knows(Some((200, HASH)), b"secret").await);
    assert!(
        !knows(Some((403, "")), b"secret").await,
        "not ours to read any more"
    );
}

#[test]
fn a_mesh_of_one_namespace_serves_its_own_and_one_of_the_cluster_everybody() {
    let of =
        |scope: Scope, home: &str| ClusterCallers::new((scope, home), Box::new(|_| None), None);
    let narrow = of(Scope::Namespaced, "team");
    assert!(narrow.serves("team") && !narrow.serves("other") && !narrow.serves(""));
    assert_eq!(narrow.labels("team"), Err(Unrecognized::NotYet));
    narrow.own.store(Some(Arc::new(Labels::new())));
    assert_eq!(narrow.labels("team"), Ok(Labels::new()));
    let wide = of(Scope::Cluster, "mesh-system");
    assert!(wide.serves("team") && wide.serves("mesh-system"));
}

#[test]
fn what_is_known_grows_old_while_the_api_server_is_silent() {
    let callers = callers(true);
    let now = Timestamp::from_second(2_000_000_000).unwrap();
    assert_eq!(callers.as_of(now), Timestamp::UNIX_EPOCH, "never heard");
    callers.heard.store(now.as_second() - 60, Ordering::Relaxed);
    assert_eq!(callers.as_of(now), now);
    let heard = now.as_second() - 600;
    callers.heard.store(heard, Ordering::Relaxed);
    assert_eq!(callers.as_of(now).as_second(), heard);
}
