//! By which authorities the API server knows the webhook: `caBundle` of the chart's MutatingWebhookConfiguration,
//! written by the leader by server-side apply with a field manager of its own, so that the chart and the operator
//! do not undo each other. While the authority is replaced both are in it.
//!
//! Refuses to make a configuration: without the chart's there is nothing to be called for.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::keeper::Proof;

/// Name of the chart's configuration.
pub(crate) const NAME: &str = "mesh-inject";
/// Field manager of what is written here.
const MANAGER: &str = "mesh-operator-inject";
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The same as long as it is not as it should be.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);

/// Keeps the bundle.
pub(crate) struct Bundle {
    pub(crate) client: Client,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) proof: watch::Receiver<Option<Proof>>,
}

impl Bundle {
    /// Until dropped. Only the leader does.
    pub(crate) async fn run(mut self) {
        loop {
            let proof = self.proof.borrow_and_update().clone();
            let good = match proof {
                Some(proof) => self.once(&proof.authorities).await,
                None => false,
            };
            let wait = if good { LOOK } else { LOOK_AGAIN };
            tokio::select! {
                news = self.proof.changed() => if news.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// True if it is as it should be.
    async fn once(&self, authorities: &str) -> bool {
        match tokio::time::timeout(LIMIT, self.write(authorities)).await {
            Ok(Ok(there)) => there,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server is not told by whom it knows the injection webhook");
                false
            }
            Err(_) => {
                tracing::warn!("the API server does not answer");
                false
            }
        }
    }

    /// False if there is no configuration.
    async fn write(&self, authorities: &str) -> kube::Result<bool> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let Some(there) = api.get_opt(NAME).await? else {
            return Ok(false);
        };
        let Some(wanted) = wanted(&there, authorities) else {
            return Ok(true);
        };
        let params = PatchParams::apply(MANAGER).force();
        self.metrics.wrote("MutatingWebhookConfiguration");
        api.patch(NAME, &params, &Patch::Apply(&wanted)).await?;
        tracing::info!("the API server knows the injection webhook by the mesh's authority");
        Ok(true)
    }
}

/// What is to be applied; none if it is so.
fn wanted(there: &MutatingWebhookConfiguration, authorities: &str) -> Option<Value> {
    let webhooks = there.webhooks.as_deref().unwrap_or_default();
    let told = |bundle: &Option<k8s_openapi::ByteString>| {
        bundle
            .as_ref()
            .is_some_and(|bundle| bundle.0 == authorities.as_bytes())
    };
    if webhooks
        .iter()
        .all(|one| told(&one.client_config.ca_bundle))
    {
        return None;
    }
    let bundle = STANDARD.encode(authorities);
    // Those that the chart has: an entry of ours alone would be none.
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|one| json!({"name": one.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME}, "webhooks": webhooks,
    }))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
    use serde_json::json;

    use super::wanted;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let one = |(number, bundle): (usize, Option<&str>)| {
            json!({"name": format!("{number}.example"), "clientConfig": {"caBundle": bundle},
                "admissionReviewVersions": ["v1"], "sideEffects": "None"})
        };
        let webhooks: Vec<_> = bundles.iter().copied().enumerate().map(one).collect();
        serde_json::from_value(json!({"metadata": {"name": "mesh-inject"}, "webhooks": webhooks}))
            .expect("a configuration")
    }

    #[test]
    fn only_what_differs_is_written_and_nothing_but_the_bundle() {
        // `QQ==` is `A`.
        assert_eq!(
            wanted(&configuration(&[Some("QQ=="), Some("QQ==")]), "A"),
            None
        );
        for bundles in [
            [None, None],
            [Some("QQ=="), None],
            [Some("Qg=="), Some("QQ==")],
        ] {
            let wanted = wanted(&configuration(&bundles), "A").expect("a write");
            assert_eq!(
                wanted["webhooks"],
                json!([
                    {"name": "0.example", "clientConfig": {"caBundle": "QQ=="}},
                    {"name": "1.example", "clientConfig": {"caBundle": "QQ=="}},
                ])
            );
        }
        assert_eq!(wanted(&configuration(&[]), "A"), None);
    }
}
