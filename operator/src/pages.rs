//! Lists of the API server, page by page, so that neither side ever holds all of what may be many. Refuses to give
//! a part of a list for the whole.

use std::fmt::Debug;

use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;

/// Objects at a time.
const PAGE: u32 = 500;

/// Shows everything that is meant by `params`, as it comes.
pub(crate) async fn each<K>(
    api: &Api<K>,
    params: ListParams,
    mut see: impl FnMut(K),
) -> kube::Result<()>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut see);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(()),
        }
    }
}

/// An API server that a test plays.
#[cfg(test)]
pub(crate) mod testing {
    use std::future::Future;
    use std::pin::Pin;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    type Answer = Pin<Box<dyn Future<Output = Value> + Send>>;

    /// A client of an API server that answers paths, with their queries, so.
    pub(crate) fn server(answer: impl Fn(String) -> Answer + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = request.uri().to_string();
            let answered = answer(asked);
            async move {
                let body = answered.await.to_string();
                Ok::<_, std::io::Error>(Response::new(Body::from(body.into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    /// A page of a list of pods; `next` names the one that follows.
    pub(crate) fn pods(items: &[Value], next: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"continue": next}, "items": items})
    }

    /// What the query says of a key.
    pub(crate) fn query(asked: &str, key: &str) -> Option<String> {
        let (_, query) = asked.split_once('?')?;
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(name, value)| (name == key).then(|| value.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use kube::api::{Api, ListParams};
    use serde_json::{Value, json};

    use super::each;
    use super::testing::{pods, query, server};

    fn pod(name: &str) -> Value {
        json!({"metadata": {"namespace": "team", "name": name}})
    }

    #[tokio::test]
    async fn a_list_is_asked_for_in_pages_until_there_are_no_more() {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&asked);
        let client = server(move |path| {
            let next = query(&path, "continue");
            kept.lock().expect("a lock").push(path);
            Box::pin(async move {
                match next.as_deref() {
                    None => pods(&[pod("a"), pod("b")], "second"),
                    Some("second") => pods(&[pod("c")], "third"),
                    Some(_) => pods(&[pod("d")], ""),
                }
            })
        });
        let api: Api<Pod> = Api::namespaced(client, "team");
        let mut found = Vec::new();
        let params = ListParams::default().labels("app=x");
        each(&api, params, |pod| found.push(pod.name_any()))
            .await
            .expect("a list");
        assert_eq!(found, ["a", "b", "c", "d"]);
        let asked = asked.lock().expect("a lock");
        assert_eq!(asked.len(), 3);
        for path in asked.iter() {
            assert_eq!(query(path, "limit").as_deref(), Some("500"), "{path}");
            assert_eq!(query(path, "labelSelector").as_deref(), Some("app=x"));
        }
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_no_list() {
        let client = server(|path| {
            let first = query(&path, "continue").is_none();
            let page = pods(&[pod("a")], "gone");
            let page = if first {
                page
            } else {
                json!({"not": "a list"})
            };
            Box::pin(std::future::ready(page))
        });
        let api: Api<Pod> = Api::namespaced(client, "team");
        let ended = each(&api, ListParams::default(), drop).await;
        assert!(ended.is_err());
    }
}
