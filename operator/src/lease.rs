//! One operator leads, by a Lease (coordination.k8s.io/v1), the way client-go's leader election does it:
//! whoever holds it renews it, and who sees it unrenewed for its duration, by its own clock, may take it.

mod fence;
mod hold;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use crate::args::Run;
use crate::metrics::Metrics;
pub(crate) use fence::Fence;
pub(crate) use hold::Hold;

const NAME: &str = "mesh-operator";

/// The times of a lease, all from the one that is set.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Unrenewed for this long, a lease may be taken.
    duration: Duration,
    /// Who cannot renew for this long no longer leads: well before another may begin.
    deadline: Duration,
    /// Between two attempts.
    retry: Duration,
}

impl Times {
    fn of(seconds: u16) -> Self {
        let duration = Duration::from_secs(seconds.into());
        Self {
            duration,
            deadline: duration * 2 / 3,
            retry: duration * 2 / 15,
        }
    }
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    Done,
    /// Somebody wrote the object in between; it is still ours.
    Again,
    /// It is another's, or gone.
    Lost,
}

/// The lease of this replica.
pub(crate) struct Lease {
    api: Api<Object>,
    identity: String,
    times: Times,
    fence: Fence,
    metrics: Metrics,
}

/// What was seen of the holder: its record, and when that last changed by our own clock.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Lease {
    pub(crate) fn new(client: Client, options: &Run, metrics: Metrics, fence: Fence) -> Self {
        // Two pods of one name cannot be, but a pod and its next life can.
        let started = Timestamp::now().as_millisecond();
        Self {
            api: Api::namespaced(client, &options.mesh_namespace),
            identity: format!("{}_{started}", options.identity),
            times: Times::of(options.lease_seconds),
            fence,
            metrics,
        }
    }

    /// Waits until this replica leads.
    pub(crate) async fn acquire(&self) {
        let mut seen = Seen {
            version: None,
            since: Instant::now(),
        };
        loop {
            let asked = Instant::now();
            match self.attempt(&mut seen).await {
                Ok(true) => {
                    self.fence.extend(asked + self.times.deadline);
                    self.metrics.leads(true);
                    return;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "could not ask for the lease"),
            }
            tokio::time::sleep(self.times.retry).await;
        }
    }

    /// Renews until that is no longer possible.
    pub(crate) async fn keep(&self) {
        let mut renewed = Instant::now();
        let why = loop {
            if renewed.elapsed() >= self.times.deadline {
                break "it could not be renewed in time";
            }
            tokio::time::sleep(self.times.retry).await;
            let asked = Instant::now();
            let left = self.times.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                // Counted from the question: the answer may have been long on its way.
                Ok(Ok(Renewal::Done)) => {
                    renewed = asked;
                    self.fence.extend(asked + self.times.deadline);
                }
                Ok(Ok(Renewal::Again)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "could not renew the lease"),
                Ok(Ok(Renewal::Lost)) => break "another has it, or it is gone",
                Err(_) => break "the API server did not answer in time",
            }
        };
        self.fence.close();
        self.metrics.leads(false);
        tracing::error!(why, "the lease is lost");
        hold::leave(&self.api, &self.identity).await;
    }

    /// Gives it up, so that the next one need not wait.
    pub(crate) async fn release(&self) {
        self.fence.close();
        self.metrics.leads(false);
        let Ok(Some(mut object)) = self.api.get_opt(NAME).await else {
            return;
        };
        let spec = object.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = None;
            if let Err(error) = self
                .api
                .replace(NAME, &PostParams::default(), &object)
                .await
            {
                tracing::warn!(%error, "could not give up the lease");
            }
        }
    }

    async fn attempt(&self, seen: &mut Seen) -> kube::Result<bool> {
        let Some(object) = self.api.get_opt(NAME).await? else {
            return created(&self.api, self.spec(None)).await;
        };
        if object.resource_version() != seen.version {
            seen.version = object.resource_version();
            seen.since = Instant::now();
        }
        let holder = object
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        let free = holder.is_none_or(|holder| holder.is_empty() || holder == self.identity);
        let silence = object.spec.as_ref().and_then(hold::silence);
        if !free && seen.since.elapsed() < silence.unwrap_or(self.times.duration) {
            return Ok(false);
        }
        self.take(object).await
    }

    async fn renew(&self) -> kube::Result<Renewal> {
        let Some(object) = self.api.get_opt(NAME).await? else {
            return Ok(Renewal::Lost);
        };
        let holder = object
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone());
        if holder.as_ref() != Some(&self.identity) {
            return Ok(Renewal::Lost);
        }
        // Refused by the version only: the next look tells whether it was taken from us.
        let done = self.take(object).await?;
        Ok(if done { Renewal::Done } else { Renewal::Again })
    }

    /// Fails by the resource version if somebody else was faster.
    async fn take(&self, mut object: Object) -> kube::Result<bool> {
        object.spec = Some(self.spec(object.spec.as_ref()));
        object.metadata.managed_fields = None;
        written(&self.api, &object).await
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = old.is_some_and(|old| old.holder_identity.as_ref() == Some(&self.identity));
        let transitions = old
            .and_then(|old| old.lease_transitions)
            .unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            acquire_time: if ours {
                old.and_then(|old| old.acquire_time.clone())
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }
}

/// Makes the lease; false if somebody else was faster.
async fn created(api: &Api<Object>, spec: LeaseSpec) -> kube::Result<bool> {
    let object = Object {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    lost_or(api.create(&PostParams::default(), &object).await)
}

/// Writes the lease as it was read and changed; false if somebody else was faster.
async fn written(api: &Api<Object>, object: &Object) -> kube::Result<bool> {
    lost_or(api.replace(NAME, &PostParams::default(), object).await)
}

/// False for a conflict.
fn lost_or(outcome: kube::Result<Object>) -> kube::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
