//! ResourceClaimTemplates (`resource.k8s.io/v1`): how pods claim accelerators by DeviceClass. The oldest
//! Kubernetes that the mesh runs on does not serve them, so they are found by discovery, and watched from the
//! first pass on. While a control plane changes its version only some of it may serve them: that stops nothing else.
//! Refuses to guess: where they are not served, nothing is written.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, PostParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use mesh_crds::{condition, label};
use mesh_watch::Watches;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::build::Refusal;
use crate::apply::{Error, MANAGER, Writer};
use crate::world::MANAGED;

const GROUP_VERSION: &str = "resource.k8s.io/v1";
const KIND: &str = "ResourceClaimTemplate";
/// What it means where an API server does not serve what another one did, or itself did before.
const NO_LONGER: &str = "pods that claim accelerators by DeviceClass need Kubernetes 1.34 or newer";
/// A cluster that does not serve them is asked again, but not often.
const AGAIN: Duration = Duration::from_secs(30);

/// The templates of this cluster. Clones are the same.
#[derive(Clone)]
pub(crate) struct Claims(Arc<Inner>);

struct Inner {
    client: Client,
    watches: Watches,
    templates: OnceLock<Store<DynamicObject>>,
    /// What was heard last, and when. Held while asking: who comes meanwhile hears the same.
    heard: Mutex<Option<(Instant, Served)>>,
}

/// Whether a cluster serves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Yes,
    No,
    /// It could not be asked.
    Unknown,
}

/// Why there are no pods where claims are not served.
pub(crate) fn not_served() -> Refusal {
    Refusal::new(
        "DRANotServed",
        "spec.inCluster.accelerator.deviceClassName: this cluster does not serve resource.k8s.io/v1 (Kubernetes 1.34 or newer does): ask for the device plugin's resource instead, by leaving it out",
    )
}

/// Why there are no pods yet.
pub(crate) fn not_known() -> Refusal {
    Refusal::new(
        condition::REASON_PROGRESSING,
        "the API server could not be asked whether it serves resource.k8s.io/v1",
    )
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("resource.k8s.io", "v1", KIND),
        "resourceclaimtemplates",
    )
}

impl Claims {
    pub(crate) fn new(client: Client, watches: Watches) -> Self {
        Self(Arc::new(Inner {
            client,
            watches,
            templates: OnceLock::new(),
            heard: Mutex::default(),
        }))
    }

    /// Whether the cluster serves them; from then on they are watched.
    pub(crate) async fn served(&self) -> Served {
        let inner = &self.0;
        if inner.templates.get().is_some() {
            return Served::Yes;
        }
        let mut heard = inner.heard.lock().await;
        if let Some((when, last)) = *heard
            && when.elapsed() < AGAIN
        {
            return last;
        }
        let served = self.ask().await;
        // Who could not be asked is asked again with the next pass.
        *heard = (served != Served::Unknown).then(|| (Instant::now(), served));
        served
    }

    async fn ask(&self) -> Served {
        let inner = &self.0;
        let listed = inner.client.list_api_group_resources(GROUP_VERSION).await;
        let served = match listed {
            Ok(listed) => listed.resources.iter().any(|one| one.kind == KIND),
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => {
                tracing::warn!(%error, "could not ask whether {GROUP_VERSION} is served");
                return Served::Unknown;
            }
        };
        if !served {
            return Served::No;
        }
        inner.templates.get_or_init(|| {
            let managed = format!("{}={}", MANAGED.0, MANAGED.1);
            inner
                .watches
                .dynamic_if_served(resource(), &managed, NO_LONGER)
        });
        Served::Yes
    }

    fn all(&self) -> Vec<Arc<DynamicObject>> {
        let templates = self.0.templates.get();
        templates.map(Store::state).unwrap_or_default()
    }

    fn api(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.0.client.clone(), namespace, &resource())
    }

    /// Makes a template, unless it is there: it cannot change, and its name tells what is in it.
    pub(crate) async fn apply(&self, writer: &Writer, wanted: &Value) -> Result<(), Error> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (
            text(&wanted["metadata"]["namespace"]),
            text(&wanted["metadata"]["name"]),
        );
        let there = self.all();
        let same = |one: &Arc<DynamicObject>| {
            one.name_any() == name && one.namespace().as_deref() == Some(&namespace)
        };
        if there.iter().any(same) {
            return Ok(());
        }
        let what = format!("{KIND} {namespace}/{name}");
        let failed = |source| Error::Write {
            what: what.clone(),
            source: Box::new(source),
        };
        let object: DynamicObject =
            serde_json::from_value(wanted.clone()).map_err(|source| Error::Json {
                what: what.clone(),
                source,
            })?;
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        writer.metrics.wrote(KIND);
        let api = self.api(&namespace);
        match api.create(&params, &object).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(source) => return Err(failed(source)),
        }
        // Ours, where the watch has not caught up.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = api.list_metadata(&named).await.map_err(failed)?;
        let own = |one: &PartialObjectMeta<DynamicObject>| {
            one.labels().get(MANAGED.0).map(String::as_str) == Some(MANAGED.1)
        };
        if found.items.iter().all(own) {
            return Ok(());
        }
        Err(Error::Taken { what })
    }

    /// Deletes a backend's templates but the wanted one.
    pub(crate) async fn prune(
        &self,
        writer: &Writer,
        backend: &(String, String),
        wanted: Option<&Value>,
    ) -> Result<(), Error> {
        let kept = wanted.and_then(|wanted| wanted["metadata"]["name"].as_str());
        for one in self.all() {
            let own = one.namespace().as_deref() == Some(&backend.0)
                && one.labels().get(label::BACKEND) == Some(&backend.1);
            if !own || Some(one.name_any().as_str()) == kept {
                continue;
            }
            writer.metrics.wrote(KIND);
            let api = self.api(&backend.0);
            match api.delete(&one.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(source) => {
                    return Err(Error::Write {
                        what: format!("{KIND} {}", one.name_any()),
                        source: Box::new(source),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use mesh_runtime::Shutdown;
    use mesh_watch::Watches;
    use serde_json::json;

    use super::{Claims, Served};

    /// Says that it serves them, and does not, as where another API server answered before.
    fn changing(request: &Request<Body>) -> Response<Body> {
        let found = request.uri().path() == "/apis/resource.k8s.io/v1";
        let answer = if found {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "resource.k8s.io/v1", "resources": [
                {"name": "resourceclaimtemplates", "singularName": "", "namespaced": true, "kind": "ResourceClaimTemplate",
                    "verbs": ["list", "watch"]}]})
        } else {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404})
        };
        let code = if found { 200 } else { 404 };
        let body = Body::from(answer.to_string().into_bytes());
        Response::builder().status(code).body(body).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_serves_them_no_longer_stops_nothing_else() {
        let answer = |request| std::future::ready(Ok::<_, Infallible>(changing(&request)));
        let client = Client::new(tower::service_fn(answer), "default");
        let shutdown = Shutdown::new();
        let (tracker, token) = (shutdown.tracker.clone(), shutdown.token.clone());
        let watches = Watches::new(client.clone(), tracker, token);
        let progress = watches.progress();
        let claims = Claims::new(client, watches);
        assert_eq!(claims.served().await, Served::Yes);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(progress.missing(), Vec::<String>::new());
        assert_eq!(progress.lost(), Vec::<String>::new());
        shutdown.token.cancel();
    }
}
