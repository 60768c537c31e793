//! `mesh-operator uninstall`: what a release leaves behind when its chart goes. Workers and what belongs
//! to them go; the objects of the kinds stay, they are the user's.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::args::Uninstall;
use crate::world::MANAGED;

const OURS: &str = "app.kubernetes.io/part-of=inference-mesh";

pub(crate) async fn run(client: &Client, _options: &Uninstall) -> anyhow::Result<()> {
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
