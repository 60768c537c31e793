//! One pass: everything that is declared, against everything that is there. Backends are looked at where
//! something about them changed, and all of them once a minute.

mod accepted;
mod seen;
pub(crate) mod setback;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, DynamicObject, PostParams};
use kube::{Client, ResourceExt};
use mesh_core::ObjectId;
use mesh_crds::condition;
use serde_json::Value;
use tokio::time::Instant;

use crate::apply::{Error, Writer};
use crate::args::Run;
use crate::backend::Images;
use crate::cache::{Caches, Poll};
use crate::events::{Events, Story};
use crate::health::{Health, Word};
use crate::metrics::Metrics;
use crate::world::{Changes, Id, Read, World};
use crate::{bootstrap, confine, policy, status, transition};

pub(crate) use seen::Seen;
use setback::Setbacks;

/// Changes that come in a burst are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Everything is looked at at least this often: claims expire.
const RESYNC: Duration = Duration::from_mins(1);
/// After something could not be written.
const RETRY: Duration = Duration::from_secs(2);
/// Backends that are written at once.
const AT_ONCE: usize = 8;

/// Makes the cluster match what is declared.
pub(crate) struct Pass {
    client: Client,
    pub(crate) options: Run,
    pub(crate) images: Images,
    pub(crate) world: World,
    pub(crate) writer: Writer,
    metrics: Metrics,
    bootstrap: Vec<Value>,
    pub(crate) events: Events,
    pub(crate) poll: Poll,
    pub(crate) health: Health,
    pub(crate) canaries: confine::Canaries,
    memory: Mutex<Memory>,
}

/// What the last passes found.
#[derive(Default)]
struct Memory {
    /// When everything was looked at last.
    whole: Option<Instant>,
    /// What follows for a backend from everything else: looked at again where it differs.
    found: BTreeMap<Id, Found>,
    /// Backends that could not be written.
    failed: BTreeSet<Id>,
    /// What the API server refused, of all kinds.
    setbacks: Setbacks,
    /// The same of what confines namespaces.
    confining: Setbacks,
    /// Something is confined, whose pods are looked at more often.
    confines: bool,
}

/// Fault, class, and what the gateways say.
type Found = (Option<(String, String)>, Option<Class>, Option<Word>);
pub(crate) type Class = (mesh_core::SovereigntyClass, Vec<String>);

impl Pass {
    pub(crate) fn new(
        writer: Writer,
        options: Run,
        world: World,
        bootstrap: Vec<Value>,
        events: Events,
        (poll, health, canaries): (Poll, Health, confine::Canaries),
    ) -> Self {
        Self {
            images: Images::from(&options),
            client: writer.client.clone(),
            metrics: writer.metrics.clone(),
            writer,
            options,
            world,
            bootstrap,
            events,
            poll,
            health,
            canaries,
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until dropped.
    pub(crate) async fn run(&self) {
        let (mut changed, mut told) = (self.world.changed(), self.poll.changed());
        let (mut heard, mut noted) = (self.health.changed(), self.canaries.changed());
        let mut failures = 0;
        loop {
            changed.borrow_and_update();
            let good = if self.world.missing().is_empty() {
                self.once().await
            } else {
                true
            };
            tokio::time::sleep(DEBOUNCE).await;
            failures = if good { 0 } else { failures + 1 };
            let wait = match good {
                true if self.memory().confines => confine::FRESH,
                true => RESYNC,
                false => rest(failures),
            };
            // What rests is tried again when its time has come, and nobody else waits for it.
            let wait = {
                let (memory, now) = (self.memory(), Instant::now());
                let due = [memory.setbacks.first(now), memory.confining.first(now)];
                due.into_iter().flatten().fold(wait, Duration::min)
            };
            let news = async {
                tokio::select! {
                    news = changed.changed() => news,
                    news = told.changed() => news,
                    news = heard.changed() => news,
                    news = noted.changed() => news,
                }
            };
            if let Ok(Err(_)) = tokio::time::timeout(wait, news).await {
                return;
            }
        }
    }

    /// True if everything is as it should be.
    async fn once(&self) -> bool {
        let begun = Instant::now();
        let mut scope = self.world.take_changes();
        let since = scope.since;
        let last = self.memory().whole;
        if last.is_none_or(|last| last.elapsed() >= RESYNC) {
            scope = scope.whole();
        }
        let good = self.over(&scope).await;
        if scope.everything {
            self.memory().whole = Some(begun);
        }
        let waited = since.map(|since| since.elapsed());
        self.metrics
            .passed(scope.everything, begun.elapsed(), waited);
        good
    }

    async fn over(&self, scope: &Changes) -> bool {
        bootstrap::ensure(
            &self.client,
            &self.world,
            &self.options.mesh_namespace,
            &self.bootstrap,
        )
        .await;
        // Somebody who led before may have made templates that nobody wants any more: they are seen only when watched.
        self.world.claims.served().await;
        // Long for many objects: others of this thread go on elsewhere.
        let seen = tokio::task::block_in_place(|| self.look());
        let mut good = true;
        let all = [&seen.caches, &seen.backends, &seen.policies];
        self.memory().setbacks.keep(all.into_iter().flatten());
        for read in seen.caches.iter().filter(|read| !read.deleted()) {
            if self.rests(read) {
                continue;
            }
            let begun = Instant::now();
            let state = seen.models.get(&(read.namespace(), read.name()));
            let written = self.caches(&seen).reconcile(read, state, seen.now).await;
            good &= self.told(read, begun, &written);
        }
        good &= self.backends(scope, &seen).await;
        let confined = self.confine(&seen).await;
        good &= !confined.unfinished;
        self.memory().confines = confined.confines_something();
        let judged = tokio::task::block_in_place(|| policy::judge(&seen.snapshot, seen.now));
        for read in seen.policies.iter().filter(|read| !read.deleted()) {
            if self.rests(read) {
                continue;
            }
            let begun = Instant::now();
            let written = self.policy(read, &seen, (&judged, &confined)).await;
            good &= self.told(read, begun, &written);
        }
        good
    }

    /// Backends that changed, or for which what follows from everything else did, or that failed.
    async fn backends(&self, scope: &Changes, seen: &Seen) -> bool {
        let (mut found, mut failed) = (BTreeMap::new(), BTreeSet::new());
        let mut wanted = Vec::new();
        {
            let begun = Instant::now();
            let memory = self.memory();
            for read in seen.backends.iter().filter(|read| !read.deleted()) {
                let id = (read.namespace(), read.name());
                let heard = self.health.of(&id);
                let now = (seen.fault(read), self.class(seen, &id), heard);
                let due = scope.includes(&id)
                    || memory.failed.contains(&id)
                    || memory.found.get(&id) != Some(&now);
                if due && memory.setbacks.rests(read, begun) {
                    failed.insert(id.clone());
                } else if due {
                    wanted.push(read);
                }
                found.insert(id, now);
            }
        }
        self.memory().found = found;
        let one = |read: &'_ Read| {
            let read = read.clone();
            async move {
                let begun = Instant::now();
                let written = self.backend(&read, seen).await;
                let good = self.told(&read, begun, &written);
                ((read.namespace(), read.name()), good)
            }
        };
        let work: Vec<_> = wanted.into_iter().map(one).collect();
        let mut done = futures::stream::iter(work).buffer_unordered(AT_ONCE);
        let mut good = true;
        while let Some((id, written)) = done.next().await {
            if !written {
                failed.insert(id);
                good = false;
            }
        }
        // What was not looked at did not fail the last time.
        self.memory().failed = failed;
        good
    }

    pub(crate) fn caches<'a>(&'a self, seen: &'a Seen) -> Caches<'a> {
        Caches {
            world: &self.world,
            around: &seen.around,
            writer: &self.writer,
            events: &self.events,
            images: &self.images,
            mesh_namespace: &self.options.mesh_namespace,
        }
    }

    /// True if it is too early to try an object again.
    fn rests(&self, read: &Read) -> bool {
        self.memory().setbacks.rests(read, Instant::now())
    }

    fn told(&self, read: &Read, begun: Instant, outcome: &Result<(), Error>) -> bool {
        let kind = read
            .raw
            .types
            .as_ref()
            .map_or("", |types| types.kind.as_str());
        self.metrics
            .reconciled(kind, outcome.is_ok(), begun.elapsed());
        self.memory().setbacks.note(read, outcome, Instant::now());
        if let Err(error) = outcome {
            tracing::warn!(kind, namespace = read.namespace(), name = read.name(), reason = error.reason(), %error, "not reconciled");
        }
        outcome.is_ok()
    }

    async fn policy(
        &self,
        read: &Read,
        seen: &Seen,
        (judged, confined): (&policy::Judged, &confine::Plan),
    ) -> Result<(), Error> {
        let (namespace, name) = (read.namespace(), read.name());
        let id = if namespace == self.options.mesh_namespace {
            ObjectId::home(&namespace, &name)
        } else {
            ObjectId::foreign(&namespace, &name)
        };
        let found = seen.snapshot.policies.iter().find(|policy| policy.id == id);
        let fault = seen.fault(read);
        let found = found.map(AsRef::as_ref);
        let mut verdict = policy::verdict(fault, found, judged, &id);
        verdict.look_for_ledger(found, !self.options.ledger.is_empty());
        let mut kept = self.kept(read);
        let written = self.revise(read, &verdict, &mut kept).await;
        match &written {
            // Without its version the gateways do not decide by it, whatever it is worth.
            Err(error) if error.refused() => {
                verdict.fault = Some((error.reason().to_owned(), error.to_string()));
            }
            // Not yet: perhaps another pass has made it, and it is not seen yet.
            Err(_) => return written,
            Ok(()) => {}
        }
        let ready = |floor: &(String, String)| {
            let backend = seen
                .backends
                .iter()
                .find(|read| (read.namespace(), read.name()) == *floor);
            backend.is_some_and(|read| can_answer(&read.raw))
        };
        let found = policy::Found {
            verdict: &verdict,
            kept: &kept,
            floor_ready: &ready,
            enforced: self.enforced(read, confined).await,
        };
        let status = policy::status(read, found, seen.now);
        self.say(read, &status, transition::of_policy).await?;
        written
    }

    /// Keeps a spec that is accepted, and the last few before it.
    async fn revise(
        &self,
        read: &Read,
        verdict: &policy::Verdict,
        kept: &mut Vec<ControllerRevision>,
    ) -> Result<(), Error> {
        if let Some(revision) = policy::revision(read, verdict, kept) {
            self.keep(&revision).await?;
            kept.push(revision);
        }
        for old in kept.iter().rev().skip(policy::KEPT) {
            self.writer.delete(old).await?;
        }
        Ok(())
    }

    /// Writes a status and tells what is new in it.
    pub(crate) async fn say(
        &self,
        read: &Read,
        status: &Value,
        stories: fn(&Value, &Value) -> Vec<Story>,
    ) -> Result<(), Error> {
        self.writer.status(&read.raw, status).await?;
        let old = read.raw.data.get("status").unwrap_or(&Value::Null);
        for story in stories(old, status) {
            self.events.tell(&read.raw, &story).await;
        }
        Ok(())
    }

    /// Accepted versions of a policy, oldest first.
    fn kept(&self, read: &Read) -> Vec<ControllerRevision> {
        let uid = read.raw.metadata.uid.as_deref();
        let own = |revision: &ControllerRevision| {
            revision
                .metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let all = self.world.revisions.state();
        let mut kept: Vec<ControllerRevision> = all
            .iter()
            .filter(|revision| own(revision))
            .map(|revision| (**revision).clone())
            .collect();
        kept.sort_by_key(|revision| revision.revision);
        kept
    }

    async fn keep(&self, revision: &ControllerRevision) -> Result<(), Error> {
        let api: Api<ControllerRevision> = Api::namespaced(
            self.client.clone(),
            &revision.namespace().unwrap_or_default(),
        );
        self.metrics.wrote("ControllerRevision");
        match api.create(&PostParams::default(), revision).await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Write {
                what: format!("ControllerRevision {}", revision.name_any()),
                source: Box::new(source),
            }),
        }
    }
}

/// True for a backend that is ready, or has pods that serve while others take their place.
fn can_answer(backend: &DynamicObject) -> bool {
    let holds = |type_| status::holds(backend, type_);
    let serving = backend.data.pointer("/status/endpoints");
    let serving = serving.and_then(Value::as_u64).unwrap_or_default();
    holds(condition::READY) || serving > 0 && !holds(condition::STALLED)
}

/// Ever longer, so that what is refused again and again costs little.
fn rest(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(5)).min(RESYNC)
}
