//! Operators that live one after another, each ended by `kill -9` in the middle of a write that nobody came to before:
//! before the API server has seen it, or when it is done and the answer is on its way. So no list says which writes
//! there are, or in which order, and a new one ends a life as well. Nothing of a life but what the API server has
//! outlives it: who is killed before a write leaves what is left by who is killed after the write before that, so lives
//! that end after each write show a next one every state that there is; those that end before it show some of them again,
//! beside other work that had come further.
//!
//! Leaves alone what is no step: the Lease, events, and questions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::operator::{HOME, Operator, Settings};
use crate::proxy::{Moment, Proxy, Request};
use crate::stage::{Stage, namespace};

const SOON: Duration = Duration::from_secs(30);
/// Longest act.
const LONG: Duration = Duration::from_mins(4);
/// How long a life goes on before somebody looks whether it is done.
const PAUSE: Duration = Duration::from_millis(300);
/// Requests in whose path is one of these are no steps.
const ASIDE: [&str; 3] = ["/leases", "/events", "reviews"];

/// Steps, and how often an operator came to each.
type Steps = Arc<Mutex<BTreeMap<String, usize>>>;

/// What came of an act.
#[derive(Debug)]
pub struct Played {
    /// Writes that ended lives, as `METHOD resource[/subresource] namespace/name`.
    pub steps: Vec<String>,
    /// How many were killed.
    pub killed: usize,
}

impl Played {
    /// That lives ended at all of these: each is how a step begins, and there is one like it.
    ///
    /// # Errors
    /// With those at which none did.
    pub fn ended_at(&self, wanted: &[&str]) -> Result<()> {
        let missing = |one: &&&str| !self.steps.iter().any(|step| step.starts_with(**one));
        let missing: Vec<&&str> = wanted.iter().filter(missing).collect();
        ensure!(
            missing.is_empty(),
            "no life ended at {missing:?} but at {:#?}",
            self.steps
        );
        Ok(())
    }
}

/// Who cannot lead any more could not give its lease up; how long it takes until that may be taken is another story.
///
/// # Errors
/// If the API server refuses.
pub fn free(stage: &Stage) -> Result<()> {
    let none = r#"{"spec": {"holderIdentity": ""}}"#;
    let lease = ["patch", "lease", "mesh-operator", "-n", HOME];
    let args = [&lease[..], &["--type=merge", "-p", none]].concat();
    stage.kubectl(&args).map(drop)
}

/// A part of a story in which operators are killed.
#[derive(Debug)]
pub struct Act<'a> {
    /// Where it is played.
    pub stage: &'a Stage,
    /// How each operator is started.
    pub settings: Settings,
    /// When a write ends a life: the first time that somebody comes to it, the second time, and so on.
    pub moments: &'static [Moment],
    /// Steps that begin so end no life here: they do in another act.
    pub aside: &'static [&'static str],
}

impl Act<'_> {
    /// Lets operators live until one has nothing to do that none before it began, and all is `done`. `meanwhile` is
    /// whoever else is there, with an operator and without: controllers, kubelets; what it finds wrong ends the act.
    ///
    /// # Errors
    /// If it does not end, if an operator is not quiet in the end, or what `meanwhile` finds wrong.
    pub fn play(
        self,
        mut meanwhile: impl FnMut() -> Result<()>,
        mut done: impl FnMut() -> Result<()>,
    ) -> Result<Played> {
        let (begun, steps, mut killed) = (Instant::now(), Steps::default(), 0);
        loop {
            let proxy = Proxy::start(&self.settings.kubeconfig, self.stage.cluster.folder())?;
            let (counted, moments, aside) = (Arc::clone(&steps), self.moments, self.aside);
            proxy.hold_each(move |request| {
                let step = step(request)?;
                let held = !aside.iter().any(|aside| step.starts_with(aside));
                held.then(|| moment(&counted, moments, step)).flatten()
            });
            let settings = self.settings.clone().through(proxy.kubeconfig());
            let operator = self.stage.begin(&settings)?;
            operator.leads(SOON)?;
            let ended = self.live((&operator, &proxy), &mut meanwhile, &mut done);
            if ended.with_context(|| format!("life {}; steps so far: {steps:#?}", killed + 1))? {
                self.quiet(&operator)?;
                ensure!(operator.terminate()?.success(), "it ended badly");
                break;
            }
            operator.kill();
            killed += 1;
            drop(proxy);
            free(self.stage)?;
            meanwhile()?;
            ensure!(
                begun.elapsed() < LONG,
                "{killed} lives within {LONG:?} and no end; they ended at {steps:#?}"
            );
        }
        let steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Played {
            steps: steps.keys().cloned().collect(),
            killed,
        })
    }

    /// One life; true if it has nothing left to do.
    fn live(
        &self,
        (operator, proxy): (&Operator, &Proxy),
        meanwhile: &mut impl FnMut() -> Result<()>,
        done: &mut impl FnMut() -> Result<()>,
    ) -> Result<bool> {
        let begun = Instant::now();
        loop {
            if proxy.held(PAUSE).is_ok() {
                return Ok(false);
            }
            meanwhile()?;
            let looked = done();
            if looked.is_ok() {
                self.stage.settled(operator, SOON)?;
                // Whoever waits for an answer is at rest, too.
                if proxy.held(Duration::ZERO).is_ok() {
                    return Ok(false);
                }
                if done().is_ok() {
                    return Ok(true);
                }
            } else if begun.elapsed() >= SOON {
                looked.context("nothing is held, and it is not done")?;
            }
        }
    }

    /// News that are none of its business make it write nothing.
    fn quiet(&self, operator: &Operator) -> Result<()> {
        let before = self.stage.wrote()?.len();
        let mut news = namespace("nothing-of-ours");
        news["metadata"]["annotations"]["news"] = json!(before.to_string());
        self.stage.apply(&news)?;
        self.stage.settled(operator, SOON)?;
        let wrote = self.stage.wrote()?;
        ensure!(
            wrote.len() == before,
            "all was done, and it wrote {:?}",
            &wrote[before..]
        );
        Ok(())
    }
}

/// When a step is held.
fn moment(steps: &Steps, moments: &[Moment], step: String) -> Option<Moment> {
    let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
    let times = steps.entry(step).or_default();
    *times += 1;
    moments.get(*times - 1).copied()
}

/// A request as a step; none if it is no step.
fn step(request: &Request) -> Option<String> {
    if !request.writes() || ASIDE.iter().any(|part| request.path(part)) {
        return None;
    }
    let path = request.target.split('?').next().unwrap_or_default();
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let version = if words.first() == Some(&"apis") { 3 } else { 2 };
    let mut rest = words.get(version..)?;
    let mut place = "";
    if let ["namespaces", one, more @ ..] = rest
        && !more.is_empty()
    {
        (place, rest) = (*one, more);
    }
    let body = request.json();
    let (kind, part) = (*rest.first()?, rest.get(2));
    let part = part.map(|part| format!("/{part}")).unwrap_or_default();
    let created = || body["metadata"]["name"].as_str().unwrap_or_default();
    let name = rest.get(1).copied().unwrap_or_else(created);
    let how = how(request, &body);
    Some(format!("{how} {kind}{part} {place}/{name}"))
}

/// The method, and what else tells one step from another on the same object.
fn how(request: &Request, body: &Value) -> String {
    let method = match request.method.as_str() {
        "PATCH" if request.target.contains("force=true") => "APPLY",
        "DELETE" if body["propagationPolicy"] == "Orphan" => "RELEASE",
        method => method,
    };
    // Of a Secret only which entries it has.
    let entries = body["data"]
        .as_object()
        .filter(|_| body["kind"] == "Secret");
    let mut entries: Vec<&str> = entries
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    entries.sort_unstable();
    if entries.is_empty() {
        return method.to_owned();
    }
    format!("{method}:{}", entries.join("+"))
}

#[cfg(test)]
mod tests {
    use super::{Moment, Steps, moment, step};
    use crate::proxy::Request;

    fn request(method: &str, target: &str, body: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            bytes: format!("{method} {target} HTTP/1.1\r\nhost: a\r\n\r\n{body}").into_bytes(),
        }
    }

    fn told(method: &str, target: &str, body: &str) -> String {
        step(&request(method, target, body)).unwrap_or_default()
    }

    #[test]
    fn a_step_is_told_by_what_is_written_where_and_how() {
        let apps = "/apis/apps/v1/namespaces/a/statefulsets";
        let made = r#"{"metadata": {"name": "b"}}"#;
        assert_eq!(told("POST", apps, made), "POST statefulsets a/b");
        let one = format!("{apps}/b?");
        assert_eq!(told("DELETE", &one, "{}"), "DELETE statefulsets a/b");
        let orphan = r#"{"propagationPolicy": "Orphan"}"#;
        assert_eq!(told("DELETE", &one, orphan), "RELEASE statefulsets a/b");
        assert_eq!(told("PATCH", &one, "{}"), "PATCH statefulsets a/b");
        let status = format!("{apps}/b/status?&force=true");
        assert_eq!(
            told("PATCH", &status, "{}"),
            "APPLY statefulsets/status a/b"
        );
        let hook = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/h";
        let told_hook = told("PATCH", hook, "{}");
        assert_eq!(told_hook, "PATCH mutatingwebhookconfigurations /h");
        let secret = r#"{"kind": "Secret", "data": {"ca.key": "", "ca.crt": ""}}"#;
        let written = told("PUT", "/api/v1/namespaces/a/secrets/s", secret);
        assert_eq!(written, "PUT:ca.crt+ca.key secrets a/s");
    }

    #[test]
    fn what_is_no_step_is_let_through() {
        for (method, target) in [
            ("GET", "/api/v1/namespaces/a/secrets/s"),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/l"),
            ("POST", "/apis/events.k8s.io/v1/namespaces/a/events"),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ] {
            assert_eq!(step(&request(method, target, "{}")), None, "{target}");
        }
    }

    #[test]
    fn a_step_ends_as_many_lives_as_there_are_moments() {
        let (steps, moments) = (Steps::default(), [Moment::Before, Moment::After]);
        let write = || String::from("DELETE pods a/p");
        let ends: Vec<_> = (0..3).map(|_| moment(&steps, &moments, write())).collect();
        assert_eq!(ends, [Some(Moment::Before), Some(Moment::After), None]);
    }
}
