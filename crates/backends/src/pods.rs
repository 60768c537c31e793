//! Model servers in pods of this cluster: which pod takes a request, and what happens if it is gone.
//!
//! A conversation stays with the pod that holds its prefix (rendezvous hashing) as long as that pod is
//! not much busier than the others (bounded loads: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing
//! with Bounded Loads", 2016). Busy means: what this process sends there, and what the pod says that others
//! do; a pod whose cache is full counts double, since what comes next would push out what is there. A pod that could not be connected to rests for a moment, and the next one
//! is asked: nothing had been sent.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use mesh_core::policy::Overflow;
use mesh_core::{BackendId, Endpoint, LatencyClass, Pod, Protocol};
use mesh_protocol::ModelRequest;
use mesh_routing::Admitted;
use tokio::time::Instant;
use url::Url;

use crate::address::Reach;
use crate::client::{Clients, Whose};
use crate::load::{self, Report};
use crate::upstream::{Dispatch, Target};
use crate::{AttemptError, Outbound, Started};

/// How long a pod that could not be connected to is left alone, if there are others.
const REST: Duration = Duration::from_secs(2);
/// Most pods asked for one attempt.
const MOST: usize = 3;
/// A pod may carry this much of the mean load before a conversation moves, in percent.
const BOUND: usize = 125;
/// Bytes of the prompt that decide where a conversation is at home.
const PREFIX: usize = 1024;
/// Pods remembered before those at rest are forgotten.
const REMEMBERED: usize = 4096;

/// How long a pod's word about its load counts.
const FRESH: Duration = Duration::from_secs(10);
/// From here on a cache counts as full.
const FULL: f64 = 0.95;
/// Pods asked at the same time.
const AT_ONCE: usize = 32;

/// Tells the worker what the engine of this process would be told directly.
const OVERFLOW: &str = "mesh-overflow";
const LATENCY: &str = "mesh-latency";

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    running: usize,
    rests_until: Option<Instant>,
    said: Option<Said>,
}

/// What a pod said of itself.
#[derive(Debug, Clone, Copy)]
struct Said {
    until: Instant,
    /// Requests that are not of this process.
    others: usize,
    full: bool,
}

impl Load {
    /// How busy it is.
    fn busy(&self, now: Instant) -> usize {
        match self.said.filter(|said| now < said.until) {
            None => self.running,
            Some(said) => {
                let all = self.running.saturating_add(said.others);
                if said.full {
                    all.saturating_mul(2).saturating_add(1)
                } else {
                    all
                }
            }
        }
    }

    /// True if there is nothing to remember.
    fn idle(&self) -> bool {
        self.running == 0 && self.rests_until.is_none() && self.said.is_none()
    }
}

type Loads = Arc<Mutex<HashMap<SocketAddr, Load>>>;

/// What this process knows of the pods it sends to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pods {
    loads: Loads,
}

/// Counts a request at a pod until it is dropped.
#[derive(Debug)]
struct Running {
    loads: Loads,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = loads.get_mut(&self.address) {
            load.running = load.running.saturating_sub(1);
            if load.idle() {
                loads.remove(&self.address);
            }
        }
    }
}

impl Pods {
    /// Sends the request to one of the admitted pods.
    pub(crate) async fn start(
        &self,
        clients: &Clients,
        admitted: &Admitted,
        outbound: Outbound,
    ) -> Result<Started, AttemptError> {
        let home = home(&outbound.tenant, &outbound.request);
        let mut tried = Vec::new();
        let mut last = AttemptError::NotReady(String::from("none of its pods is ready"));
        while tried.len() < MOST {
            let Some((address, running)) = self.choose(admitted.pods(), &tried, home) else {
                break;
            };
            tried.push(address);
            let target = target(clients, &admitted.backend().id, address)?;
            let dispatch = Dispatch::new(target, admitted, &outbound, clients.options())?
                .header(OVERFLOW, overflow(outbound.overflow))
                .header(LATENCY, latency(outbound.latency));
            match dispatch.send().await {
                Ok(started) => return Ok(held(started, running)),
                // Nothing was sent: nobody was there, or somebody who is not who they should be.
                Err(error @ (AttemptError::Connect(_) | AttemptError::Tls(_))) => {
                    self.rest(address);
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The pod that shall be asked next, counted from now on.
    fn choose(
        &self,
        pods: &[Arc<Pod>],
        tried: &[SocketAddr],
        home: u64,
    ) -> Option<(SocketAddr, Running)> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let load = |address: &SocketAddr| loads.get(address).copied().unwrap_or_default();
        let left = pods
            .iter()
            .map(|pod| pod.address)
            .filter(|address| !tried.contains(address));
        let (resting, awake): (Vec<SocketAddr>, Vec<SocketAddr>) =
            left.partition(|address| load(address).rests_until.is_some_and(|until| now < until));
        // If all rest, one of them is asked all the same.
        let mut choices = if awake.is_empty() { resting } else { awake };
        let busy = |address: &SocketAddr| load(address).busy(now);
        let all: usize = choices.iter().map(busy).sum();
        let bound = ((all + 1) * BOUND).div_ceil(100 * choices.len().max(1));
        choices.sort_by_key(|address| std::cmp::Reverse(weight(home, address)));
        let address = choices
            .iter()
            .find(|address| busy(address) < bound)
            .or_else(|| choices.iter().min_by_key(|address| busy(address)))
            .copied()?;
        if loads.len() >= REMEMBERED {
            loads.retain(|_, load| load.running > 0);
        }
        let entry = loads.entry(address).or_default();
        entry.running += 1;
        entry.rests_until = entry.rests_until.filter(|until| now < *until);
        drop(loads);
        let loads = Arc::clone(&self.loads);
        Some((address, Running { loads, address }))
    }

    /// Asks pods how busy they are, at the `admin` port of each, and forgets those that are gone.
    pub(crate) async fn observe(&self, client: &reqwest::Client, pods: &[SocketAddr], admin: u16) {
        self.forget_all_but(pods);
        futures::stream::iter(pods.to_vec())
            .for_each_concurrent(AT_ONCE, |pod| self.look(client, pod, admin))
            .await;
    }

    async fn look(&self, client: &reqwest::Client, pod: SocketAddr, admin: u16) {
        // Engines that are not ours say it at their API.
        let asked = match load::ask(client, SocketAddr::new(pod.ip(), admin)).await {
            Some(report) => Some(report),
            None => load::ask(client, pod).await,
        };
        if let Some(report) = asked {
            self.said(pod, report);
        }
    }

    fn forget_all_but(&self, pods: &[SocketAddr]) {
        let now = Instant::now();
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.retain(|address, load| {
            load.said = load.said.filter(|said| now < said.until);
            load.rests_until = load.rests_until.filter(|until| now < *until);
            load.running > 0 || pods.contains(address)
        });
    }

    fn said(&self, address: SocketAddr, report: Report) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let load = loads.entry(address).or_default();
        load.said = Some(Said {
            until: Instant::now() + FRESH,
            others: report.requests.saturating_sub(load.running),
            full: report.cache >= FULL,
        });
    }

    fn rest(&self, address: SocketAddr) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.entry(address).or_default().rests_until = Some(Instant::now() + REST);
    }
}

/// What is needed to speak to a pod.
pub(crate) fn target(
    clients: &Clients,
    id: &BackendId,
    address: SocketAddr,
) -> Result<Target, AttemptError> {
    let client = clients.pods(id);
    let scheme = if client.is_some() { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{address}/v1"))
        .map_err(|_| AttemptError::Unusable("its pod has no usable address"))?;
    let endpoint = Endpoint {
        url,
        protocol: Protocol::OpenAI,
        credentials: None,
        auth_header: None,
        headers: Vec::new(),
        organization: None,
        insecure_plaintext: client.is_none(),
        resolved: vec![address.ip()],
        cluster_networks: Arc::default(),
        authority: None,
        proxy: None,
    };
    match client {
        Some(Ok(client)) => Ok(Target::with(client, endpoint)),
        Some(Err(_)) => Err(AttemptError::Unusable("its client could not be built")),
        None => Target::new(clients, id, &endpoint, (Reach::Own, Whose::Server), None),
    }
}

/// The answer counts at its pod until its last event, or until nobody listens.
fn held(started: Started, running: Running) -> Started {
    let events = started.events.map(move |event| {
        // Moved into the stream, so that it lives as long.
        let _ = &running;
        event
    });
    Started {
        events: Box::pin(events),
        ..started
    }
}

const fn overflow(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::TrimHistory => "trim-history",
        Overflow::Refuse => "refuse",
    }
}

const fn latency(latency: LatencyClass) -> &'static str {
    match latency {
        LatencyClass::Interactive => "interactive",
        LatencyClass::Standard => "standard",
        LatencyClass::Batch => "batch",
    }
}

/// Where a conversation is at home: its tenant and how it begins.
fn home(tenant: &str, request: &ModelRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    tenant.hash(&mut hasher);
    let beginning = ["messages", "prompt", "input"]
        .iter()
        .find_map(|field| request.body.get(*field));
    let mut left = PREFIX;
    if let Some(value) = beginning {
        texts(value, &mut left, &mut hasher);
    }
    hasher.finish()
}

/// Hashes the texts of a prompt, in order, as far as `left` reaches.
fn texts(value: &serde_json::Value, left: &mut usize, hasher: &mut DefaultHasher) {
    use serde_json::Value;
    if *left == 0 {
        return;
    }
    match value {
        Value::String(text) => {
            let part = &text.as_bytes()[..text.len().min(*left)];
            part.hash(hasher);
            *left -= part.len();
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, left, hasher)),
        Value::Object(fields) => {
            for field in ["role", "content", "text"] {
                if let Some(value) = fields.get(field) {
                    texts(value, left, hasher);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Rendezvous hashing (Thaler, Ravishankar, 1998): the highest weight wins, and a pod that comes or goes
/// moves only what is its own.
fn weight(home: u64, address: &SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    address.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::Pod;

    use super::{Pods, Report};

    fn pods(count: u8) -> Vec<Arc<Pod>> {
        let pod = |number: u8| {
            Arc::new(Pod {
                name: format!("pod-{number}"),
                address: ([10, 0, 0, number], 8000).into(),
                node: None,
            })
        };
        (1..=count).map(pod).collect()
    }

    #[test]
    fn a_conversation_stays_with_its_pod_until_that_pod_is_much_busier() {
        let (picker, pods) = (Pods::default(), pods(4));
        let (home, first) = picker.choose(&pods, &[], 7).expect("a pod");
        drop(first);
        let mut running = Vec::new();
        let (again, held) = picker.choose(&pods, &[], 7).expect("a pod");
        running.push(held);
        assert_eq!(again, home);
        for _ in 0..7 {
            running.push(picker.choose(&pods, &[], 7).expect("a pod").1);
        }
        let loads = picker.loads.lock().expect("loads");
        assert!(loads.len() >= 3, "{loads:?}");
        assert!(
            loads.values().all(|load| (1..=3).contains(&load.running)),
            "{loads:?}"
        );
    }

    #[test]
    fn a_pod_that_others_keep_busy_or_whose_cache_is_full_is_left_alone_as_long_as_its_word_is_fresh()
     {
        let (picker, pods) = (Pods::default(), pods(2));
        let (home, running) = picker.choose(&pods, &[], 7).expect("a pod");
        drop(running);
        let busy = Report {
            requests: 9,
            cache: 0.2,
        };
        let full = Report {
            requests: 1,
            cache: 0.99,
        };
        for report in [busy, full] {
            picker.said(home, report);
            let (other, running) = picker.choose(&pods, &[], 7).expect("a pod");
            assert_ne!(other, home, "{report:?}");
            drop(running);
        }
        let quiet = Report::default();
        picker.said(home, quiet);
        assert_eq!(picker.choose(&pods, &[], 7).expect("a pod").0, home);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_word_about_load_is_forgotten_and_so_are_pods_that_are_gone() {
        let (picker, pods) = (Pods::default(), pods(2));
        let (home, running) = picker.choose(&pods, &[], 7).expect("a pod");
        drop(running);
        picker.said(
            home,
            Report {
                requests: 9,
                cache: 0.0,
            },
        );
        tokio::time::advance(super::FRESH).await;
        assert_eq!(picker.choose(&pods, &[], 7).expect("a pod").0, home);
        let client = reqwest::Client::new();
        picker.observe(&client, &[], 1).await;
        assert!(picker.loads.lock().expect("loads").is_empty());
    }

    #[test]
    fn a_pod_that_could_not_be_reached_rests_unless_all_do_and_what_ended_is_not_counted() {
        let (picker, pods) = (Pods::default(), pods(2));
        let (home, running) = picker.choose(&pods, &[], 7).expect("a pod");
        picker.rest(home);
        drop(running);
        let (other, running) = picker.choose(&pods, &[], 7).expect("a pod");
        assert_ne!(other, home);
        assert!(picker.choose(&pods, &[home, other], 7).is_none());
        picker.rest(other);
        drop(running);
        assert!(picker.choose(&pods, &[], 7).is_some());
        assert!(
            picker
                .loads
                .lock()
                .expect("loads")
                .values()
                .all(|load| load.running == 0)
        );
    }
}
