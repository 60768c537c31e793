//! `mesh-operator uninstall`: what a release leaves behind when its chart goes. Workers and what belongs
//! to them go; the objects of the kinds stay, they are the user's.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::Duration;

use crate::args::Uninstall;
use crate::world::MANAGED;

/// Name of the operator's Deployment and of its Lease.
const OPERATOR: &str = "mesh-operator";
const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";

/// Longest wait for the operator to end.
const END: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run(client: &Client, options: &Uninstall) -> anyhow::Result<()> {
    stop(client, &options.mesh_namespace).await?;
    // First what would refuse the rest.
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    for binding in bindings
        .list_metadata(&ListParams::default().labels(OURS))
        .await?
    {
        bindings
            .delete(&binding.name_any(), &DeleteParams::default())
            .await?;
    }
    remove::<Deployment>(client).await?;
    remove::<Service>(client).await?;
    remove::<PodDisruptionBudget>(client).await?;
    remove::<NetworkPolicy>(client).await?;
    remove::<ServiceAccount>(client).await?;
    tracing::info!("everything that was made for the objects is removed; the objects stay");
    Ok(())
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

async fn remove<K>(client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let all: Api<K> = Api::all(client.clone());
    let selector = format!("{}={}", MANAGED.0, MANAGED.1);
    for object in all
        .list_metadata(&ListParams::default().labels(&selector))
        .await?
    {
        let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        match api
            .delete(&object.name_any(), &DeleteParams::foreground())
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
