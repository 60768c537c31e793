//! Small worlds to decide in.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::policy::{Constraints, Failover, Floor, Overflow, Ownership};
use mesh_core::{
    Backend, BackendId, Caller, Capabilities, Claims, Cloud, Complexity, Decision, DecisionId,
    EmbeddingSpec, Endpoint, Facts, Feature, JurisdictionSet, LatencyClass, License, Limits,
    NamespaceSelector, Needs, Peer, Place, Policy, PolicyId, Price, PrivacyLevel, Protocol, Scan,
    ServedModel, Snapshot, TaskQuality, TaskType, Trust,
};
use mesh_routing::{
    AssumedHealth, DecideInput, Decided, EffectivePolicy, HealthView, decide, join,
};

pub(crate) const MESH: &str = "default";

pub(crate) fn now() -> jiff::Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("an instant")
}

pub(crate) fn places(codes: &[&str]) -> JurisdictionSet {
    JurisdictionSet(
        codes
            .iter()
            .map(|code| code.parse().expect("a code"))
            .collect(),
    )
}

pub(crate) fn model(name: &str, quality: f64) -> ServedModel {
    ServedModel {
        name: name.to_owned(),
        target: None,
        aliases: Vec::new(),
        license: Some(License(String::from("Apache-2.0"))),
        family: None,
        price: Some(Price {
            input_per_million: 2.0,
            output_per_million: 8.0,
            currency: String::from("EUR"),
        }),
        capabilities: Capabilities {
            context_tokens: Some(200_000),
            tasks: vec![TaskQuality {
                task: TaskType::Chat,
                quality,
                source: String::from("test"),
            }],
            features: vec![Feature::Tools, Feature::JsonSchema, Feature::Vision],
            ..Capabilities::default()
        },
    }
}

pub(crate) fn backend(name: &str, place: Place, model: ServedModel) -> Backend {
    Backend {
        id: BackendId::home(MESH, name),
        place,
        models: vec![model],
        max_privacy: PrivacyLevel::Restricted,
        limits: Limits::default(),
        available_to: NamespaceSelector::default(),
        request_overrides: serde_json::Map::new(),
        stream_upstream: true,
        hardware_vendor: None,
    }
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        url: format!("https://{name}.example/v1").parse().expect("a url"),
        protocol: Protocol::OpenAI,
        credentials: None,
        auth_header: None,
        headers: Vec::new(),
        organization: None,
        insecure_plaintext: false,
        resolved: Vec::new(),
        cluster_networks: Arc::default(),
        authority: None,
        proxy: None,
    }
}

/// A cloud whose claims make it `CloudDomestic` where DE is home.
pub(crate) fn cloud(name: &str, quality: f64) -> Backend {
    let place = Place::Cloud(Cloud {
        endpoint: endpoint(name),
        provider: name.to_owned(),
        claims: Some(Claims {
            seat: places(&["DE"]),
            data_centers: places(&["DE"]),
            governing_law: places(&["DE"]),
            retention_days: Some(0),
            training: Some(false),
            evidence: None,
            expires: "2027-06-30T00:00:00Z".parse().expect("an instant"),
        }),
    });
    backend(name, place, model(&format!("{name}-model"), quality))
}

pub(crate) fn claims(backend: &mut Backend) -> &mut Claims {
    let Place::Cloud(Cloud {
        claims: Some(claims),
        ..
    }) = &mut backend.place
    else {
        panic!("a cloud with claims");
    };
    claims
}

/// An external server at these addresses.
pub(crate) fn external(name: &str, addresses: &[&str]) -> Backend {
    let mut endpoint = endpoint(name);
    endpoint.resolved = addresses
        .iter()
        .map(|address| address.parse().expect("an address"))
        .collect();
    backend(
        name,
        Place::External(endpoint),
        model(&format!("{name}-model"), 0.6),
    )
}

/// Another mesh, at an address that the usual policy takes for owned.
pub(crate) fn peer(name: &str, trust: Trust) -> Backend {
    let place = Place::Peer(Peer {
        host: url::Host::Ipv4([192, 168, 20, 7].into()),
        port: 8444,
        identity: String::from("a-key"),
        trust,
    });
    backend(name, place, model(&format!("{name}-model"), 0.9))
}

/// The floor: small, in this process, no enforced features, 8,192 tokens.
pub(crate) fn floor() -> Backend {
    in_process("floor", "smollm2")
}

pub(crate) fn in_process(name: &str, served: &str) -> Backend {
    let mut model = model(served, 0.2);
    model.price = None;
    model.capabilities.features.clear();
    model.capabilities.context_tokens = Some(8_192);
    let place = Place::InProcess {
        model_cache: String::from("smollm2-135m"),
        kv_bytes: None,
        context_tokens: None,
    };
    backend(name, place, model)
}

pub(crate) fn embedding(revision: &str, dimensions: u32) -> EmbeddingSpec {
    EmbeddingSpec {
        model: String::from("minilm"),
        revision: revision.to_owned(),
        dimensions,
    }
}

/// A policy of the mesh namespace that says nothing.
pub(crate) fn silent(name: &str) -> Policy {
    Policy {
        id: PolicyId::home(MESH, name),
        digest: format!("digest-{name}"),
        origin: mesh_core::policy::Origin::Written,
        namespaces: NamespaceSelector::default(),
        service_accounts: Vec::new(),
        ownership: None,
        default_privacy: None,
        default_latency: None,
        weights: None,
        privacy_weight: None,
        references: None,
        prefer_local_gap: None,
        max_share: None,
        durable_from: None,
        constraints: Constraints::default(),
        incomplete_level: None,
        failover: None,
        floor: None,
        tests: Vec::new(),
    }
}

/// The policy of most tests: public by default, DE and FR at home, a floor.
pub(crate) fn policy() -> Policy {
    Policy {
        default_privacy: Some(PrivacyLevel::Public),
        ownership: Some(Ownership {
            nodes: None,
            networks: vec!["192.168.20.0/24".parse().expect("a network")],
            external: Vec::new(),
            home_jurisdictions: places(&["DE", "FR"]),
        }),
        failover: Some(Failover::default()),
        floor: Some(Floor {
            drill: None,
            backend: (MESH.to_owned(), String::from("floor")),
            protect: true,
            compete: false,
            overflow: Overflow::TrimHistory,
        }),
        ..silent("policy")
    }
}

/// A policy of another namespace.
pub(crate) fn team_policy(namespace: &str, name: &str) -> Policy {
    Policy {
        id: PolicyId::foreign(namespace, name),
        ..silent(name)
    }
}

pub(crate) fn selector(key: &str, value: &str) -> NamespaceSelector {
    NamespaceSelector {
        match_labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
    }
}

pub(crate) fn facts(level: PrivacyLevel) -> Facts {
    Facts {
        level,
        task: TaskType::Chat,
        complexity: Complexity::default(),
        latency: LatencyClass::Interactive,
        needs: Needs {
            prompt_tokens: 100,
            ..Needs::default()
        },
        scan: Scan {
            complete: true,
            ..Scan::default()
        },
        findings: Vec::new(),
        entries: Vec::new(),
    }
}

/// Backends, policies and a caller.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) caller: Caller,
}

impl World {
    pub(crate) fn new(
        backends: impl IntoIterator<Item = Backend>,
        policies: impl IntoIterator<Item = Policy>,
    ) -> Self {
        let mut snapshot = Snapshot::empty(MESH, now());
        snapshot.generation = 1;
        snapshot.backends = backends.into_iter().map(Arc::new).collect();
        snapshot.backends.sort_by(|a, b| a.id.cmp(&b.id));
        snapshot.policies = policies.into_iter().map(Arc::new).collect();
        snapshot.policies.sort_by(|a, b| a.id.cmp(&b.id));
        Self {
            snapshot,
            caller: Caller::local(MESH),
        }
    }

    /// The usual policy and these backends.
    pub(crate) fn of(backends: impl IntoIterator<Item = Backend>) -> Self {
        Self::new(backends, [policy()])
    }

    pub(crate) fn seen_from(mut self, tenant: &str) -> Self {
        self.caller = Caller::local(tenant);
        self
    }

    pub(crate) fn policy(&self) -> EffectivePolicy {
        join(&self.snapshot, &self.caller)
    }

    pub(crate) fn decide_with(
        &self,
        asked: &str,
        facts: &Facts,
        health: &dyn HealthView,
    ) -> Decided {
        decide(&DecideInput {
            snapshot: &self.snapshot,
            policy: &self.policy(),
            facts,
            model: asked,
            health,
            now: now(),
            id: &DecisionId(String::from("01")),
        })
    }

    pub(crate) fn decide(&self, asked: &str, facts: &Facts) -> Decided {
        self.decide_with(asked, facts, &AssumedHealth::well())
    }

    pub(crate) fn ask(&self, asked: &str, level: PrivacyLevel) -> Decided {
        self.decide(asked, &facts(level))
    }
}

/// Names of the backends in the plan, in order.
pub(crate) fn planned(decided: &Decided) -> Vec<String> {
    decided
        .decision
        .plan
        .iter()
        .map(|entry| entry.backend.to_string())
        .collect()
}

/// The constraint that refused `backend`, if one did.
pub(crate) fn refused(decision: &Decision, backend: &str) -> Option<mesh_core::Constraint> {
    decision
        .candidates
        .iter()
        .find(|candidate| candidate.backend.to_string() == backend)
        .unwrap_or_else(|| panic!("{backend} was not considered"))
        .refusal
        .as_ref()
        .map(|refusal| refusal.constraint)
}
