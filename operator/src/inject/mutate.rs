//! From a pod to the pod with its sidecar. Pure: the same pod, case and template give the same, and what comes out
//! comes out unchanged when it is put in again.
//!
//! Works on the JSON as it came, so a field that this release does not know stays. Refuses, with words for whoever
//! made the pod, what could not work or would only seem to.

use std::collections::BTreeMap;

use mesh_core::PrivacyLevel;
use mesh_crds::label;
use serde_json::{Value, json};

use super::address::{Leads, leads};
use super::case::{Asked, Case, opted_out, pod_asks};
use super::template::{BASE_URL, CONTAINER, PORTS, Template, env};

/// Annotation: hash of the template that a pod got.
pub(crate) const TEMPLATE: &str = "inferencemesh.dev/injected-template";
/// Annotation: containers that send elsewhere by a base URL of their own.
pub(crate) const FOREIGN: &str = "inferencemesh.dev/foreign-base-url";

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It gets the sidecar, or has it.
    Inject(Injected),
    /// It stays as it is.
    Skip(Skipped),
    /// It must not be made.
    Refuse(Refused),
}

/// A pod with the sidecar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Injected {
    pub(crate) pod: Value,
    /// Containers that send elsewhere, and where to.
    pub(crate) foreign: Vec<(String, String)>,
    /// For whoever made it.
    pub(crate) warnings: Vec<String>,
}

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// It opted out.
    OptedOut,
    /// A sidecar cannot be in it.
    Unfit(Unfit),
}

/// Why a sidecar cannot be in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is in its node's network.
    HostNetwork,
    /// It runs Windows.
    Windows,
}

impl Unfit {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
        }
    }

    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::HostNetwork => {
                "it is in its node's network (hostNetwork), where a sidecar's loopback would be the node's"
            }
            Self::Windows => "it is for Windows, and the sidecar for Linux",
        }
    }
}

/// Why a pod must not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no sidecar can be injected: {}; take the label {} off the pod, or change that", .0.words(), label::INJECT)]
    Unfit(Unfit),
    #[error("no sidecar can be injected: {}, and this namespace requires one ({}: required)", .0.words(), label::INJECT)]
    Required(Unfit),
    #[error("no sidecar can be injected: {0} is the name of the mesh's own; rename yours")]
    NameTaken(String),
    #[error(
        "no sidecar can be injected: container {container} mounts volume {volume}, which is the sidecar's own; use a volume of yours"
    )]
    VolumeTaken { container: String, volume: String },
    #[error(
        "no sidecar can be injected: container {container} has port {port}, which is the sidecar's ({} and {}); use another",
        PORTS[0],
        PORTS[1]
    )]
    PortTaken { container: String, port: u16 },
    #[error(
        "this namespace is confined, and {BASE_URL} of container {container} leads to {host}, not to the mesh: take it off, and the sidecar's address is set"
    )]
    Foreign { container: String, host: String },
    #[error("not a pod that can be read: {0}")]
    Unreadable(&'static str),
}

impl Refused {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Unfit(unfit) | Self::Required(unfit) => unfit.reason(),
            Self::NameTaken(_) => "NameTaken",
            Self::PortTaken { .. } => "PortTaken",
            Self::VolumeTaken { .. } => "VolumeTaken",
            Self::Foreign { .. } => "ForeignBaseUrl",
            Self::Unreadable(_) => "Unreadable",
        }
    }
}

/// What becomes of `pod`.
pub(crate) fn inject(pod: &Value, case: Case, template: &Template) -> Verdict {
    let labels = words(&pod["metadata"]["labels"]);
    if case.asked == Asked::Namespace && opted_out(&labels) {
        return Verdict::Skip(Skipped::OptedOut);
    }
    if let Some(unfit) = unfit(pod) {
        return match case.asked {
            _ if pod_asks(&labels) => Verdict::Refuse(Refused::Unfit(unfit)),
            Asked::Required => Verdict::Refuse(Refused::Required(unfit)),
            Asked::Namespace | Asked::Pod => Verdict::Skip(Skipped::Unfit(unfit)),
        };
    }
    match with_sidecar(pod, case, template) {
        Ok(injected) => Verdict::Inject(injected),
        Err(refused) => Verdict::Refuse(refused),
    }
}

fn words(map: &Value) -> BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn unfit(pod: &Value) -> Option<Unfit> {
    let spec = &pod["spec"];
    if spec["hostNetwork"] == true {
        return Some(Unfit::HostNetwork);
    }
    windows(spec).then_some(Unfit::Windows)
}

/// True if a pod of this spec runs on Windows and nowhere else, by what it says of its system or its nodes.
pub(crate) fn windows(spec: &Value) -> bool {
    const LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
    const WINDOWS: &str = "windows";
    let selects = |label: &&str| spec["nodeSelector"][*label] == WINDOWS;
    let says = |one: &Value| {
        let of_os = LABELS.iter().any(|label| one["key"] == *label);
        of_os && one["operator"] == "In" && one["values"] == json!([WINDOWS])
    };
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = || list(&required["nodeSelectorTerms"]);
    // Nodes of any of the terms will do.
    let only =
        terms().next().is_some() && terms().all(|term| list(&term["matchExpressions"]).any(says));
    spec["os"]["name"] == WINDOWS || LABELS.iter().any(selects) || only
}

fn with_sidecar(pod: &Value, case: Case, template: &Template) -> Result<Injected, Refused> {
    if !pod["spec"]["containers"].is_array() {
        return Err(Refused::Unreadable("it has no containers"));
    }
    // What carries our mark was here before: what is named as ours is made ours again.
    let again = pod["metadata"]["annotations"][TEMPLATE].is_string();
    let spec = &pod["spec"];
    let init: Vec<Value> = list(&spec["initContainers"]).cloned().collect();
    let (old, init): (Vec<Value>, Vec<Value>) = init
        .into_iter()
        .partition(|one| again && one["name"] == CONTAINER);
    free_names(spec, &init, again, template)?;
    free_ports(init.iter().chain(list(&spec["containers"])))?;
    free_volumes(init.iter().chain(list(&spec["containers"])), template)?;

    let mut warnings = Vec::new();
    let mut foreign = Vec::new();
    for container in init.iter().chain(list(&spec["containers"])) {
        if let Some(host) = sends_elsewhere(container, &template.home) {
            foreign.push((name(container), host));
        }
    }
    if let (true, Some((container, host))) = (case.confined, foreign.first().cloned()) {
        return Err(Refused::Foreign { container, host });
    }
    let privacy = privacy(&pod["metadata"]["annotations"], &mut warnings);

    let mut made = pod.clone();
    let place = place(spec, old.is_empty());
    let mut containers: Vec<Value> = init
        .into_iter()
        .map(|one| equipped(one, &mut warnings))
        .collect();
    containers.insert(place.min(containers.len()), template.container(privacy));
    made["spec"]["initContainers"] = Value::Array(containers);
    let own = list(&spec["containers"]).cloned();
    made["spec"]["containers"] = own.map(|one| equipped(one, &mut warnings)).collect();
    volumes(&mut made["spec"], template);
    pull_secrets(&mut made["spec"], template);
    marks(&mut made["metadata"], template, &foreign);
    warnings.extend(foreign.iter().map(|(container, host)| {
        format!("container {container}: its own {BASE_URL} leads to {host}, past the mesh; it is left so")
    }));
    Ok(Injected {
        pod: made,
        foreign,
        warnings,
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name(container: &Value) -> String {
    container["name"].as_str().unwrap_or_default().to_owned()
}

/// Nobody else has the names of what is put in.
fn free_names(
    spec: &Value,
    init: &[Value],
    again: bool,
    template: &Template,
) -> Result<(), Refused> {
    let mut containers = init.iter().chain(list(&spec["containers"]));
    if containers.any(|one| one["name"] == CONTAINER) {
        return Err(Refused::NameTaken(format!("container {CONTAINER}")));
    }
    let ours = |volume: &Value| {
        template
            .volumes
            .iter()
            .any(|own| own["name"] == volume["name"])
    };
    match list(&spec["volumes"]).find(|volume| !again && ours(volume)) {
        Some(volume) => Err(Refused::NameTaken(format!("volume {}", name(volume)))),
        None => Ok(()),
    }
}

fn free_ports<'a>(containers: impl Iterator<Item = &'a Value>) -> Result<(), Refused> {
    for container in containers {
        let taken = list(&container["ports"])
            .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
            .find(|port| PORTS.contains(port));
        if let Some(port) = taken {
            return Err(Refused::PortTaken {
                container: name(container),
                port,
            });
        }
    }
    Ok(())
}

/// What the sidecar knows and shows is its own: whoever writes its snapshot says what the policies are.
fn free_volumes<'a>(
    containers: impl Iterator<Item = &'a Value>,
    template: &Template,
) -> Result<(), Refused> {
    for container in containers {
        let mounts = list(&container["volumeMounts"]).chain(list(&container["volumeDevices"]));
        let ours = |mount: &&Value| {
            template
                .volumes
                .iter()
                .any(|own| own["name"] == mount["name"])
        };
        if let Some(mount) = mounts.into_iter().find(ours) {
            return Err(Refused::VolumeTaken {
                container: name(container),
                volume: name(mount),
            });
        }
    }
    Ok(())
}

/// Where the container says itself that it sends, if not home. What comes from a Secret, a ConfigMap or the
/// image cannot be seen.
fn sends_elsewhere(container: &Value, home: &str) -> Option<String> {
    // Of several of one name the last holds.
    let all = list(&container["env"]).filter(|one| one["name"] == BASE_URL);
    let own = all.last()?;
    if own["valueFrom"].is_object() {
        return None;
    }
    match leads(own["value"].as_str().unwrap_or_default(), home) {
        Leads::Home => None,
        Leads::Elsewhere(host) => Some(host),
    }
}

/// The level that a pod gives to everything it sends. What cannot be read is the highest.
fn privacy(annotations: &Value, warnings: &mut Vec<String>) -> Option<PrivacyLevel> {
    let said = annotations[label::PRIVACY].as_str()?;
    let level = said.trim().to_ascii_lowercase().parse();
    if level.is_err() {
        warnings.push(format!(
            "annotation {}: not a level (public, internal, confidential, restricted), so everything counts as restricted",
            label::PRIVACY
        ));
    }
    Some(level.unwrap_or(PrivacyLevel::Restricted))
}

/// Where it stands: first, so that other init containers can use it; what was put before it later may stay there
/// only if it is a sidecar too.
fn place(spec: &Value, new: bool) -> usize {
    if new {
        return 0;
    }
    let before: Vec<&Value> = list(&spec["initContainers"])
        .take_while(|one| one["name"] != CONTAINER)
        .collect();
    if before.iter().all(|one| sidecar(one)) {
        before.len()
    } else {
        0
    }
}

fn sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// With what SDKs read, where the application has not said it itself. Before everything else, so that other
/// variables can refer to it. Sidecars of others are left alone.
fn equipped(mut container: Value, warnings: &mut Vec<String>) -> Value {
    if sidecar(&container) {
        return container;
    }
    let said: Vec<Value> = list(&container["env"]).cloned().collect();
    let silent = |key: &str| !said.iter().any(|one| one["name"] == key);
    let add: Vec<Value> = env()
        .into_iter()
        .filter(|(key, _)| silent(key))
        .map(|(key, value)| json!({"name": key, "value": value}))
        .collect();
    if add.is_empty() {
        return container;
    }
    if list(&container["envFrom"]).next().is_some() {
        warnings.push(format!(
            "container {}: a {BASE_URL} or key that comes by envFrom is hidden by the sidecar's; to keep it, say it in env",
            name(&container)
        ));
    }
    container["env"] = add.into_iter().chain(said).collect();
    container
}

fn volumes(spec: &mut Value, template: &Template) {
    let mut volumes: Vec<Value> = list(&spec["volumes"]).cloned().collect();
    for own in &template.volumes {
        match volumes.iter_mut().find(|one| one["name"] == own["name"]) {
            Some(there) => *there = own.clone(),
            None => volumes.push(own.clone()),
        }
    }
    spec["volumes"] = Value::Array(volumes);
}

fn pull_secrets(spec: &mut Value, template: &Template) {
    let mut secrets: Vec<Value> = list(&spec["imagePullSecrets"]).cloned().collect();
    for own in &template.pull_secrets {
        if !secrets.iter().any(|one| one["name"] == *own.as_str()) {
            secrets.push(json!({"name": own}));
        }
    }
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = Value::Array(secrets);
    }
}

fn marks(metadata: &mut Value, template: &Template, foreign: &[(String, String)]) {
    for map in ["labels", "annotations"] {
        if !metadata[map].is_object() {
            metadata[map] = json!({});
        }
    }
    metadata["labels"][label::INJECTED] = json!("true");
    let annotations = &mut metadata["annotations"];
    annotations[TEMPLATE] = json!(template.hash);
    if !foreign.is_empty() {
        let told: Vec<String> = foreign
            .iter()
            .map(|(container, host)| format!("{container}={host}"))
            .collect();
        annotations[FOREIGN] = json!(told.join(","));
    } else if let Some(map) = annotations.as_object_mut() {
        map.remove(FOREIGN);
    }
}

#[cfg(test)]
mod tests;
