//! One InferenceBackend in a pass: references found, children made or taken away, status told.

use std::collections::BTreeMap;

use mesh_core::Peer;
use mesh_crds::in_cluster::InCluster;
use mesh_crds::{InferenceBackend, Object, condition};
use mesh_routing::derive;

use super::build::{Accelerator, Children, Input, Refusal, Workload, child_name, children, plan};
use super::claims::{self, Served};
use super::live::Live;
use super::status::{Observed, status};
use super::{plaintext, refers};
use crate::apply::Error;
use crate::cache::State;
use crate::pass::{Class, Pass, Seen};
use crate::transition;
use crate::world::{Id, Read};

impl Pass {
    pub(crate) async fn backend(&self, read: &Read, seen: &Seen) -> Result<(), Error> {
        let id = (read.namespace(), read.name());
        let mut observed = Observed {
            pods: seen.pods.get(&id).cloned().unwrap_or_default(),
            rollout: Live::of(&self.world, &id).rollout(),
            fault: seen.fault(read),
            health: self.health.of(&id),
            ..Observed::default()
        };
        observed.pods.sort_by(|a, b| a.name.cmp(&b.name));
        let mut written = Ok(());
        if let Some(Object::InferenceBackend(backend)) = read.object() {
            observed.plaintext = plaintext(backend);
            observed.peer = backend.spec.peer.is_some();
            if let Some(spec) = &backend.spec.in_cluster {
                observed.in_cluster = true;
                observed.wanted = spec.replicas;
                let making = self.pods(read, backend, spec, seen, &mut observed);
                written = Box::pin(making).await;
                written = written.and(self.caches(seen).gate(&id).await);
            } else {
                written = self.unmake(&id).await;
            }
            self.refers(read, backend, &mut observed);
            let unserved = observed.peer.then(unserved);
            observed.fault = observed.fault.or(unserved);
        }
        if let Err(error) = &written
            && error.stalls()
        {
            observed.fault = Some((error.reason().to_owned(), error.to_string()));
        } else if let Err(error) = &written {
            observed.write_error = Some((error.reason().to_owned(), error.to_string()));
        }
        let nothing = observed.in_cluster && !observed.pods.iter().any(|pod| pod.ready);
        observed.class = if nothing { None } else { self.class(seen, &id) };
        let status = status(read, &observed, seen.now);
        self.say(read, &status, transition::of_backend).await?;
        written
    }

    /// A backend with pods: plans them and makes them so.
    async fn pods(
        &self,
        read: &Read,
        backend: &InferenceBackend,
        spec: &InCluster,
        seen: &Seen,
        observed: &mut Observed,
    ) -> Result<(), Error> {
        let id = (read.namespace(), read.name());
        let mut whole = backend.clone();
        whole.metadata.uid = read.raw.metadata.uid.clone();
        whole.metadata.namespace = Some(id.0.clone());
        let cache = |name: &str| model(seen, &id.0, name);
        let planned = plan(Input {
            backend: &whole,
            spec,
            cache: &cache,
            images: &self.images,
            fleet: &seen.fleet,
            mesh_namespace: &self.options.mesh_namespace,
            owned: owned(seen, &id),
            intel: Live::of(&self.world, &id).intel(),
        });
        let plan = match planned {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(refusal, &id, observed).await,
        };
        observed.adapters = spec.adapters.iter().map(|one| one.name.0.clone()).collect();
        if let Some(accelerator) = &plan.accelerator {
            observed.accelerators = Some(told(accelerator, seen));
        }
        let made = children(&plan).map_err(|source| Error::Json {
            what: format!("the children of {}", id.1),
            source,
        })?;
        if made.claims.is_some() {
            let refusal = match self.world.claims.served().await {
                Served::Yes => None,
                Served::No => Some(claims::not_served()),
                Served::Unknown => Some(claims::not_known()),
            };
            if let Some(refusal) = refusal {
                return self.refuse(refusal, &id, observed).await;
            }
        }
        // Where accelerators are scarce, the new pods would wait for the old ones' for ever.
        let beside = plan.accelerator.is_none();
        Box::pin(self.make(&id, made, beside)).await
    }

    /// Says why, and takes away pods that may be what is refused.
    async fn refuse(
        &self,
        refusal: Refusal,
        id: &Id,
        observed: &mut Observed,
    ) -> Result<(), Error> {
        let told = Some((refusal.reason, refusal.message));
        if told
            .as_ref()
            .is_some_and(|told| told.0 == condition::REASON_PROGRESSING)
        {
            observed.waiting = told;
        } else {
            observed.fault = observed.fault.take().or(told);
        }
        if refusal.forbidden {
            return self.unmake(id).await;
        }
        Ok(())
    }

    /// The children of a backend with pods. `beside`: a workload of another sort than is wanted stays until the wanted one
    /// serves; else it goes first.
    async fn make(&self, id: &Id, made: Children, beside: bool) -> Result<(), Error> {
        let live = Live::of(&self.world, id);
        let child = (id.0.clone(), child_name(&id.1));
        let (world, writer) = (&self.world, &self.writer);
        writer.apply(made.account, &world.accounts).await?;
        writer.apply(made.network, &world.networks).await?;
        writer.apply(made.service, &world.services).await?;
        let template = made.claims.as_ref();
        if let Some(template) = template {
            world.claims.apply(writer, template).await?;
        }
        match made.workload {
            Workload::Deployment(deployment) => {
                if !beside {
                    writer.remove(&world.stateful_sets, &child).await?;
                }
                writer.apply(*deployment, &world.deployments).await?;
                if live.deployment_serves() {
                    writer.remove(&world.stateful_sets, &child).await?;
                }
            }
            Workload::StatefulSet(set) => {
                if !beside {
                    writer.remove(&world.deployments, &child).await?;
                }
                match writer.apply(*set, &world.stateful_sets).await {
                    // Other volumes: it is made anew around the pods that it has, which follow one by one.
                    Err(error) if error.unchangeable() => {
                        writer.release(&world.stateful_sets, &child).await?;
                    }
                    done => done?,
                }
                if live.set_serves() {
                    writer.remove(&world.deployments, &child).await?;
                }
            }
        }
        world.claims.prune(writer, id, template).await?;
        if let Some(budget) = made.budget {
            return writer.apply(budget, &world.budgets).await;
        }
        writer.remove(&world.budgets, &child).await
    }

    /// What a backend with pods leaves behind when it becomes something else.
    async fn unmake(&self, id: &Id) -> Result<(), Error> {
        let child = (id.0.clone(), child_name(&id.1));
        let (world, writer) = (&self.world, &self.writer);
        writer.remove(&world.deployments, &child).await?;
        writer.remove(&world.stateful_sets, &child).await?;
        writer.remove(&world.services, &child).await?;
        writer.remove(&world.budgets, &child).await?;
        writer.remove(&world.networks, &child).await?;
        world.claims.prune(writer, id, None).await?;
        writer.remove(&world.accounts, &child).await
    }

    /// What it refers to and only gateways may read.
    fn refers(&self, read: &Read, backend: &InferenceBackend, observed: &mut Observed) {
        let granted = refers::Granted::from(&self.options);
        observed.credentials = refers::credentials(granted, backend, &read.namespace());
        let unreadable = observed.credentials.clone().and_then(Result::err);
        let unreadable = unreadable.map(|message| (String::from("CredentialsUnreadable"), message));
        let said = observed.health.as_ref().and_then(|word| word.authority);
        observed.authority = refers::authority(granted, read, backend, said);
        let blocked = observed.authority.as_ref().and_then(refers::blocked);
        let (fault, waiting) = match blocked {
            Some((reason, message, true)) => (Some((reason, message)), None),
            Some((reason, message, false)) => (None, Some((reason, message))),
            None => (None, None),
        };
        observed.fault = observed.fault.take().or(unreadable).or(fault);
        observed.waiting = observed.waiting.take().or(waiting);
    }

    /// Class and evidence.
    pub(crate) fn class(&self, seen: &Seen, id: &Id) -> Option<Class> {
        let found = seen.snapshot.backends.get(*seen.places.get(id)?)?;
        let namespace = &self.options.mesh_namespace;
        let derived = derive(found, &seen.ownership, namespace, seen.now);
        Some((derived.class, derived.evidence(found)))
    }
}

/// What keeps another mesh from being ready. Only a later release mends it, so nothing is at work.
fn unserved() -> (String, String) {
    let reason = condition::REASON_PEER_TRAFFIC_NOT_SERVED;
    let message = format!(
        "{}; its class is known, and it is never asked",
        Peer::UNSERVED
    );
    (reason.to_owned(), message)
}

/// Accelerators of each pod, and what the nodes have of them.
fn told(accelerator: &Accelerator, seen: &Seen) -> (String, String) {
    let offered = match &accelerator.class {
        // Devices are not in what is allocatable; the scheduler knows them.
        Some(class) => format!("devices of DeviceClass {class} are wanted"),
        None => seen
            .fleet
            .told(accelerator.resource, accelerator.count, accelerator.memory),
    };
    (accelerator.told(), offered)
}

/// Labels of owned nodes, for a backend that a policy names as its floor.
fn owned(seen: &Seen, id: &Id) -> BTreeMap<String, String> {
    let floor = seen
        .snapshot
        .policies
        .iter()
        .filter_map(|policy| policy.floor.as_ref())
        .any(|floor| floor.backend == *id);
    if !floor {
        return BTreeMap::new();
    }
    let selectors = seen.ownership.nodes.iter().flatten();
    selectors.flat_map(Clone::clone).collect()
}

/// A ModelCache that a backend names, or why it cannot be used.
fn model<'s>(seen: &'s Seen, namespace: &str, name: &str) -> Result<&'s State, Refusal> {
    let id = (namespace.to_owned(), name.to_owned());
    if let Some(state) = seen.models.get(&id) {
        return Ok(state);
    }
    let mut all = seen.caches.iter().filter(|read| !read.deleted());
    if all.any(|read| (read.namespace(), read.name()) == id) {
        let message = format!("ModelCache {name} cannot be used; its own status says why");
        return Err(Refusal::new("ModelCacheNotReady", message));
    }
    let message = format!("there is no ModelCache {name} in namespace {namespace}");
    Err(Refusal::new(condition::REASON_REFERENCE_NOT_FOUND, message))
}
