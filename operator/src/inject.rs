//! Injection: a pod that asks for it, or whose namespace does, gets the sidecar while it is made.
//!
//! ```text
//! API server ── AdmissionReview ─► review ── case (who asked), pod ─► mutate ─► patch
//!      ▲                                                                ▲
//!      └── caBundle ◄─ bundle (leader)              template (sidecar, volumes, env)
//! ```
//!
//! Every replica answers; only the leader writes. Refuses: to decide from anything but the pod and the webhook that
//! was called, to restart a pod for a new template, and to run where the mesh serves one namespace only.

mod address;
mod bundle;
mod case;
mod look;
mod made;
mod metrics;
mod mutate;
mod review;
mod template;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ResourceRequirements;
use mesh_identity::server_config;
use mesh_runtime::serve::{self, Limits};
use mesh_runtime::{Shutdown, listen};
use mesh_watch::Scope;
use serde_json::Value;

use crate::args::Run;
use crate::events::Events;
use crate::keeper::Keeper;
use crate::world::World;
use bundle::Bundle;
pub(crate) use bundle::NAME as CONFIGURATION;
pub(crate) use case::namespace_asks;
use look::Look;
pub(crate) use look::trim;
pub(crate) use metrics::Metrics;
use review::Injector;
use template::{Given, Template};

/// Settings of the injection.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Address of the injection webhook (TLS).
    #[arg(long, env = "MESH_INJECT_LISTEN", default_value = "0.0.0.0:9443")]
    inject_listen: SocketAddr,
    /// Image of the sidecar; without it nothing is injected.
    #[arg(long, env = "MESH_SIDECAR_IMAGE")]
    sidecar_image: Option<String>,
    /// Requests and limits of sidecars, as JSON.
    #[arg(long, env = "MESH_SIDECAR_RESOURCES", default_value = "{}")]
    sidecar_resources: String,
    /// Log filter of sidecars.
    #[arg(long, env = "MESH_SIDECAR_LOG", default_value = "info")]
    sidecar_log: String,
}

/// The template that pods get; none if nothing is injected.
fn template(options: &Run) -> anyhow::Result<Option<Template>> {
    let settings = &options.inject;
    let Some(image) = settings
        .sidecar_image
        .as_ref()
        .filter(|image| !image.is_empty())
    else {
        return Ok(None);
    };
    anyhow::ensure!(
        options.scope == Scope::Cluster,
        "--sidecar-image: nothing is injected by an installation of one namespace; leave it out"
    );
    let resources = resources(&settings.sidecar_resources)
        .context("--sidecar-resources: not requests and limits of a container, as JSON")?;
    Ok(Some(Template::new(&Given {
        home: &options.mesh_namespace,
        image,
        pull_policy: &options.image_pull_policy,
        pull_secrets: &options.image_pull_secrets,
        resources: &resources,
        log: &settings.sidecar_log,
    })))
}

/// Requests and limits as a chart's values have them: a quantity may be a number there.
fn resources(text: &str) -> serde_json::Result<ResourceRequirements> {
    let mut resources: Value = serde_json::from_str(text)?;
    for part in ["requests", "limits"] {
        let amounts = resources.get_mut(part).and_then(Value::as_object_mut);
        for amount in amounts.into_iter().flat_map(serde_json::Map::values_mut) {
            if amount.is_number() {
                *amount = Value::String(amount.to_string());
            }
        }
    }
    serde_json::from_value(resources)
}

/// What this replica injects; serves the webhook until the shutdown begins.
pub(crate) async fn start(
    options: &Run,
    keeper: &Keeper,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Template>> {
    let Some(template) = template(options)? else {
        return Ok(None);
    };
    let listener = listen::bind(options.inject.inject_listen, "--inject-listen").await?;
    tracing::info!(
        template = template.hash,
        "injecting on https://{}",
        listener.local_addr()?
    );
    let tls = server_config(&keeper.serving, None).context("could not prepare TLS")?;
    let injector = Arc::new(Injector {
        template: template.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    });
    let (router, serving) = (review::router(&injector), shutdown.clone());
    let limits = Limits {
        // The API server keeps its connections; one that it does not need for so long it may open again.
        head: Duration::from_mins(2),
        unread: Duration::from_secs(10),
        grace: Duration::from_secs(5),
    };
    shutdown.spawn(async move {
        serve::serve_tls(listener, tls, router, limits, &serving).await;
    });
    Ok(Some(template))
}

/// What only the leader does, until dropped.
pub(crate) async fn lead(
    template: Option<Template>,
    (world, keeper): (&World, &Keeper),
    (client, metrics, events): (kube::Client, &crate::metrics::Metrics, Events),
) {
    let Some(template) = template else {
        return std::future::pending().await;
    };
    let bundle = Bundle {
        client: client.clone(),
        metrics: metrics.clone(),
        proof: keeper.proof(),
    };
    let look = Look {
        client,
        world: world.clone(),
        home: template.home,
        hash: template.hash,
        metrics: metrics.inject.clone(),
        events,
    };
    tokio::join!(bundle.run(), look.run());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::resources;

    #[test]
    fn resources_are_read_as_a_chart_has_them() {
        let read =
            resources(r#"{"requests": {"cpu": 1, "memory": "32Mi"}, "limits": {"cpu": 0.5}}"#);
        assert_eq!(
            json!(read.expect("resources")),
            json!({"requests": {"cpu": "1", "memory": "32Mi"}, "limits": {"cpu": "0.5"}})
        );
        assert_eq!(json!(resources("{}").expect("none")), json!({}));
        for wrong in [
            "",
            "[]",
            r#"{"requests": 7}"#,
            r#"{"requests": {"cpu": {}}}"#,
        ] {
            assert!(resources(wrong).is_err(), "{wrong}");
        }
    }
}
