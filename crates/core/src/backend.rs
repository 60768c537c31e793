//! A place that can serve a model, as the data plane sees it. Built once at the door from the
//! InferenceBackend (and its ModelCache); immutable afterwards.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Map, Value};
use url::{Host, Url};

use crate::{BackendId, JurisdictionSet, NamespaceSelector, PrivacyLevel, ServedModel};

/// A declared backend. Its class is not a field: it is derived from evidence at the moment of the
/// decision, since claims expire.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Namespace and name.
    pub id: BackendId,
    /// Where it is and how it is reached.
    pub place: Place,
    /// What callers may name. Never empty.
    pub models: Vec<ServedModel>,
    /// Ceiling declared by its author; may only lower what the class gives.
    pub max_privacy: PrivacyLevel,
    /// Declared limits.
    pub limits: Limits,
    /// Which namespaces it serves, if it lives in the mesh namespace; elsewhere only its own.
    pub available_to: NamespaceSelector,
    /// Top-level fields that win over the caller's.
    pub request_overrides: Map<String, Value>,
    /// Ask upstream for a stream even if the caller did not (default true).
    pub stream_upstream: bool,
    /// Who makes the hardware that computes, for concentration; absent = unknown.
    pub hardware_vendor: Option<String>,
}

/// Where a backend is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In this process (kind field `inCluster` on one machine): the engine serves a ModelCache.
    InProcess {
        /// Name of the ModelCache, in the backend's namespace.
        model_cache: String,
        /// Memory for keys and values in bytes; absent = 512 MiB.
        kv_bytes: Option<u64>,
        /// Context window to serve; absent = what the file says.
        context_tokens: Option<u32>,
    },
    /// Model servers in pods of this cluster (kind field `inCluster` there).
    Pods(Pods),
    /// Any OpenAI-compatible server the organization points at.
    External(Endpoint),
    /// A company's API.
    Cloud(Cloud),
    /// Another mesh. Known, judged and shown; nothing is sent there yet.
    Peer(Peer),
}

/// Another mesh, as it was declared. Nobody has spoken to it, so nothing of this is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where its gateways listen.
    pub host: Host,
    /// And on which port.
    pub port: u16,
    /// Its public key: base64 of a DER SubjectPublicKeyInfo.
    pub identity: String,
    /// How far its declaration trusts it.
    pub trust: Trust,
}

impl Peer {
    /// Why no request goes there.
    pub const UNSERVED: &str = "not supported yet: requests are not sent to other meshes";
}

/// How far a peer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Invited, with a pinned identity.
    Invited,
    /// Anybody.
    Open,
}

/// The pods of a backend that are ready to serve, as the pods themselves tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pods {
    /// One entry a pod; may be empty.
    pub pods: Vec<Arc<Pod>>,
}

/// One pod of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Name of the pod, for logs.
    pub name: String,
    /// Where its model server listens.
    pub address: SocketAddr,
    /// The node it runs on; absent = nothing is known of it.
    pub node: Option<Arc<Node>>,
}

/// What is known of a node: the evidence for the class of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of the node.
    pub name: String,
    /// `spec.providerID`: who rents it out, as the cloud's controller wrote it.
    pub provider_id: Option<String>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
}

/// A cloud backend: endpoint, company and claims.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// How it is reached.
    pub endpoint: Endpoint,
    /// The company; used for concentration and price.
    pub provider: String,
    /// Facts with an end. Absent = nothing is known.
    pub claims: Option<Claims>,
}

/// What is claimed of a cloud; worth nothing from `expires` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Seats of the company and its parents.
    pub seat: JurisdictionSet,
    /// Where the data is processed.
    pub data_centers: JurisdictionSet,
    /// Law that governs the contract or reaches the company.
    pub governing_law: JurisdictionSet,
    /// Days for which prompts are kept; absent = unknown.
    pub retention_days: Option<u32>,
    /// Whether prompts are used for training; absent = unknown.
    pub training: Option<bool>,
    /// Where this can be read.
    pub evidence: Option<String>,
    /// First instant at which the claims no longer count: the start of the day (UTC) after the
    /// declared date. Claims without a date do not exist.
    pub expires: jiff::Timestamp,
}

/// Wire format of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Protocol {
    /// OpenAI's API.
    OpenAI,
}

/// One network address of a backend and what is needed to speak to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Base, for example `https://api.example.com/v1`.
    pub url: Url,
    /// Wire format.
    pub protocol: Protocol,
    /// The key, by reference.
    pub credentials: Option<Credential>,
    /// Header that carries the key; absent = `authorization: Bearer …`.
    pub auth_header: Option<String>,
    /// Further fixed headers.
    pub headers: Vec<(String, String)>,
    /// `openai-organization`.
    pub organization: Option<String>,
    /// Plain http outside loopback was declared.
    pub insecure_plaintext: bool,
    /// Addresses found for the host when the snapshot was made; evidence for `ownership.networks`,
    /// checked again at connect time.
    pub resolved: Vec<IpAddr>,
    /// Networks of the cluster's own pods and Services, where an address is evidence of nothing.
    pub cluster_networks: Arc<[IpNet]>,
    /// Whose certificates it may show instead of those that the system trusts.
    pub authority: Option<Authority>,
    /// Over what it is reached.
    pub proxy: Option<Proxy>,
}

/// Where certificates (PEM) of an organization's own authority are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// A file.
    File(PathBuf),
    /// An entry of an object in the backend's own namespace.
    Entry {
        /// Where it is kept.
        kept: Kept,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
        /// The entry.
        key: String,
    },
}

/// What keeps an entry in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kept {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl Kept {
    /// The kind's name.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// A proxy that passes on what is encrypted to the backend itself (HTTP CONNECT).
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its address.
    pub url: Url,
    /// `user:password` for it, by reference.
    pub credentials: Option<Credential>,
}

/// Where a key is found; never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Environment variable of this process.
    Env(String),
    /// File whose trimmed content is the key.
    File(PathBuf),
    /// Entry of a Secret in the backend's own namespace.
    Secret {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// The entry.
        key: String,
    },
}

/// Declared limits of a backend. Absent = unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests at the same time.
    pub concurrent_requests: Option<u32>,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
}

impl Backend {
    /// The network endpoint, if it has one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.place {
            Place::InProcess { .. } | Place::Pods(_) | Place::Peer(_) => None,
            Place::External(endpoint) | Place::Cloud(Cloud { endpoint, .. }) => Some(endpoint),
        }
    }

    /// The company behind it, for concentration: absent for owned and unknown places.
    pub fn provider(&self) -> Option<&str> {
        match &self.place {
            Place::Cloud(cloud) => Some(&cloud.provider),
            Place::InProcess { .. } | Place::Pods(_) | Place::External(_) | Place::Peer(_) => None,
        }
    }

    /// The other mesh, if it is one.
    pub fn peer(&self) -> Option<&Peer> {
        match &self.place {
            Place::Peer(peer) => Some(peer),
            Place::InProcess { .. } | Place::Pods(_) | Place::External(_) | Place::Cloud(_) => None,
        }
    }
}

/// Default time after which a wait in the floor's queue is given up.
pub const FLOOR_QUEUE_LIMIT: Duration = Duration::from_secs(30);
