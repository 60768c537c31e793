//! The lease in the hands of who removes an installation: no operator leads meanwhile, so nothing is made again. An
//! operator that did lead says that it left; one that cannot say so has stopped by the clock.
//!
//! Refuses to keep it by force: who removes and dies loses it as an operator would, and then an operator leads again
//! and makes what is missing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::Api;
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use super::{NAME, Times, created, written};

/// What the identity of such a holder begins with.
const REMOVER: &str = "mesh-uninstall_";
/// Annotation of the lease: which operator stopped since it was taken away.
const LEFT: &str = "inferencemesh.dev/left";
/// Unrenewed for this many seconds, it is an operator's again.
const SECONDS: u16 = 15;
/// The same once everything is removed: an operator that is being ended gets no chance, and that of the next
/// installation need not wait for long.
const SECONDS_AFTER: u16 = 8;
const LOOK: Duration = Duration::from_millis(200);
/// How often an operator tries to say that it left, and how long.
const TRIES: usize = 3;
const LIMIT: Duration = Duration::from_secs(5);

/// For how long a holder of this kind may be silent; none = it is no such holder.
pub(super) fn silence(spec: &LeaseSpec) -> Option<Duration> {
    let holder = spec.holder_identity.as_ref()?;
    let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
    holder
        .starts_with(REMOVER)
        .then(|| Duration::from_secs(seconds))
}

/// An operator that lost its lease says so to who waits for it.
pub(super) async fn leave(api: &Api<Object>, identity: &str) {
    let said = async {
        for _ in 0..TRIES {
            let Some(mut object) = api.get_opt(NAME).await? else {
                return Ok(());
            };
            if object.spec.as_ref().and_then(silence).is_none() {
                return Ok(());
            }
            object
                .annotations_mut()
                .insert(LEFT.to_owned(), identity.to_owned());
            object.metadata.managed_fields = None;
            if written(api, &object).await? {
                return Ok(());
            }
        }
        Ok::<(), kube::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LIMIT, said).await {
        tracing::warn!(%error, "could not tell that it leads no longer");
    }
}

/// The lease, taken.
pub(crate) struct Hold {
    api: Api<Object>,
    identity: String,
}

impl Hold {
    /// Takes it from whoever has it, and waits until that one has stopped.
    pub(crate) async fn take(client: &Client, namespace: &str) -> kube::Result<Self> {
        let hold = Self {
            api: Api::namespaced(client.clone(), namespace),
            identity: format!("{REMOVER}{}", Timestamp::now().as_millisecond()),
        };
        let before = loop {
            let Some(mut object) = hold.api.get_opt(NAME).await? else {
                if created(&hold.api, hold.spec(SECONDS)).await? {
                    break None;
                }
                continue;
            };
            let before = object.spec.take();
            object.annotations_mut().remove(LEFT);
            if hold.write(object, SECONDS).await? {
                break before;
            }
        };
        hold.until_left(before.unwrap_or_default()).await?;
        Ok(hold)
    }

    async fn until_left(&self, before: LeaseSpec) -> kube::Result<()> {
        let removes = silence(&before).is_some();
        let Some(holder) = before.holder_identity.filter(|holder| !holder.is_empty()) else {
            return Ok(());
        };
        if removes {
            return Ok(());
        }
        let seconds = before.lease_duration_seconds.unwrap_or_default();
        let seconds = u16::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        let deadline = Instant::now() + Times::of(seconds.unwrap_or(SECONDS)).deadline;
        while Instant::now() < deadline {
            let object = self.api.get_opt(NAME).await?;
            let left = object
                .as_ref()
                .and_then(|object| object.annotations().get(LEFT));
            if left == Some(&holder) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!(
            holder,
            "the operator did not say that it left; its time is over"
        );
        Ok(())
    }

    /// Renews it until that is no longer possible; says why.
    pub(crate) async fn keep(&self) -> anyhow::Error {
        let times = Times::of(SECONDS);
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(times.retry).await;
            let asked = Instant::now();
            let left = times.deadline.saturating_sub(renewed.elapsed());
            let why = match tokio::time::timeout(left, self.renew(SECONDS)).await {
                Ok(Ok(Some(true))) => {
                    renewed = asked;
                    continue;
                }
                Ok(Ok(Some(false))) => String::from("others write it all the time"),
                Ok(Ok(None)) => return anyhow::anyhow!("somebody took the lease of the operator"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("the API server did not answer in time"),
            };
            if renewed.elapsed() >= times.deadline {
                return anyhow::anyhow!("the lease of the operator could not be kept: {why}");
            }
        }
    }

    /// Some operator may lead at once.
    pub(crate) async fn release(&self) {
        for _ in 0..TRIES {
            match self.api.get_opt(NAME).await {
                Ok(Some(mut object)) if self.is_holder(&object) => {
                    object.spec.get_or_insert_default().holder_identity = None;
                    object.metadata.managed_fields = None;
                    if let Ok(true) = written(&self.api, &object).await {
                        return;
                    }
                }
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!("the lease could not be given up: an operator leads in {SECONDS} s");
    }

    /// Everything is removed, and no operator is to run any more.
    pub(crate) async fn finish(&self) {
        // What cannot be written ends by itself, only later.
        drop(self.renew(SECONDS_AFTER).await);
    }

    fn is_holder(&self, object: &Object) -> bool {
        let spec = object.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    /// None if it is another's; false if somebody wrote it in between.
    async fn renew(&self, seconds: u16) -> kube::Result<Option<bool>> {
        match self.api.get_opt(NAME).await? {
            Some(object) if self.is_holder(&object) => self.write(object, seconds).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn write(&self, mut object: Object, seconds: u16) -> kube::Result<bool> {
        object.spec = Some(self.spec(seconds));
        object.metadata.managed_fields = None;
        written(&self.api, &object).await
    }

    fn spec(&self, seconds: u16) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds.into()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn only_who_removes_an_installation_says_how_long_its_silence_may_be() {
        assert_eq!(
            silence(&held("mesh-uninstall_17", 3)),
            Some(Duration::from_secs(3))
        );
        assert_eq!(silence(&held("mesh-operator-a_17", 3)), None);
        assert_eq!(silence(&held("mesh-uninstall_17", -1)), None);
        assert_eq!(silence(&LeaseSpec::default()), None);
    }
}
