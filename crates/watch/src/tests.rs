use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use kube::api::ApiResource;
use kube::client::Body;
use kube::core::Status;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Place, Progress, Teller, Watches, refusal};

fn error(code: u16) -> watcher::Error {
    let status = Status {
        code,
        ..Status::default()
    };
    watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
}

#[test]
fn a_kind_that_is_not_served_is_told_apart_from_an_api_server_that_is_away() {
    assert!(refusal(&error(404)).is_some_and(|why| why.contains("custom resource")));
    assert!(refusal(&error(403)).is_some_and(|why| why.contains("rights")));
    assert!(refusal(&error(500)).is_none());
}

#[test]
fn a_kind_that_need_not_be_served_is_not_waited_for_where_it_is_not() {
    for (optional, served, waits) in [(true, 404, false), (true, 403, true), (false, 404, true)] {
        let (sender, changed) = tokio::sync::watch::channel(0);
        let mut teller = Teller {
            kind: String::from("ServiceCIDR"),
            number: 0,
            optional: optional.then_some("there are none"),
            absent: false,
            changed: Arc::new(sender),
            places: super::Places::default(),
            listener: None,
        };
        super::lock(&teller.places).insert(teller.key(), Place::default());
        let rest = teller.failed(&error(served));
        assert_eq!(rest.is_some(), !waits, "{optional} {served}");
        assert_eq!(teller.absent, !waits, "said once: {optional} {served}");
        let places = Arc::clone(&teller.places);
        let progress = Progress { changed, places };
        assert_eq!(!progress.missing().is_empty(), waits, "{optional} {served}");
    }
}

#[test]
fn what_was_listed_once_is_never_missing_again_but_may_be_lost() {
    let progress = |listed, refused: Option<&str>| {
        let (_, changed) = tokio::sync::watch::channel(0);
        let place = Place {
            listed,
            refused: refused.map(str::to_owned),
        };
        let places = super::Places::default();
        super::lock(&places).insert((String::from("Pod"), 0), place);
        Progress { changed, places }
    };
    let never = progress(false, None);
    assert!(never.missing()[0].contains("Pod") && never.lost().is_empty());
    let gone = progress(true, Some(": why"));
    assert!(gone.missing().is_empty() && gone.lost()[0].ends_with(": why"));
    let good = progress(true, None);
    assert!(good.missing().is_empty() && good.lost().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_need_not_be_served_is_not_asked_for_all_the_time() {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let service = tower::service_fn(move |_: http::Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let answer = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "not found", "reason": "NotFound", "code": 404});
        let response = http::Response::builder()
            .status(404)
            .body(Body::from(answer.to_string().into_bytes()));
        std::future::ready(response)
    });
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let client = Client::new(service, "default");
    let watches = Watches::new(client, tracker.clone(), stop.clone());
    let networks = watches.of_cluster_if_served::<ServiceCIDR>(|_| (), "there are none");
    tokio::time::sleep(Duration::from_mins(4)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(watches.progress().missing().is_empty() && networks.is_empty());
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(asked.load(Ordering::Relaxed) >= 2, "looked for again");
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

type Answer = http::Response<Body>;

fn status(code: u16) -> Answer {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code});
    let body = Body::from(status.to_string().into_bytes());
    http::Response::builder().status(code).body(body).unwrap()
}

/// An API server that lists one object, ends the first watch, answers the next one so, and goes on with later ones for ever.
/// Counts lists and watches.
fn refuses(code: u16, asked: &Arc<[AtomicU32; 2]>) -> Client {
    let asked = Arc::clone(asked);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let before = asked[usize::from(watch)].fetch_add(1, Ordering::Relaxed);
        let answer = match (watch, before) {
            (false, _) => {
                let one = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "resourceVersion": "6"}});
                let list = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": [one]});
                Some(Answer::new(Body::from(list.to_string().into_bytes())))
            }
            (true, 0) => Some(Answer::new(Body::empty())),
            (true, 1) => Some(status(code)),
            (true, _) => None,
        };
        async move {
            match answer {
                Some(answer) => Ok::<_, std::convert::Infallible>(answer),
                None => std::future::pending().await,
            }
        }
    });
    Client::new(service, "default")
}

fn count(asked: &[AtomicU32; 2]) -> [u32; 2] {
    [0, 1].map(|which: usize| asked[which].load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_once_when_a_watch_was_taken_up_again_is_not_lost() {
    for code in [403, 404] {
        let asked = Arc::default();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let watches = Watches::new(refuses(code, &asked), tracker.clone(), stop.clone());
        let progress = watches.progress();
        let maps = watches.raw::<ConfigMap>();
        let mut changed = progress.changed();
        while progress.lost().is_empty() {
            changed.changed().await.unwrap();
        }
        assert_eq!(maps.len(), 1, "what was known stays known: {code}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(progress.lost(), Vec::<String>::new(), "{code}");
        assert!(progress.missing().is_empty() && maps.len() == 1, "{code}");
        assert_eq!(
            count(&asked),
            [2, 3],
            "listed once more and watched: {code}"
        );
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_need_not_be_served_may_be_served_no_longer() {
    let asked = Arc::default();
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let watches = Watches::new(refuses(404, &asked), tracker.clone(), stop.clone());
    let progress = watches.progress();
    let resource = ApiResource::erase::<ConfigMap>(&());
    let maps = watches.dynamic_if_served(resource, "", "there are none");
    tokio::time::sleep(Duration::from_mins(4)).await;
    assert_eq!(count(&asked), [1, 2]);
    assert_eq!(progress.lost(), Vec::<String>::new());
    assert!(progress.missing().is_empty() && maps.len() == 1);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(count(&asked), [2, 3], "looked for again, from a list on");
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}
