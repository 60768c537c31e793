//! ModelCache: a model's files by digest, in the pods themselves or in volumes.
//!
//! ```text
//! spec, status, claim, Jobs, pods --State--> what should be there, what is said
//!                                    |
//!            claim, Jobs, policies <-+-> status, events
//! ```
//!
//! Files are fetched, proven and quantized by pods without a token and without a right; the operator only
//! makes them and reads what they say. It refuses to take another digest than it knows.

mod asked;
mod build;
mod name;
mod outcome;
mod pods;
mod poll;
mod report;
mod room;
mod source;
mod state;
mod status;
mod stories;
#[cfg(test)]
pub(crate) mod testing;
mod wanted;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use mesh_crds::{ModelCache, ModelCacheStatus, Object, label};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

pub(crate) use build::{FETCHING, derived, format, quantize};
pub(crate) use name::{child, label as label_value};
pub(crate) use pods::open;
pub(crate) use poll::Poll;
pub(crate) use source::{BUILTIN, Fetching, builtin, fetching, outside};
pub(crate) use state::{Keep, Obstacle, State};

use crate::apply::{Error, MANAGER, Writer};
use crate::backend::Images;
use crate::events::{Events, Story};
use crate::world::{Read, World};
use build::Builder;
use outcome::{Phase, Polled};
use state::{Doing, Input};
use stories::{say, stories};

/// A Job that failed is made again after so long: sources come back.
const REST_SECONDS: i64 = 600;

/// Namespace and name.
pub(crate) type Id = (String, String);

/// Pods and Jobs around all caches; pods by namespace and label.
#[derive(Default)]
pub(crate) struct Around {
    fetchers: BTreeMap<Id, Vec<Arc<Pod>>>,
    workers: BTreeMap<Id, Vec<Arc<Pod>>>,
    backends: BTreeMap<Id, Vec<Arc<Pod>>>,
    /// By the uid of the cache.
    jobs: BTreeMap<String, Vec<Arc<Job>>>,
    polled: Polled,
}

impl Around {
    pub(crate) fn new(world: &World, poll: &Poll) -> Self {
        let by = |all: Vec<Arc<Pod>>, label: &str| {
            let mut found: BTreeMap<Id, Vec<Arc<Pod>>> = BTreeMap::new();
            for pod in all {
                let name = pod.labels().get(label).cloned();
                if let (Some(namespace), Some(name)) = (pod.namespace(), name) {
                    found.entry((namespace, name)).or_default().push(pod);
                }
            }
            found
        };
        let mut jobs: BTreeMap<String, Vec<Arc<Job>>> = BTreeMap::new();
        for job in world.jobs.state() {
            for owner in job.owner_references() {
                jobs.entry(owner.uid.clone())
                    .or_default()
                    .push(Arc::clone(&job));
            }
        }
        Self {
            fetchers: by(world.fetchers.state(), label::MODEL_CACHE),
            workers: by(world.pods.state(), label::MODEL_CACHE),
            backends: by(world.pods.state(), label::BACKEND),
            jobs,
            polled: poll.told(),
        }
    }
}

/// What is to be done for a ModelCache that can be read.
pub(crate) fn look(read: &Read, world: &World, around: &Around, now: Timestamp) -> Option<State> {
    let Some(Object::ModelCache(cache)) = read.object() else {
        return None;
    };
    let mut cache = (**cache).clone();
    cache.metadata.namespace = Some(read.namespace());
    cache.metadata.name = Some(read.name());
    cache.metadata.uid.clone_from(&read.raw.metadata.uid);
    let status = read.raw.data.get("status").cloned().unwrap_or_default();
    let id = (read.namespace(), name::label(&read.name()));
    let none = Vec::new();
    let claim = ObjectRef::new(&name::claim(&read.name())).within(&read.namespace());
    let uid = cache.metadata.uid.clone().unwrap_or_default();
    let jobs = around.jobs.get(&uid).into_iter().flatten();
    let input = Input {
        cache: &cache,
        status: serde_json::from_value::<ModelCacheStatus>(status).unwrap_or_default(),
        claim: world
            .volumes
            .get(&claim)
            .filter(|claim| owned(&**claim, &cache) && claim.meta().deletion_timestamp.is_none()),
        jobs: jobs
            .filter(|job| job.meta().deletion_timestamp.is_none())
            .cloned()
            .collect(),
        fetchers: around.fetchers.get(&id).unwrap_or(&none),
        workers: around.workers.get(&id).unwrap_or(&none),
        polled: &around.polled,
        now,
    };
    Some(State::new(&input))
}

/// True if these pods have the claim.
fn mounts(
    namespace: Option<&String>,
    spec: Option<&PodSpec>,
    claim: &PersistentVolumeClaim,
) -> bool {
    let volumes = spec.and_then(|spec| spec.volumes.as_ref());
    let mut claims = volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.persistent_volume_claim.as_ref());
    namespace == claim.metadata.namespace.as_ref()
        && claims.any(|one| Some(&one.claim_name) == claim.metadata.name.as_ref())
}

/// True if pods are there with the claim, or are made with it.
fn used(world: &World, claim: &PersistentVolumeClaim) -> bool {
    let made = |one: &Deployment| {
        let spec = one.spec.as_ref().and_then(|one| one.template.spec.as_ref());
        mounts(one.metadata.namespace.as_ref(), spec, claim)
    };
    // One that has ended holds nothing.
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_ref());
        phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
    };
    let has = |pod: &Pod| {
        !ended(pod) && mounts(pod.metadata.namespace.as_ref(), pod.spec.as_ref(), claim)
    };
    let pods = [world.pods.state(), world.fetchers.state()];
    world.deployments.state().iter().any(|one| made(one))
        || pods.iter().flatten().any(|pod| has(pod))
}

fn owned<K: Resource>(object: &K, cache: &ModelCache) -> bool {
    let uid = cache.metadata.uid.as_deref().unwrap_or_default();
    let owners = object.owner_references();
    owners.iter().any(|owner| owner.uid == uid)
}

/// Writes what caches need.
pub(crate) struct Caches<'a> {
    pub(crate) world: &'a World,
    pub(crate) around: &'a Around,
    pub(crate) writer: &'a Writer,
    pub(crate) events: &'a Events,
    pub(crate) images: &'a Images,
    pub(crate) mesh_namespace: &'a str,
}

impl Caches<'_> {
    /// Makes what is to be there, removes what is not, and says so.
    pub(crate) async fn reconcile(
        &self,
        read: &Read,
        state: Option<&State>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(state) = state else {
            let status = status::unreadable(read, now);
            return self.writer.status(&read.raw, &status).await;
        };
        let written = if state.fault.is_some() {
            Ok(())
        } else {
            self.write(state, now).await
        };
        let refused = written
            .as_ref()
            .err()
            .map(|error| (error.reason().to_owned(), error.to_string()));
        let status = status::status(read, state, refused.as_ref(), now);
        let held = self.held(&state.cache).then(|| {
            let note = "this namespace is confined: sources are reached only as far as egress.allow of a policy of the mesh namespace lets out";
            Story::warning("EgressConfined", "Fetch", note)
        });
        let stories = stories(read, state).into_iter().chain(held);
        let said = say(read, &status, stories, (self.writer, self.events)).await;
        written.and(said)
    }

    async fn write(&self, state: &State, now: Timestamp) -> Result<(), Error> {
        let cache = &state.cache;
        let builder = Builder {
            cache,
            images: self.images,
            mesh_namespace: self.mesh_namespace,
        };
        self.storage(state, &builder).await?;
        let again = state.again(now);
        let uid = cache.metadata.uid.clone().unwrap_or_default();
        for job in self.around.jobs.get(&uid).into_iter().flatten() {
            let name = job.name_any();
            let wanted = state.doings().any(|doing| doing.work.name == name);
            let changed = state
                .doings()
                .any(|doing| doing.work.name == name && outdated(doing, job, &builder));
            let drop = !wanted || changed || again.contains(&name.as_str());
            if drop && job.meta().deletion_timestamp.is_none() {
                self.writer.delete(&**job).await?;
            }
        }
        self.networks(state, &builder).await?;
        for doing in state.doings() {
            let live = ObjectRef::new(&doing.work.name).within(namespace(cache));
            if self.world.jobs.get(&live).is_none() {
                let mut job = builder
                    .job(&doing.work, &state.artifacts)
                    .map_err(|source| unwritable(cache, source))?;
                room::mark(&mut job, state.capacity.as_ref());
                self.create(&job).await?;
            }
        }
        Ok(())
    }

    /// The claim, where one is wanted; it goes where none is and no pod has it any more. One that is deleted
    /// under them would neither end nor come back, and a pod made anew would never start.
    async fn storage(&self, state: &State, builder: &Builder<'_>) -> Result<(), Error> {
        let cache = &state.cache;
        let name = name::claim(cache.metadata.name.as_deref().unwrap_or_default());
        let live = ObjectRef::new(&name).within(namespace(cache));
        let live = self
            .world
            .volumes
            .get(&live)
            .filter(|claim| owned(&**claim, cache));
        let Keep::Claim(storage) = &state.keep else {
            let going = live.filter(|claim| claim.meta().deletion_timestamp.is_none());
            let Some(claim) = going else { return Ok(()) };
            if used(self.world, &claim) {
                return Ok(());
            }
            return self.writer.delete(&*claim).await;
        };
        let wanted = builder
            .claim(storage)
            .map_err(|source| unwritable(cache, source))?;
        self.writer.apply(wanted, &self.world.volumes).await
    }

    async fn networks(&self, state: &State, builder: &Builder<'_>) -> Result<(), Error> {
        let cache = &state.cache;
        let json = |source| unwritable(cache, source);
        let closed = builder.closed().map_err(json)?;
        let works = state.doings().next().is_some();
        self.network(closed, works).await?;
        let active = state
            .doings()
            .any(|doing| matches!(doing.outcome.phase, Phase::Absent | Phase::Running));
        let wants = outside(cache) && (active || !matches!(state.keep, Keep::Claim(_)));
        let fetches = wants && !self.held(cache);
        self.network(builder.open().map_err(json)?, fetches).await
    }

    /// Nobody is let out of a confined namespace by a label, which any pod may carry: its caches reach what
    /// policies allow.
    fn held(&self, cache: &ModelCache) -> bool {
        let home = cache.metadata.namespace.as_deref();
        let confined = crate::confine::confined(self.world);
        outside(cache)
            && confined
                .iter()
                .any(|one| one.metadata.namespace.as_deref() == home)
    }

    async fn network(
        &self,
        policy: k8s_openapi::api::networking::v1::NetworkPolicy,
        wanted: bool,
    ) -> Result<(), Error> {
        if wanted {
            return self.writer.apply(policy, &self.world.networks).await;
        }
        let id = (policy.namespace().unwrap_or_default(), policy.name_any());
        self.writer.remove(&self.world.networks, &id).await
    }

    async fn create<K>(&self, object: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let space = object.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.writer.client.clone(), &space);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.writer.metrics.wrote(&K::kind(&()));
        match api.create(&params, object).await {
            Ok(_) => Ok(()),
            // Made by a pass whose memory had not caught up: the names of Jobs are ours alone.
            Err(kube::Error::Api(status)) if status.code == 409 && K::kind(&()) == "Job" => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("{} {space}/{}", K::kind(&()), object.name_any()),
                source: Box::new(source),
            }),
        }
    }

    /// Closes the way out of the pods of a backend once their files are there.
    pub(crate) async fn gate(&self, id: &Id) -> Result<(), Error> {
        let pods = self.around.backends.get(id).into_iter().flatten();
        for pod in pods.filter(|pod| pods::done_fetching(pod)) {
            self.close(pod).await?;
        }
        Ok(())
    }

    async fn close(&self, pod: &Pod) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(
            self.writer.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        // The uid, so that a pod of the same name that has just begun is left alone.
        let patch = json!({"metadata": {"uid": pod.uid(), "labels": {FETCHING: null}}});
        self.writer.metrics.wrote("Pod");
        match api
            .patch(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("the label of Pod {}", pod.name_any()),
                source: Box::new(source),
            }),
        }
    }
}

fn namespace(cache: &ModelCache) -> &str {
    cache.metadata.namespace.as_deref().unwrap_or_default()
}

fn unwritable(cache: &ModelCache, source: serde_json::Error) -> Error {
    Error::Json {
        what: format!("the children of {}", cache.name_any()),
        source,
    }
}

/// A Job that has not come far, of an image that is no longer the one.
fn outdated(doing: &Doing, job: &Job, builder: &Builder<'_>) -> bool {
    let pod = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let image = pod.and_then(|pod| pod.containers.first()?.image.as_deref());
    doing.outcome.phase == Phase::Running && image != Some(builder.image(&doing.work.task))
}

#[cfg(test)]
mod tests;
