//! Canaries: pods that try, on a schedule, to get out of every confined namespace. The leader makes their
//! Jobs; what they found stays in these until the next has ended, and goes with the confinement.
//!
//! Refuses to make one that could prove nothing: without a forbidden place that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use mesh_crds::label;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::loose::{Looked, Loose};
use super::places::{enough, places};
use super::proof::{GENERATION, JOB_SECONDS, NUMBER, Seen, Standing, Verdict, standing};
use super::targets::forbidden;
use super::turns::{Turns, Wish};
use super::{NAME, ours, pools};
use crate::apply::{Error, MANAGER, Writer};
use crate::args::Run;
use crate::canary::{MOST, Target};
use crate::world::{MANAGED, World};

/// Container of a canary.
pub(super) const CONTAINER: &str = "canary";
/// Places that a canary must reach, at most.
const HOME: usize = 3;
/// Canaries that are made at once.
const AT_ONCE: usize = 4;
/// Looked at least this often.
const LOOK: Duration = Duration::from_secs(30);
/// Changes that come in a burst are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// After something could not be made.
const RETRY: Duration = Duration::from_secs(5);
/// Nobody's user, as of all our images.
const USER: u32 = 65532;
/// A Job outlives an operator that never comes back by so much.
const LEFT_SECONDS: u64 = 2 * 24 * 3600;

/// The canaries of all confined namespaces. All clones are the same.
#[derive(Clone)]
pub(crate) struct Canaries {
    options: Arc<Run>,
    /// Why none could be made, by namespace.
    notes: Arc<Mutex<BTreeMap<String, String>>>,
    /// Counts what became of them.
    told: Arc<watch::Sender<u64>>,
    /// What pods of confined namespaces are.
    looked: Arc<Looked>,
    /// Whose canaries run next.
    turns: Arc<Mutex<Turns>>,
}

impl Canaries {
    pub(crate) fn new(options: &Run) -> Self {
        Self {
            options: Arc::new(options.clone()),
            notes: Arc::default(),
            told: Arc::new(watch::Sender::new(0)),
            looked: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// What is proved of the namespace of a NetworkPolicy of ours.
    pub(super) fn standing(&self, world: &World, policy: &NetworkPolicy) -> Standing {
        let canary = &self.options.canary;
        let mut pools = pools::pools(&canary.canary_pool_labels, &world.nodes.state());
        let many = (pools.len() > pools::MOST).then_some(pools.len());
        pools = pools.into_iter().take(pools::MOST).collect();
        let mut found = standing(
            policy,
            &Seen {
                jobs: &world.jobs.state(),
                pods: &world.canaries.state(),
                pools: &pools,
                interval: canary.canary_interval,
                now: Timestamp::now(),
            },
        );
        if let (Some(many), Verdict::Proved) = (many, &found.verdict) {
            let most = pools::MOST;
            let why = format!("canaries run in {most} of {many} pools of nodes: name other labels");
            found.verdict = Verdict::None(why);
        }
        let namespace = policy.namespace().unwrap_or_default();
        let note = self.notes().get(&namespace).cloned();
        if let Verdict::None(why) = &mut found.verdict
            && let Some(note) = note
        {
            *why = format!("{why}; {note}");
        }
        found
    }

    /// Time between two canaries of a namespace.
    pub(crate) fn interval(&self) -> Duration {
        self.options.canary.canary_interval
    }

    /// Tells when none could be made, and when that is over.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// What is known of the pods of confined namespaces.
    pub(super) fn loose(&self) -> BTreeMap<String, Loose> {
        self.looked.known()
    }

    /// Of how much of the cluster a proof speaks, in words.
    pub(super) fn reach(&self, world: &World) -> String {
        let canary = &self.options.canary;
        pools::reach(&canary.canary_pool_labels, &world.nodes.state())
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes canaries when they are due, and looks at the pods beside them, until dropped. For the leader.
    pub(crate) async fn run(&self, world: &World, writer: &Writer) {
        tokio::select! {
            () = self.send(world, writer) => {}
            () = self.look(world, &writer.client) => {}
        }
    }

    async fn look(&self, world: &World, client: &Client) {
        let folders = &self.options.confine_host_paths;
        let mut changed = world.changed();
        loop {
            changed.borrow_and_update();
            let wait = if world.missing().is_empty() {
                let all = confined(world);
                let namespaces = all.iter().filter_map(|one| one.namespace()).collect();
                let tell = || self.tell();
                self.looked.look(client, folders, &namespaces, tell).await
            } else {
                LOOK
            };
            tokio::time::sleep(DEBOUNCE).await;
            if let Ok(Err(_)) = tokio::time::timeout(wait, changed.changed()).await {
                return;
            }
        }
    }

    async fn send(&self, world: &World, writer: &Writer) {
        let mut changed = world.changed();
        loop {
            changed.borrow_and_update();
            let wait = if world.missing().is_empty() {
                self.once(world, writer).await
            } else {
                LOOK
            };
            tokio::time::sleep(DEBOUNCE).await;
            if let Ok(Err(_)) = tokio::time::timeout(wait, changed.changed()).await {
                return;
            }
        }
    }

    /// Gives how long there is nothing to do.
    async fn once(&self, world: &World, writer: &Writer) -> Duration {
        let confined = confined(world);
        let namespaces: BTreeSet<String> =
            confined.iter().filter_map(|one| one.namespace()).collect();
        self.notes()
            .retain(|namespace, _| namespaces.contains(namespace));
        self.leftovers(world, writer, &confined).await;
        let mut standings: Vec<_> = confined
            .iter()
            .map(|policy| (policy, self.standing(world, policy)))
            .collect();
        let now = Timestamp::now();
        let mut wait = LOOK;
        for (_, standing) in &standings {
            if let Some(next) = standing.next {
                wait = wait.min(next.duration_since(now).unsigned_abs());
            }
        }
        let starts = self.turns(&mut standings).into_iter();
        let starts = starts.map(|(policy, pool, number)| async move {
            let note = self.start(world, writer, policy, &pool, number).await.err();
            let good = note.is_none();
            self.note(policy, note);
            good
        });
        let starts: Vec<_> = starts.collect();
        let mut starts = futures::stream::iter(starts).buffer_unordered(AT_ONCE);
        while let Some(good) = starts.next().await {
            if !good {
                wait = wait.min(RETRY);
            }
        }
        drop(starts);
        for (_, standing) in standings {
            for job in standing.old {
                drop_job(writer, &job).await;
            }
        }
        wait
    }

    /// Whose canaries are made now, and where.
    fn turns<'p>(
        &self,
        standings: &mut [(&'p Arc<NetworkPolicy>, Standing)],
    ) -> Vec<(&'p Arc<NetworkPolicy>, pools::Pool, u64)> {
        let wish = |(policy, standing): &(&Arc<NetworkPolicy>, Standing)| Wish {
            namespace: policy.namespace().unwrap_or_default(),
            running: standing.running,
            due: standing.due.len(),
        };
        let wishes: Vec<Wish> = standings.iter().map(wish).collect();
        let turns = &self.turns;
        let next = turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next(&wishes);
        let one = |place: usize| {
            let (policy, standing) = &mut standings[place];
            let (pool, number) = standing.due.remove(0);
            (*policy, pool, number)
        };
        next.into_iter().map(one).collect()
    }

    fn tell(&self) {
        self.told.send_modify(|number| *number += 1);
    }

    fn note(&self, policy: &NetworkPolicy, note: Option<String>) {
        let namespace = policy.namespace().unwrap_or_default();
        let mut notes = self.notes();
        let known = notes.get(&namespace);
        if known == note.as_ref() {
            return;
        }
        match note {
            Some(note) => {
                tracing::warn!(namespace, note, "no canary was made");
                notes.insert(namespace, note);
            }
            None => drop(notes.remove(&namespace)),
        }
        drop(notes);
        self.tell();
    }

    /// Jobs of namespaces that are no longer confined, or were confined by an earlier NetworkPolicy. Owners
    /// take them along where somebody collects garbage.
    async fn leftovers(&self, world: &World, writer: &Writer, confined: &[Arc<NetworkPolicy>]) {
        let owners: BTreeSet<String> = confined.iter().filter_map(|policy| policy.uid()).collect();
        for job in world.jobs.state() {
            let ours = job.labels().contains_key(label::CANARY);
            let wanted = job
                .owner_references()
                .iter()
                .any(|owner| owners.contains(&owner.uid));
            if ours && !wanted {
                drop_job(writer, &job).await;
            }
        }
    }

    async fn start(
        &self,
        world: &World,
        writer: &Writer,
        policy: &NetworkPolicy,
        pool: &pools::Pool,
        number: u64,
    ) -> Result<(), String> {
        let canary = &self.options.canary;
        let image = canary.canary_image.as_deref();
        let image = image.ok_or("the operator was given no image for canaries")?;
        let places = places(&self.options, world).await;
        let (mut bad, left_out) = forbidden(&places, policy).await;
        bad.truncate(MOST - HOME);
        if !enough(&bad) {
            let why = left_out.join(", ");
            let what = if bad.is_empty() {
                "there is nothing forbidden to try"
            } else {
                "only the operator's own port could be tried, which proves nothing: name a further place in confine.canary.forbidden"
            };
            return Err(format!("{what}: {why}"));
        }
        let args = bad.iter().map(|target| format!("--forbidden={target}"));
        let home = self.allowed(&bad);
        let args = args.chain(home.iter().map(|target| format!("--allowed={target}")));
        let args: Vec<String> = std::iter::once(String::from("canary"))
            .chain(args)
            .collect();
        let made = self.job(policy, pool, number, image, &args);
        let made: Job = serde_json::from_value(made).map_err(|error| error.to_string())?;
        let created = create(writer, &made).await;
        if created.map_err(|error| error.to_string())? {
            return Ok(());
        }
        taken(writer, policy, &made).await
    }

    /// Gateways by their name, so that names are proved too. Where questions over UDP must not be answered elsewhere,
    /// the pod's own resolver must answer one: silence would prove nothing where no UDP gets anywhere.
    fn allowed(&self, forbidden: &[Target]) -> Vec<Target> {
        let host = format!("mesh-gateway.{}.svc", self.options.mesh_namespace);
        let target = |port: u16| Target {
            name: format!("gateway-{port}"),
            address: format!("{host}:{port}"),
        };
        let mut all = vec![target(8080), target(8443)];
        if forbidden.iter().any(Target::is_dns) {
            all.push(Target::own_resolver());
        }
        all
    }

    fn job(
        &self,
        policy: &NetworkPolicy,
        pool: &pools::Pool,
        number: u64,
        image: &str,
        args: &[String],
    ) -> Value {
        let id = pool.id();
        let labels = json!({
            "app.kubernetes.io/name": "mesh-canary",
            "app.kubernetes.io/part-of": "inference-mesh",
            "app.kubernetes.io/component": "canary",
            MANAGED.0: MANAGED.1,
            label::CANARY: id,
        });
        let mut of_pod = labels.clone();
        // It is an application as far as the network goes; a proxy of anybody in between would answer for it.
        of_pod[label::INJECT] = json!("disabled");
        of_pod["sidecar.istio.io/inject"] = json!("false");
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": format!("mesh-canary-{id}-{number}"),
                "namespace": policy.namespace(),
                "labels": labels,
                "annotations": {
                    GENERATION: policy.metadata.generation.unwrap_or_default().to_string(),
                    NUMBER: number.to_string(),
                    "inferencemesh.dev/canary-pool": pool.to_string(),
                },
                "ownerReferences": [{
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": NAME,
                    "uid": policy.uid().unwrap_or_default(),
                }],
            },
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": JOB_SECONDS,
                "ttlSecondsAfterFinished": LEFT_SECONDS,
                "template": {
                    "metadata": {"labels": of_pod, "annotations": {"linkerd.io/inject": "disabled"}},
                    "spec": self.pod(pool, image, args),
                },
            },
        })
    }

    fn pod(&self, pool: &pools::Pool, image: &str, args: &[String]) -> Value {
        let secrets = self.options.image_pull_secrets.iter();
        let secrets: Vec<Value> = secrets.map(|name| json!({"name": name})).collect();
        let (affinity, tolerations) = pool.place();
        json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": secrets,
            "nodeSelector": {pools::OS: pools::LINUX},
            "affinity": affinity,
            "tolerations": tolerations,
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": self.options.image_pull_policy,
                "args": args,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        })
    }
}

/// NetworkPolicies of ours that confine a namespace.
pub(crate) fn confined(world: &World) -> Vec<Arc<NetworkPolicy>> {
    let mut all = world.networks.state();
    all.retain(|policy| {
        policy.name_any() == NAME && ours(policy) && policy.metadata.deletion_timestamp.is_none()
    });
    all.sort_by_key(|policy| policy.namespace());
    all
}

/// False if there is one of that name.
async fn create(writer: &Writer, job: &Job) -> Result<bool, Error> {
    let namespace = job.namespace().unwrap_or_default();
    let api: Api<Job> = Api::namespaced(writer.client.clone(), &namespace);
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    writer.metrics.wrote("Job");
    match api.create(&params, job).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(source) => Err(Error::Write {
            what: format!("Job {namespace}/{}", job.name_any()),
            source: Box::new(source),
        }),
    }
}

/// Whose the Job is that has the name: ours, made before memory had caught up, or somebody else's, who so keeps
/// canaries from being sent.
async fn taken(writer: &Writer, policy: &NetworkPolicy, made: &Job) -> Result<(), String> {
    let (namespace, name) = (made.namespace().unwrap_or_default(), made.name_any());
    let api: Api<Job> = Api::namespaced(writer.client.clone(), &namespace);
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = api.list(&params).await.map_err(|error| error.to_string())?;
    let owner = policy.uid().unwrap_or_default();
    let ours = |job: &Job| {
        let of_policy = job.owner_references().iter().any(|one| one.uid == owner);
        of_policy && job.labels().contains_key(label::CANARY)
    };
    match found.items.first() {
        Some(job) if !ours(job) => Err(format!(
            "Job {namespace}/{name} of somebody else has the name of the next canary: delete it"
        )),
        _ => Ok(()),
    }
}

async fn drop_job(writer: &Writer, job: &Job) {
    if job.metadata.deletion_timestamp.is_some() {
        return;
    }
    if let Err(error) = writer.delete(job).await {
        tracing::warn!(%error, job = job.name_any(), "a Job of a canary is left");
    }
}
