//! `mesh-operator uninstall`: what a release leaves behind when its chart goes. Workers and what belongs
//! to them go; the objects of the kinds stay, they are the user's, and so do volumes unless asked.
//!
//! Refuses to touch what the operator did not make, and namespaces with a mesh of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use mesh_crds::label;
use mesh_watch::Scope;
use serde_json::json;

use crate::args::Uninstall;
use crate::world::MANAGED;

/// Name of the operator's Deployment and of its Lease.
const OPERATOR: &str = "mesh-operator";
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";
/// Group, version, kind and plural of everything that the operator makes and that goes with it: first
/// what makes pods. Accepted policies (ControllerRevisions) belong to policies, which stay.
const CHILDREN: [(&str, &str, &str, &str); 10] = [
    ("batch", "v1", "CronJob", "cronjobs"),
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
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
    ),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
];
/// Volumes that hold models: only if asked.
const VOLUMES: (&str, &str, &str, &str) =
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");

/// Longest wait for the operator to end.
const END: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run(client: &Client, options: &Uninstall) -> anyhow::Result<()> {
    if options.scope == Scope::Cluster {
        stop_injecting(client).await?;
    }
    stop(client, &options.mesh_namespace).await?;
    let left_alone = match options.scope {
        Scope::Namespaced => BTreeSet::new(),
        Scope::Cluster => {
            // First what would refuse the rest.
            remove_bindings(client).await?;
            own_meshes(client).await?
        }
    };
    let reach = Reach {
        client,
        namespace: (options.scope == Scope::Namespaced).then_some(&options.mesh_namespace),
        left_alone,
    };
    for child in CHILDREN {
        reach.remove(child).await?;
    }
    if options.delete_volumes {
        reach.remove(VOLUMES).await?;
    }
    crate::trust::forget(client, &options.mesh_namespace).await?;
    tracing::info!(
        scope = %options.scope,
        "everything that was made for the objects is removed; the objects stay"
    );
    Ok(())
}

/// Before the operator ends: nobody would answer then, and no pod that asks for a sidecar be made.
async fn stop_injecting(client: &Client) -> kube::Result<()> {
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = crate::inject::CONFIGURATION;
    gone(webhooks.delete(name, &DeleteParams::default()).await)
}

async fn remove_bindings(client: &Client) -> kube::Result<()> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let ours = ListParams::default().labels(OURS);
    for binding in bindings.list_metadata(&ours).await? {
        gone(
            bindings
                .delete(&binding.name_any(), &DeleteParams::default())
                .await,
        )?;
    }
    Ok(())
}

/// Namespaces with a mesh of their own.
async fn own_meshes(client: &Client) -> kube::Result<BTreeSet<String>> {
    let selector = format!("{}={}", label::MESH, label::OWN);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces
        .list_metadata(&ListParams::default().labels(&selector))
        .await?;
    Ok(found.iter().map(ResourceExt::name_any).collect())
}

/// Ends the operator, which would make everything again: no replica of it, and nobody leads.
async fn stop(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    match deployments
        .patch(OPERATOR, &PatchParams::default(), &none)
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let ended = async {
        loop {
            let lease = leases.get_opt(OPERATOR).await?;
            let holder = lease.and_then(|lease| lease.spec?.holder_identity);
            if holder.is_none_or(|holder| holder.is_empty()) {
                return Ok::<(), kube::Error>(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    if let Ok(ended) = tokio::time::timeout(END, ended).await {
        ended?;
    } else {
        // It was killed before it could give up its lease, or is no longer there.
        tracing::warn!("the operator did not say that it ended");
    }
    Ok(())
}

/// Where it looks.
struct Reach<'a> {
    client: &'a Client,
    /// The only namespace; none = all but those left alone.
    namespace: Option<&'a String>,
    left_alone: BTreeSet<String>,
}

impl Reach<'_> {
    async fn remove(
        &self,
        (group, version, kind, plural): (&str, &str, &str, &str),
    ) -> kube::Result<()> {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let client = || self.client.clone();
        let all: Api<DynamicObject> = match self.namespace {
            Some(namespace) => Api::namespaced_with(client(), namespace, &resource),
            None => Api::all_with(client(), &resource),
        };
        let selector = format!("{}={}", MANAGED.0, MANAGED.1);
        let found = match all
            .list_metadata(&ListParams::default().labels(&selector))
            .await
        {
            Ok(found) => found.items,
            // This cluster does not serve that group.
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(error),
        };
        for object in found {
            let namespace = object.namespace().unwrap_or_default();
            if self.left_alone.contains(&namespace) {
                continue;
            }
            let api: Api<DynamicObject> = Api::namespaced_with(client(), &namespace, &resource);
            gone(
                api.delete(&object.name_any(), &DeleteParams::foreground())
                    .await,
            )?;
        }
        Ok(())
    }
}

/// What is no longer there is gone as well.
fn gone<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
