//! How a place outside is reached, as the data plane sees it: its address, its key, whose certificates it may show, and over
//! which proxy. Refuses, in a cluster, addresses that are the gateway's own, for a backend and for its proxy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_core as core;
use mesh_core::{Endpoint, Kept};
use url::{Host, Url};

use super::{World, value};
use crate::endpoint::{Cloud, External, HeaderValue};
use crate::parse::Document;
use crate::problem::{Problem, ProblemKind};
use crate::reference::{CaRef, Credentials, Proxy, Tls};

/// What `cloud` and `external` have in common.
pub(super) struct Address<'a> {
    url: &'a str,
    insecure_plaintext: bool,
    credentials: Option<&'a Credentials>,
    auth_header: Option<&'a str>,
    headers: &'a BTreeMap<String, HeaderValue>,
    organization: Option<&'a str>,
    tls: Option<&'a Tls>,
    proxy: Option<&'a Proxy>,
}

impl<'a> From<&'a Cloud> for Address<'a> {
    fn from(cloud: &'a Cloud) -> Self {
        Self {
            url: &cloud.url.0,
            insecure_plaintext: cloud.insecure_plaintext.unwrap_or_default(),
            credentials: cloud.credentials.as_ref(),
            auth_header: cloud.auth_header.as_deref(),
            headers: &cloud.headers,
            organization: cloud.organization.as_deref(),
            tls: cloud.tls.as_ref(),
            proxy: cloud.proxy.as_ref(),
        }
    }
}

impl<'a> From<&'a External> for Address<'a> {
    fn from(external: &'a External) -> Self {
        Self {
            url: &external.url.0,
            insecure_plaintext: external.insecure_plaintext.unwrap_or_default(),
            credentials: external.credentials.as_ref(),
            auth_header: external.auth_header.as_deref(),
            headers: &external.headers,
            organization: external.organization.as_deref(),
            tls: external.tls.as_ref(),
            proxy: external.proxy.as_ref(),
        }
    }
}

pub(super) fn endpoint(
    world: &World<'_>,
    document: &Document,
    place: &str,
    spec: &Address<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Endpoint> {
    if spec.auth_header.is_some() && spec.credentials.is_none() {
        let message = "there is no key to put into this header: add credentials, or remove it";
        problems.push(document.problem(ProblemKind::Value, format!("{place}.authHeader"), message));
    }
    let namespace = world.namespace(document);
    let url = address(world, document, &format!("{place}.url"), spec.url, problems)?;
    let proxy = match spec.proxy {
        None => None,
        Some(spec) => Some(core::Proxy {
            url: address(
                world,
                document,
                &format!("{place}.proxy.url"),
                &spec.url.0,
                problems,
            )?,
            credentials: spec
                .credentials
                .as_ref()
                .and_then(|spec| credential(namespace, spec)),
        }),
    };
    Some(Endpoint {
        protocol: core::Protocol::OpenAI,
        credentials: spec
            .credentials
            .and_then(|spec| credential(namespace, spec)),
        auth_header: spec.auth_header.map(str::to_lowercase),
        headers: spec
            .headers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.0.clone()))
            .collect(),
        organization: spec.organization.map(str::to_owned),
        insecure_plaintext: spec.insecure_plaintext,
        resolved: resolved(world, document, &url, proxy.is_some()),
        cluster_networks: Arc::clone(world.input.cluster_networks),
        authority: spec.tls.and_then(|tls| authority(namespace, &tls.ca_ref)),
        proxy,
        url,
    })
}

/// An address, which in a cluster is not the gateway's own.
fn address(
    world: &World<'_>,
    document: &Document,
    field: &str,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Option<Url> {
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"));
    let url = value(document, field, url, problems)?;
    if world.input.pods.is_some() && own_machine(&url) {
        let message = "not in a cluster: loopback and link-local addresses are the gateway's own";
        problems.push(document.problem(ProblemKind::NotInCluster, field, message));
        return None;
    }
    Some(url)
}

/// Certificates are an entry of the object's own namespace, as keys are.
fn authority(namespace: &str, spec: &CaRef) -> Option<core::Authority> {
    let entry = match (&spec.secret, &spec.config_map) {
        (Some(entry), _) => Some((Kept::Secret, entry)),
        (None, Some(entry)) => Some((Kept::ConfigMap, entry)),
        (None, None) => None,
    };
    let file = || spec.file.as_ref().map(PathBuf::from);
    match entry {
        Some((kept, entry)) => Some(core::Authority::Entry {
            kept,
            namespace: namespace.to_owned(),
            name: entry.name.0.clone(),
            key: entry.key.clone(),
        }),
        None => file().map(core::Authority::File),
    }
}

/// A Secret is one of the object's own namespace, whatever the author writes.
fn credential(namespace: &str, spec: &Credentials) -> Option<core::Credential> {
    if let Some(secret) = &spec.secret_ref {
        return Some(core::Credential::Secret {
            namespace: namespace.to_owned(),
            name: secret.name.0.clone(),
            key: secret.key.clone(),
        });
    }
    let file = spec
        .file
        .as_ref()
        .map(|path| core::Credential::File(PathBuf::from(path)));
    file.or_else(|| spec.env.clone().map(core::Credential::Env))
}

/// True for an address without a host, or with [one of our own](own_host).
fn own_machine(url: &Url) -> bool {
    url.host().is_none_or(|host| own_host(&host))
}

/// True for a host that means the asking machine itself, as far as that can be seen without asking
/// anybody for its address.
pub(super) fn own_host<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Ipv4(address) => core::own_machine((*address).into()),
        Host::Ipv6(address) => core::own_machine((*address).into()),
        Host::Domain(name) => {
            let name = name.as_ref();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// In a cluster only addresses of the mesh namespace's backends are evidence of anything, so nobody else's
/// names are looked up: a name that takes long would keep everybody waiting. Nor are those that a proxy looks up.
fn resolved(world: &World<'_>, document: &Document, url: &Url, proxied: bool) -> Vec<IpAddr> {
    let tenant = world.namespace(document) != world.input.mesh_namespace;
    match url.host() {
        Some(Host::Domain(_)) if proxied || (world.input.pods.is_some() && tenant) => Vec::new(),
        Some(Host::Ipv4(address)) => vec![address.into()],
        Some(Host::Ipv6(address)) => vec![address.into()],
        Some(Host::Domain(name)) => (world.input.resolve)(name),
        None => Vec::new(),
    }
}
