//! The security core: hard constraints decide whether a backend may serve a request.
//!
//! Only [`admit`] makes an [`Admitted`], and only an [`Admitted`] can be dispatched to. Preference
//! comes later and elsewhere; nothing here looks at health, price or quality.
//!
//! Constraints are checked in a fixed order and the first that fails is reported: who may use the
//! backend (availability, local only), what policy says (minimum class, max privacy, jurisdiction,
//! license, retention, hosted tools), what the backend can do (embedding, features), and last what
//! the caller could change (unknown fields, context window). So a refusal for the window means that
//! everything else was in order, and a refusal for unknown fields that policy and features were. Then come
//! other meshes (`peer_traffic`), to which nothing is sent yet: who is refused for that would serve. Behind
//! all of them comes the record (`audit`), the only one that passes by itself: who is refused for it would
//! serve if what was decided could be written down.

mod claims;
mod need;

pub(crate) use need::hard_needs;

use std::sync::Arc;

use ipnet::IpNet;
use mesh_core::{
    Backend, Constraint, EmbeddingSpec, Facts, Peer, Place, Pod, PrivacyLevel, Refusal,
    ServedModel, SovereigntyClass,
};

use crate::class::{Basis, Derived, derive, of_pod};
use crate::policy::EffectivePolicy;

/// A backend and model that policy allows for one request. Made by [`admit`] alone, and not
/// `Clone`: whoever wants to send again asks again.
#[derive(Debug)]
pub struct Admitted {
    backend: Arc<Backend>,
    model: usize,
    derived: Derived,
    level: PrivacyLevel,
    networks: Vec<IpNet>,
    pods: Vec<Arc<Pod>>,
}

impl Admitted {
    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What it serves for this request.
    pub fn model(&self) -> &ServedModel {
        &self.backend.models[self.model]
    }

    /// Its class at the moment of admission.
    pub fn class(&self) -> SovereigntyClass {
        self.derived.class
    }

    /// What the class rests on.
    pub fn basis(&self) -> Basis {
        self.derived.basis
    }

    /// Level of the request it was admitted for.
    pub fn level(&self) -> PrivacyLevel {
        self.level
    }

    /// Where the class rests on `ownership.networks`: the networks that the address must lie in,
    /// checked with [`inside`](crate::class::inside) on the address that is really connected to.
    /// `None` = any address.
    pub fn networks(&self) -> Option<&[IpNet]> {
        (self.derived.basis == Basis::Networks).then_some(self.networks.as_slice())
    }
}

impl Admitted {
    /// For a backend in pods: those that may be sent to. Others of the same backend may stand on
    /// hardware of a worse class.
    pub fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }
}

/// What [`admit`] looks at besides backend and model.
#[derive(Debug, Clone, Copy)]
pub struct AdmitInput<'a> {
    /// Joined policy of the caller.
    pub policy: &'a EffectivePolicy,
    /// What classification found.
    pub facts: &'a Facts,
    /// The caller said `local`.
    pub local_only: bool,
    /// For embeddings: the declaration that every candidate must share. `None` = any.
    pub embedding: Option<&'a EmbeddingSpec>,
    /// The context window is not checked: the floor, which may leave out old turns.
    pub overflow: bool,
    /// What is decided can be written durably now, or need not be: the floor answers, and is written later.
    pub recorded: bool,
    /// Instant of the decision; claims expire.
    pub now: jiff::Timestamp,
}

impl AdmitInput<'_> {
    /// The level that counts: never below the policy's base, whatever the facts say. (Lowering the
    /// base is not supported yet.)
    pub fn level(&self) -> PrivacyLevel {
        self.facts.level.max(self.policy.base_level())
    }
}

/// Decides one backend and one of its models, by the model's own name.
///
/// # Errors
/// The first constraint that refuses, in the order of the module's text.
pub fn admit(
    input: &AdmitInput<'_>,
    backend: &Arc<Backend>,
    model: &str,
) -> Result<Admitted, Refusal> {
    let policy = input.policy;
    let Some(index) = backend
        .models
        .iter()
        .position(|served| served.name == model)
    else {
        return refuse(Constraint::Availability, || {
            format!("{} does not serve {model} any more", backend.id)
        });
    };
    let served = &backend.models[index];
    let (derived, pods) = best(input, backend);

    availability(policy, backend)?;
    local_only(input, derived)?;
    minimum_class(input, backend, derived)?;
    max_privacy(input, backend)?;
    claims::jurisdiction(input, backend, derived.class)?;
    license(policy, served)?;
    claims::retention(input, backend, derived.class)?;
    need::hosted_tools(input.facts)?;
    need::embedding(input, served)?;
    need::features(input.facts, served)?;
    need::unknown_fields(input, derived.class)?;
    need::context_window(input, served)?;
    peer_traffic(backend)?;
    record(input)?;

    Ok(Admitted {
        backend: Arc::clone(backend),
        model: index,
        derived,
        pods,
        level: input.level(),
        networks: if derived.basis == Basis::Networks {
            policy.ownership().networks.clone()
        } else {
            Vec::new()
        },
    })
}

/// The class that counts for this request, and the pods that have it. Of a backend in pods only those
/// count that the level allows; if none is, the class of the worst says why.
fn best(input: &AdmitInput<'_>, backend: &Arc<Backend>) -> (Derived, Vec<Arc<Pod>>) {
    let policy = input.policy;
    let whole = derive(
        backend,
        policy.ownership(),
        policy.mesh_namespace(),
        input.now,
    );
    let Place::Pods(all) = &backend.place else {
        return (whole, Vec::new());
    };
    let minimum = policy.minimum_class(input.level());
    let allowed =
        |class: SovereigntyClass| class >= minimum && (!input.local_only || class.owned());
    if allowed(whole.class) {
        return (whole, all.pods.clone());
    }
    let classes = all
        .pods
        .iter()
        .map(|pod| (of_pod(pod, policy.ownership()), pod));
    let (some, pods): (Vec<Derived>, Vec<Arc<Pod>>) = classes
        .filter(|(derived, _)| allowed(derived.class))
        .map(|(derived, pod)| (derived, Arc::clone(pod)))
        .unzip();
    let worst = some.into_iter().min_by_key(|derived| derived.class);
    (worst.unwrap_or(whole), pods)
}

/// True if the backend serves the caller's namespace: one of the mesh namespace where `availableTo`
/// selects it, any other only its own.
pub fn in_reach(policy: &EffectivePolicy, backend: &Backend) -> bool {
    if backend.id.namespace == policy.mesh_namespace() {
        backend.available_to.matches(policy.caller())
    } else {
        backend.id.namespace == policy.caller().tenant
    }
}

fn availability(policy: &EffectivePolicy, backend: &Backend) -> Result<(), Refusal> {
    if in_reach(policy, backend) {
        return Ok(());
    }
    refuse(Constraint::Availability, || {
        format!("does not serve namespace {}", policy.caller().tenant)
    })
}

fn local_only(input: &AdmitInput<'_>, derived: Derived) -> Result<(), Refusal> {
    if !input.local_only || derived.class.owned() {
        return Ok(());
    }
    refuse(Constraint::LocalOnly, || {
        format!("`local` was asked for and its class is {}", derived.class)
    })
}

fn minimum_class(
    input: &AdmitInput<'_>,
    backend: &Backend,
    derived: Derived,
) -> Result<(), Refusal> {
    let level = input.level();
    let minimum = input.policy.minimum_class(level);
    if derived.class >= minimum {
        return Ok(());
    }
    refuse(Constraint::MinimumClass, || {
        format!(
            "{level} needs {minimum}, this is {}: {}",
            derived.class,
            derived.evidence(backend).first().map_or("", String::as_str)
        )
    })
}

fn max_privacy(input: &AdmitInput<'_>, backend: &Backend) -> Result<(), Refusal> {
    let level = input.level();
    if level <= backend.max_privacy {
        return Ok(());
    }
    refuse(Constraint::MaxPrivacy, || {
        format!(
            "the request is {level}, maxPrivacy is {}",
            backend.max_privacy
        )
    })
}

fn peer_traffic(backend: &Backend) -> Result<(), Refusal> {
    if backend.peer().is_none() {
        return Ok(());
    }
    refuse(Constraint::PeerTraffic, || Peer::UNSERVED.to_owned())
}

fn record(input: &AdmitInput<'_>) -> Result<(), Refusal> {
    let level = input.level();
    if input.recorded || !input.policy.durable(level) {
        return Ok(());
    }
    refuse(Constraint::Audit, || {
        format!(
            "{level} needs a durable record (audit.durableFrom), and none can be written now: the floor only"
        )
    })
}

/// SPDX identifiers compare without regard to case (SPDX specification 2.3, annex D).
fn license(policy: &EffectivePolicy, served: &ServedModel) -> Result<(), Refusal> {
    let same = |a: &mesh_core::License, b: &mesh_core::License| a.0.eq_ignore_ascii_case(&b.0);
    if let Some(license) = &served.license
        && policy
            .licenses_deny()
            .iter()
            .any(|denied| same(denied, license))
    {
        return refuse(Constraint::License, || {
            format!("license {license} is denied")
        });
    }
    let Some(allowed) = policy.licenses_allow() else {
        return Ok(());
    };
    match &served.license {
        Some(license) if allowed.iter().any(|one| same(one, license)) => Ok(()),
        Some(license) => refuse(Constraint::License, || {
            format!("license {license} is not on the allow list")
        }),
        None => refuse(Constraint::License, || {
            String::from("the license is not declared and an allow list stands")
        }),
    }
}

/// Builds a refusal; the message is only formatted where one is needed.
fn refuse<T>(constraint: Constraint, message: impl FnOnce() -> String) -> Result<T, Refusal> {
    Err(Refusal {
        constraint,
        message: message(),
    })
}
