//! Which addresses are connected to. Where a class rests on `ownership.networks`, only those inside them.
//! In a process that serves many tenants: never this machine itself, and for a backend that a tenant
//! declared never a part of the mesh, whose ingress trusts whoever comes from here.
//!
//! Names are checked as they are resolved for the connection itself, so what was checked is what is used,
//! whatever the name meant before; literal addresses, which need no resolver, are checked before.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mesh_core::own_machine;
use mesh_routing::class::inside;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::AttemptError;

/// Who named the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// The mesh itself: a pod of its own.
    Own,
    /// The mesh's owners, in its namespace.
    Home,
    /// A tenant.
    Tenant,
}

/// Why an address is not connected to. Found again in the sources of the client's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not in the networks that make the backend ours.
    #[error("no address of the backend lies in the owned networks")]
    Outside,
    /// This machine, its cloud's identity service, or a part of the mesh.
    #[error("every address of the backend belongs to this machine or to the mesh itself")]
    Closed,
}

impl From<Refused> for AttemptError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Outside => Self::AddressOutsideNetworks,
            Refused::Closed => Self::AddressClosed,
        }
    }
}

/// The name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
struct NoAddress;

/// Addresses of the mesh itself; replaced as a whole.
pub(crate) type Closed = Arc<ArcSwap<HashSet<IpAddr>>>;

/// Tells which addresses may be connected to.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) reach: Reach,
    /// This process serves many tenants.
    pub(crate) shared: bool,
    pub(crate) networks: Option<Arc<[IpNet]>>,
    /// Not those of them, where `networks` counts: addresses of the cluster's pods and Services.
    pub(crate) except: Arc<[IpNet]>,
    pub(crate) closed: Closed,
}

impl Guard {
    /// True if some address may be refused.
    pub(crate) fn narrows(&self) -> bool {
        self.networks.is_some()
            || match self.reach {
                Reach::Own => false,
                Reach::Home => self.shared,
                Reach::Tenant => true,
            }
    }

    fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let outside =
            |networks: &Arc<[IpNet]>| !inside(address, networks) || inside(address, &self.except);
        if self.networks.as_ref().is_some_and(outside) {
            return Err(Refused::Outside);
        }
        let closed = match self.reach {
            Reach::Own => false,
            Reach::Home => self.shared && own_machine(address),
            Reach::Tenant => {
                self.shared && own_machine(address)
                    || self.closed.load().contains(&address.to_canonical())
            }
        };
        if closed { Err(Refused::Closed) } else { Ok(()) }
    }

    /// Checks an address written out in the URL.
    pub(crate) fn check_literal(&self, url: &Url) -> Result<(), AttemptError> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(AttemptError::Unusable("its url names no host")),
        };
        Ok(self.check(address)?)
    }
}

impl Resolve for Guard {
    /// With the system's resolver; gives only addresses that may be connected to.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refused = None;
            let mut good = Vec::with_capacity(found.len());
            for address in found {
                match guard.check(address.ip()) {
                    Ok(()) => good.push(address),
                    Err(cause) => refused = Some(cause),
                }
            }
            match refused {
                _ if !good.is_empty() => Ok(Box::new(good.into_iter()) as Addrs),
                Some(cause) => Err(cause.into()),
                None => Err(NoAddress.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;
    use std::sync::Arc;

    use arc_swap::ArcSwap;

    use super::{Guard, Reach, Refused};

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn guard(reach: Reach) -> Guard {
        let closed = HashSet::from([address("10.78.1.7"), address("fd00::7")]);
        Guard {
            reach,
            shared: true,
            networks: None,
            except: Arc::default(),
            closed: Arc::new(ArcSwap::from_pointee(closed)),
        }
    }

    #[test]
    fn a_tenant_reaches_no_part_of_the_mesh_in_any_spelling_and_everything_else() {
        let tenant = guard(Reach::Tenant);
        for closed in [
            "10.78.1.7",
            "::ffff:10.78.1.7",
            "fd00::7",
            "127.0.0.1",
            "169.254.169.254",
        ] {
            assert_eq!(
                tenant.check(address(closed)),
                Err(Refused::Closed),
                "{closed}"
            );
        }
        for open in ["10.78.1.8", "203.0.113.9", "fd00::8"] {
            assert_eq!(tenant.check(address(open)), Ok(()), "{open}");
        }
    }

    #[test]
    fn the_owners_reach_the_mesh_but_not_this_machine_and_pods_are_reached_wherever_they_are() {
        let home = guard(Reach::Home);
        assert_eq!(home.check(address("10.78.1.7")), Ok(()));
        assert_eq!(home.check(address("127.0.0.1")), Err(Refused::Closed));
        let own = guard(Reach::Own);
        assert_eq!(own.check(address("10.78.1.7")), Ok(()));
        assert!(!own.narrows() && home.narrows());
    }

    #[test]
    fn owned_networks_do_not_open_this_machine_to_tenants_of_a_shared_process() {
        let networks: Arc<[ipnet::IpNet]> = Arc::new(["127.0.0.0/8".parse().expect("a network")]);
        let mut home = guard(Reach::Home);
        home.networks = Some(networks);
        assert_eq!(home.check(address("127.0.0.1")), Err(Refused::Closed));
        assert_eq!(home.check(address("10.0.0.1")), Err(Refused::Outside));
        home.shared = false;
        assert_eq!(home.check(address("127.0.0.1")), Ok(()));
    }

    #[test]
    fn an_address_of_a_pod_or_a_service_is_in_no_owned_network() {
        let network = |text: &str| text.parse::<ipnet::IpNet>().expect("a network");
        let mut home = guard(Reach::Home);
        home.except = Arc::new([network("10.96.0.0/12"), network("fd00:96::/64")]);
        assert_eq!(
            home.check(address("10.96.0.10")),
            Ok(()),
            "nothing rests on it"
        );
        home.networks = Some(Arc::new([network("10.0.0.0/8"), network("fd00::/16")]));
        for pod in [
            "10.96.0.10",
            "10.111.255.255",
            "::ffff:10.96.0.10",
            "fd00:96::1",
        ] {
            assert_eq!(home.check(address(pod)), Err(Refused::Outside), "{pod}");
        }
        for server in ["10.1.0.10", "fd00:1::1"] {
            assert_eq!(home.check(address(server)), Ok(()), "{server}");
        }
    }
}
