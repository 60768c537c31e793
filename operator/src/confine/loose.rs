//! Pods that get out of a confined namespace by their node, where no NetworkPolicy holds. The chart's admission
//! policy refuses to have such pods made; here are those named that were there before, or came while it was away.
//! Both say the same, and a test asks both. Refuses to end any of them.

mod looked;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, HTTPGetAction, Pod, PodSpec, SecurityContext, TCPSocketAction,
    Volume, VolumeMount,
};
use kube::ResourceExt;

pub(crate) use looked::{FRESH, Looked};

/// Pods that are named; of more the number is told.
const NAMED: usize = 5;
/// What containers have, and Pod Security `baseline` lets them ask for.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What is known of the pods of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Loose {
    /// Pods that get out, and by what.
    pub(crate) pods: BTreeMap<String, Vec<&'static str>>,
    /// How many read a folder of their node that the installation excepts.
    pub(crate) excepted: usize,
    /// Why they could not be looked at.
    pub(crate) unknown: Option<String>,
}

impl Loose {
    fn add(&mut self, pod: &Pod, folders: &[String]) {
        let Some(spec) = &pod.spec else { return };
        let found = loose(spec, folders);
        if found.is_empty() {
            let reads = spec.volumes.iter().flatten();
            self.excepted += usize::from(reads.into_iter().any(|one| one.host_path.is_some()));
        } else {
            self.pods.insert(pod.name_any(), found);
        }
    }

    /// What keeps the namespace from counting as confined, in words.
    pub(crate) fn told(&self, namespace: &str) -> Option<String> {
        if let Some(error) = &self.unknown {
            return Some(format!(
                "the pods of {namespace} could not be looked at: {error}"
            ));
        }
        let named = self.pods.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|(name, by)| format!("{namespace}/{name} ({})", by.join(", ")))
            .collect();
        let more = self.pods.len().saturating_sub(NAMED);
        let more = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        (!named.is_empty()).then(|| {
            format!(
                "{} of its pods get out by their node, where no NetworkPolicy holds: {}{more}; delete them",
                self.pods.len(),
                named.join(", ")
            )
        })
    }
}

/// A container of any kind, as far as it matters.
struct Part<'a> {
    security: Option<&'a SecurityContext>,
    mounts: &'a [VolumeMount],
}

impl<'a> From<&'a Container> for Part<'a> {
    fn from(one: &'a Container) -> Self {
        Self {
            security: one.security_context.as_ref(),
            mounts: one.volume_mounts.as_deref().unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for Part<'a> {
    fn from(one: &'a EphemeralContainer) -> Self {
        Self {
            security: one.security_context.as_ref(),
            mounts: one.volume_mounts.as_deref().unwrap_or_default(),
        }
    }
}

/// By what a pod gets out.
pub(crate) fn loose(spec: &PodSpec, folders: &[String]) -> Vec<&'static str> {
    let init = spec.init_containers.iter().flatten();
    let beside = spec.ephemeral_containers.iter().flatten();
    let own = spec.containers.iter().chain(init).map(Part::from);
    let parts: Vec<Part<'_>> = own.chain(beside.map(Part::from)).collect();
    let any = |says: fn(&SecurityContext) -> bool| {
        let mut all = parts.iter().filter_map(|part| part.security);
        all.any(says)
    };
    let of_pod = spec.security_context.as_ref();
    let windows = of_pod.and_then(|context| context.windows_options.as_ref());
    let process = windows.and_then(|options| options.host_process) == Some(true);
    let mut volumes = spec.volumes.iter().flatten();
    let mut mounted = volumes.clone().filter(|one| one.host_path.is_some());
    let mut asking = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let said = [
        ("hostNetwork", spec.host_network == Some(true)),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("hostProcess", process || any(host_process)),
        ("privileged", any(|one| one.privileged == Some(true))),
        ("added capabilities", any(capable)),
        ("procMount", any(unmasked)),
        (
            "hostPath",
            mounted.any(|one| !excepted(one, &parts, folders)),
        ),
        ("volumes of the network", volumes.any(from_elsewhere)),
        ("probes of other hosts", asking.any(asks_elsewhere)),
    ];
    let loose = said.into_iter().filter_map(|(what, so)| so.then_some(what));
    loose.collect()
}

fn host_process(context: &SecurityContext) -> bool {
    let windows = context.windows_options.as_ref();
    windows.and_then(|options| options.host_process) == Some(true)
}

fn capable(context: &SecurityContext) -> bool {
    let capabilities = context.capabilities.as_ref();
    let mut added = capabilities.iter().flat_map(|all| all.add.iter().flatten());
    added.any(|one| !CAPABILITIES.contains(&one.as_str()))
}

fn unmasked(context: &SecurityContext) -> bool {
    let mount = context.proc_mount.as_deref();
    mount.is_some_and(|mount| mount != "Default")
}

/// Of a kind that is not known to be the node's own, or the cluster's: the node mounts it from wherever the pod says.
fn from_elsewhere(volume: &Volume) -> bool {
    let known = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.empty_dir.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.host_path.is_some();
    !known
}

/// The kubelet connects for it to where it says, from the node.
fn asks_elsewhere(container: &Container) -> bool {
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    let probes = probes.into_iter().flatten();
    let mut probes = probes.map(|one| (one.http_get.as_ref(), one.tcp_socket.as_ref()));
    let hooks = container.lifecycle.iter();
    let hooks = hooks.flat_map(|all| [&all.post_start, &all.pre_stop]);
    let mut hooks = hooks
        .flatten()
        .map(|one| (one.http_get.as_ref(), one.tcp_socket.as_ref()));
    let elsewhere = |(http, tcp): (Option<&HTTPGetAction>, Option<&TCPSocketAction>)| {
        let hosts = [
            http.and_then(|one| one.host.as_ref()),
            tcp.and_then(|one| one.host.as_ref()),
        ];
        hosts.into_iter().flatten().any(|host| !host.is_empty())
    };
    probes.any(elsewhere) || hooks.any(elsewhere)
}

/// In a folder that the installation excepts, and only read.
fn excepted(volume: &Volume, parts: &[Part<'_>], folders: &[String]) -> bool {
    let path = volume.host_path.as_ref().map(|host| host.path.as_str());
    let path = path.unwrap_or_default();
    let within = folders.iter().any(|folder| {
        let rest = path.strip_prefix(folder.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let mut mounts = parts.iter().flat_map(|part| part.mounts);
    let read = mounts.all(|mount| mount.name != volume.name || mount.read_only == Some(true));
    within && !path.contains("..") && read
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use serde_json::{Value, json};

    use super::{Loose, loose};

    const CASES: &str = include_str!("loose/cases.json");

    fn folders() -> [String; 1] {
        [String::from("/usr/share/data")]
    }

    #[test]
    fn a_pod_that_gets_out_by_its_node_is_told_by_what() {
        let cases: Vec<Value> = serde_json::from_str(CASES).expect("cases");
        assert!(cases.len() > 15);
        for case in cases {
            let spec: PodSpec = serde_json::from_value(case["spec"].clone()).expect("a pod");
            let found = loose(&spec, &folders());
            assert_eq!(json!(found), case["loose"], "{}", case["what"]);
        }
        let beside = json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "d", "securityContext": {"privileged": true}}]});
        let spec: PodSpec = serde_json::from_value(beside).expect("a pod");
        assert_eq!(loose(&spec, &folders()), ["privileged"]);
    }

    #[test]
    fn the_first_of_many_are_named_and_all_counted() {
        let pod = |name: &str, spec: &Value| -> Pod {
            let pod = json!({"metadata": {"name": name, "namespace": "team"}, "spec": spec});
            serde_json::from_value(pod).expect("a pod")
        };
        let mut all = Loose::default();
        assert_eq!(all.told("team"), None);
        let reads = json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/usr/share/data"}}]});
        all.add(&pod("reads", &reads), &folders());
        assert_eq!((all.told("team"), all.excepted), (None, 1));
        for number in 0..7 {
            let wild = json!({"hostPID": true, "containers": []});
            all.add(&pod(&format!("wild-{number}"), &wild), &folders());
        }
        let told = all.told("team").expect("words");
        assert!(told.starts_with("7 of its pods"), "{told}");
        assert!(
            told.contains("team/wild-0 (hostPID)") && told.contains("and 2 more"),
            "{told}"
        );
        all.unknown = Some(String::from("no"));
        assert!(
            all.told("team")
                .expect("words")
                .contains("could not be looked at")
        );
    }
}
