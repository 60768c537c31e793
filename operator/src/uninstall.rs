//! `mesh-operator uninstall`: what a release leaves behind when its chart goes. Workers and what belongs
//! to them go; the objects of the kinds stay, they are the user's, and so do volumes unless asked.
//!
//! ```text
//! ask whether all of it may go ─► hold the operators' lease ─► remove, look again ─► webhook, authority ─► end the operators
//!       │ no: nothing was changed            └─ any failure, signal or death: an operator leads again and makes it anew
//! ```
//!
//! Refuses to touch what the operator did not make, and namespaces with a mesh of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::{Client, ResourceExt};
use mesh_crds::label;
use mesh_runtime::Shutdown;
use mesh_watch::Scope;
use serde_json::json;
use tokio::time::Instant;

use crate::args::Uninstall;
use crate::lease::Hold;
use crate::world::MANAGED;

/// Label of everything that belongs to this product.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "inference-mesh");

/// Name of the operator's Deployment.
const OPERATOR: &str = "mesh-operator";
/// Group, version, kind and plural of everything that the operator makes and that goes with it: first
/// what makes pods. Accepted policies (ControllerRevisions) belong to policies, which stay.
type Kind = (&'static str, &'static str, &'static str, &'static str);
const CHILDREN: [Kind; 8] = [
    ("batch", "v1", "Job", "jobs"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    (
        "resource.k8s.io",
        "v1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
    ),
    ("", "v1", "Service", "services"),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
    ),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
];
/// What confines. It goes when all else is gone: what fails before leaves nobody's network open.
const CONFINES: Kind = (
    "networking.k8s.io",
    "v1",
    "NetworkPolicy",
    "networkpolicies",
);
/// Volumes that hold models: only if asked.
const VOLUMES: Kind = ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

/// Longest wait for the operators to be asked to end.
const END: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);
/// How long what is there again is removed again.
const ANEW: Duration = Duration::from_mins(2);
/// Questions at once.
const WIDTH: usize = 8;

pub(crate) async fn run(client: &Client, options: &Uninstall) -> anyhow::Result<()> {
    // From here on a signal is heard: whoever asks it to end gets a working installation back.
    let shutdown = Shutdown::new();
    let asked = shutdown.on_signal();
    let reach = Reach::of(client, options).await?;
    reach
        .ask()
        .await
        .context("not everything may be removed, so nothing was")?;
    let hold = Hold::take(client, &options.mesh_namespace)
        .await
        .context("could not take the lease of the operator; nothing was removed")?;
    let ended = tokio::select! {
        biased;
        () = asked => Err(anyhow::anyhow!("it was asked to end")),
        why = hold.keep() => Err(why),
        removed = reach.remove_all() => removed,
    };
    if let Err(error) = ended {
        hold.release().await;
        return Err(error.context(
            "not everything could be removed: an operator leads again and makes anew what was; mend the cause and uninstall again",
        ));
    }
    hold.finish().await;
    tracing::info!(
        scope = %options.scope,
        "everything that was made for the objects is removed; the objects stay"
    );
    Ok(())
}

/// Where it looks, and for what.
struct Reach<'a> {
    client: &'a Client,
    options: &'a Uninstall,
    kinds: Vec<Kind>,
    /// Namespaces with a mesh of their own.
    left_alone: BTreeSet<String>,
}

impl<'a> Reach<'a> {
    async fn of(client: &'a Client, options: &'a Uninstall) -> kube::Result<Self> {
        let mut kinds = CHILDREN.to_vec();
        if options.delete_volumes {
            kinds.push(VOLUMES);
        }
        kinds.push(CONFINES);
        let left_alone = match options.scope {
            Scope::Namespaced => BTreeSet::new(),
            Scope::Cluster => own_meshes(client).await?,
        };
        Ok(Self {
            client,
            options,
            kinds,
            left_alone,
        })
    }

    /// Whether the API server would let all of it go, without a change.
    async fn ask(&self) -> anyhow::Result<()> {
        let params = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        self.each(&params).await.map(drop)
    }

    /// Removes everything; what fails is tried again for a while.
    async fn remove_all(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.options.patience;
        let last = Instant::now() + ANEW;
        loop {
            match self.once().await {
                // Nothing was found any more, also not of what was on its way when the operator left.
                Ok(0) => break,
                Ok(found) if Instant::now() >= last => {
                    anyhow::bail!(
                        "{found} objects were there again and again: somebody else makes them anew"
                    );
                }
                Ok(_) => tokio::time::sleep(LOOK).await,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "trying again");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        self.end_operators(deadline).await
    }

    async fn once(&self) -> anyhow::Result<usize> {
        let found = self.each(&DeleteParams::background()).await?;
        if found > 0 {
            return Ok(found);
        }
        if self.options.scope == Scope::Cluster {
            self.stop_injecting()
                .await
                .context("could not remove the webhook")?;
        }
        crate::trust::forget(self.client, &self.options.mesh_namespace)
            .await
            .context("could not remove the authority")?;
        Ok(0)
    }

    /// Deletes, or asks whether it may; how many there were.
    async fn each(&self, params: &DeleteParams) -> anyhow::Result<usize> {
        let mut found = 0;
        for kind in &self.kinds {
            // Asked about with all others, and removed after them.
            if *kind == CONFINES && found > 0 && !params.dry_run {
                continue;
            }
            let (group, version, name, plural) = *kind;
            let gvk = GroupVersionKind::gvk(group, version, name);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let objects = self
                .list(&resource)
                .await
                .with_context(|| format!("could not list {plural}"))?;
            found += objects.len();
            stream::iter(objects)
                .map(|object| self.delete(&resource, object, params))
                .buffer_unordered(WIDTH)
                .try_collect::<()>()
                .await?;
        }
        Ok(found)
    }

    async fn list(&self, resource: &ApiResource) -> kube::Result<Vec<Meta>> {
        let client = self.client.clone();
        let all: Api<DynamicObject> = match self.options.scope {
            Scope::Namespaced => {
                Api::namespaced_with(client, &self.options.mesh_namespace, resource)
            }
            Scope::Cluster => Api::all_with(client, resource),
        };
        let selector = format!("{}={}", MANAGED.0, MANAGED.1);
        let found = all
            .list_metadata(&ListParams::default().labels(&selector))
            .await;
        let mut objects = match found {
            Ok(found) => found.items,
            // This cluster does not serve that group.
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error),
        };
        objects.retain(|object| {
            let namespace = object.namespace().unwrap_or_default();
            // What is going away already waits for somebody else.
            object.metadata.deletion_timestamp.is_none()
                && !self.left_alone.contains(&namespace)
                && ours(&object.metadata)
        });
        Ok(objects)
    }

    async fn delete(
        &self,
        resource: &ApiResource,
        object: Meta,
        params: &DeleteParams,
    ) -> anyhow::Result<()> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &namespace, resource);
        match gone(api.delete(&name, params).await) {
            // A webhook of somebody else's that cannot be asked without a change.
            Err(kube::Error::Api(status)) if params.dry_run && status.code == 400 => Ok(()),
            other => other.with_context(|| {
                format!("could not delete {}/{namespace}/{name}", resource.plural)
            }),
        }
    }

    /// While operators still answer: without them no pod that asks for a sidecar would be made.
    async fn stop_injecting(&self) -> kube::Result<()> {
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let name = crate::inject::CONFIGURATION;
        gone(webhooks.delete(name, &DeleteParams::default()).await)
    }

    /// Last of all: no replica is to run, so that none leads once the lease is free.
    async fn end_operators(&self, deadline: Instant) -> anyhow::Result<()> {
        let namespace = &self.options.mesh_namespace;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        while let Err(error) = gone(
            deployments
                .patch(OPERATOR, &PatchParams::default(), &none)
                .await,
        ) {
            if Instant::now() >= deadline {
                return Err(error).context("could not end the operator");
            }
            tokio::time::sleep(LOOK).await;
        }
        let asked = async {
            while let Ok(Some(operator)) = deployments.get_opt(OPERATOR).await {
                if operator
                    .status
                    .and_then(|status| status.replicas)
                    .unwrap_or_default()
                    == 0
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(END, asked).await.is_err() {
            tracing::warn!("nobody ends the operators; without a node that is so");
        }
        Ok(())
    }
}

type Meta = PartialObjectMeta<DynamicObject>;

/// Namespaces with a mesh of their own.
async fn own_meshes(client: &Client) -> kube::Result<BTreeSet<String>> {
    let selector = format!("{}={}", label::MESH, label::OWN);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces
        .list_metadata(&ListParams::default().labels(&selector))
        .await?;
    Ok(found.iter().map(ResourceExt::name_any).collect())
}

/// True if it is of this product: others may name their operator as we do ours.
fn ours(meta: &ObjectMeta) -> bool {
    let mut labels = meta.labels.iter().flatten();
    let mut owners = meta.owner_references.iter().flatten();
    labels.any(|(key, value)| {
        key.starts_with(label::GROUP) || (key == PART_OF.0 && value == PART_OF.1)
    }) || owners.any(|owner| owner.api_version == label::API_VERSION)
}

/// What is no longer there is gone as well.
fn gone<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
