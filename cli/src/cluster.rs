//! A mesh in a cluster, reached with a kubeconfig: its objects through the API server, its gateway through a
//! forwarded port, as the application that the caller names.
//!
//! Refuses to guess: without a right to make a token for that ServiceAccount nothing is asked of a gateway.

mod keeper;
mod objects;
mod tunnel;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mesh_backends::control::Control;
use mesh_core::Sensitive;

use crate::args::Remote;
pub(crate) use objects::{Row, objects, rows};
use tunnel::Tunnel;

/// What tokens for gateways are made out to.
const AUDIENCE: &str = "inferencemesh.dev";
/// Shortest life of a token that an API server gives.
const TOKEN_SECONDS: i64 = 600;
/// Longest wait for the API server to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for an answer of it.
const READ: Duration = Duration::from_secs(30);

/// A cluster, as its kubeconfig names it.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace of the context.
    pub(crate) namespace: String,
}

/// A gateway that can be asked until this is dropped.
pub(crate) struct Gateway {
    pub(crate) control: Control,
    /// As whom: `namespace/serviceaccount`, or the key's variable.
    pub(crate) caller: String,
    /// Name of the pod that is asked.
    pub(crate) pod: String,
    _tunnel: Tunnel,
}

impl Cluster {
    /// The cluster of `context`, else of the kubeconfig's current one; in a pod, the pod's own.
    ///
    /// # Errors
    /// If there is no kubeconfig, or it has no such context.
    pub(crate) async fn connect(context: Option<&str>) -> anyhow::Result<Self> {
        let missing =
            "no cluster was found: set KUBECONFIG, or log in to one so that `kubectl` works";
        let mut config = match Kubeconfig::read() {
            Ok(found) => {
                let options = KubeConfigOptions {
                    context: context.map(str::to_owned),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(found, &options)
                    .await
                    .context("the kubeconfig cannot be used")?
            }
            Err(_) if context.is_none() => Config::incluster().context(missing)?,
            Err(error) => return Err(error).context(missing),
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        let namespace = config.default_namespace.clone();
        Ok(Self {
            client: Client::try_from(config)?,
            namespace,
        })
    }

    /// A gateway of the mesh, asked as `--caller`, or with the API key of the environment if there is one.
    ///
    /// # Errors
    /// If no gateway is ready or may be reached, or no token may be made.
    pub(crate) async fn gateway(&self, remote: &Remote) -> anyhow::Result<Gateway> {
        let (key, caller) = match remote.key() {
            Some(key) => (key, format!("the key of {}", remote.key_env)),
            None => self.token(remote.caller.as_deref()).await?,
        };
        let tunnel = Tunnel::open(&self.client, &remote.mesh_namespace, tunnel::GATEWAY).await?;
        let control = Control::new(&format!("http://{}", tunnel.address()), Some(key))?;
        Ok(Gateway {
            control,
            caller,
            pod: tunnel.pod().to_owned(),
            _tunnel: tunnel,
        })
    }

    /// A short-lived token of a ServiceAccount, and whose it is.
    async fn token(&self, caller: Option<&str>) -> anyhow::Result<(Sensitive<String>, String)> {
        let (namespace, account) = match caller {
            Some(caller) => split(caller)?,
            None => (self.namespace.as_str(), "default"),
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![AUDIENCE.to_owned()],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let made = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| {
                format!(
                    "no token could be made for ServiceAccount {namespace}/{account}: \
                     name another with --caller, or set the API key's variable"
                )
            })?;
        let token = made
            .status
            .map(|status| status.token)
            .filter(|token| !token.is_empty());
        let Some(token) = token else {
            bail!("the API server gave no token for ServiceAccount {namespace}/{account}");
        };
        Ok((Sensitive::new(token), format!("{namespace}/{account}")))
    }
}

fn split(caller: &str) -> anyhow::Result<(&str, &str)> {
    let parts = caller.split_once('/');
    let good = parts.filter(|(namespace, account)| {
        !namespace.is_empty() && !account.is_empty() && !account.contains('/')
    });
    ensure!(
        good.is_some(),
        "--caller `{caller}`: write NAMESPACE/SERVICEACCOUNT"
    );
    Ok(good.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_caller_is_a_namespace_and_an_account() {
        assert_eq!(split("team/app").unwrap(), ("team", "app"));
        for wrong in ["app", "/app", "team/", "team/app/x", ""] {
            let said = split(wrong).unwrap_err().to_string();
            assert!(said.contains("NAMESPACE/SERVICEACCOUNT"), "{said}");
        }
    }
}
