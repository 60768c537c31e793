//! The address check: where a class rests on `ownership.networks`, only addresses inside them are
//! ever connected to. Names are checked as they are resolved for the connection itself, so what was
//! checked is what is used; literal addresses, which need no resolver, are checked before.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use mesh_core::own_machine;
use mesh_routing::class::inside;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::AttemptError;

/// No address of the name lies in the networks. Found again in the sources of the client's error.
#[derive(Debug, thiserror::Error)]
#[error("no address of the backend lies in the owned networks")]
pub(crate) struct Outside;

/// The name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
struct NoAddress;

/// Checks an address written out in the URL.
pub(crate) fn check_literal(url: &Url, networks: &[IpNet]) -> Result<(), AttemptError> {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) => return Ok(()),
        None => return Err(AttemptError::Unusable("its url names no host")),
    };
    if inside(address, networks) {
        Ok(())
    } else {
        Err(AttemptError::AddressOutsideNetworks)
    }
}

/// Resolves names and leaves out addresses that mean this machine itself, or its cloud's identity
/// service.
pub(crate) struct NotSelf;

impl Resolve for NotSelf {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let others: Vec<SocketAddr> =
                found.filter(|address| !own_machine(address.ip())).collect();
            if others.is_empty() {
                return Err(NoAddress.into());
            }
            Ok(Box::new(others.into_iter()) as Addrs)
        })
    }
}

/// Resolves names with the system's resolver and gives only addresses inside the networks.
pub(crate) struct InsideOnly {
    networks: Arc<[IpNet]>,
}

impl InsideOnly {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        Self {
            networks: networks.into(),
        }
    }
}

impl Resolve for InsideOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let networks = Arc::clone(&self.networks);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.is_empty() {
                return Err(NoAddress.into());
            }
            let inside: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| inside(address.ip(), &networks))
                .collect();
            if inside.is_empty() {
                return Err(Outside.into());
            }
            Ok(Box::new(inside.into_iter()) as Addrs)
        })
    }
}
