//! Reaching a running mesh: at an address, or in a cluster.

use std::path::Path;

use anyhow::Context as _;
use mesh_backends::control::Control;
use mesh_core::Sensitive;

use crate::args::Remote;
use crate::cluster::{Cluster, Gateway};

/// A running mesh that can be asked.
pub(crate) enum Reached {
    /// At an address.
    Address(Control),
    /// In a cluster.
    Cluster(Gateway),
}

impl Reached {
    /// What to ask.
    pub(crate) fn control(&self) -> &Control {
        match self {
            Self::Address(control) => control,
            Self::Cluster(gateway) => &gateway.control,
        }
    }
}

impl Remote {
    /// The API key of the environment, if there is one.
    pub(crate) fn key(&self) -> Option<Sensitive<String>> {
        std::env::var(&self.key_env)
            .ok()
            .filter(|key| !key.is_empty())
            .map(Sensitive::new)
    }
}

/// The mesh that the options name, with the key of the environment if there is one.
pub(crate) async fn connect(remote: &Remote) -> anyhow::Result<Reached> {
    if remote.cluster {
        let gateway = Cluster::connect(remote.context.as_deref())
            .await?
            .gateway(remote)
            .await?;
        return Ok(Reached::Cluster(gateway));
    }
    let key = match &remote.key_file {
        Some(file) => Some(Sensitive::new(read(file)?.trim().to_owned())),
        None => remote.key(),
    };
    let authorities = remote.ca_file.as_deref().map(read).transpose()?;
    let authorities = authorities.as_deref().unwrap_or_default();
    Ok(Reached::Address(Control::trusting(
        &remote.url,
        key,
        authorities,
    )?))
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}
