//! What every pod that serves a model needs so that only the mesh reaches it: a token to prove itself with,
//! what to trust, a folder for its key, the TLS port, and the rules of the network. Pure.
//!
//! The network lets in gateways and pods with a sidecar at the TLS port, anybody at the port of metrics and
//! health, and out to the operator's signing endpoint and to DNS only.

use k8s_openapi::api::networking::v1::NetworkPolicyEgressRule;
use mesh_crds::label;
use serde_json::{Value, json};

/// Port of the API over TLS.
pub(crate) const TLS: u16 = 8444;
/// Port of the operator's signing endpoint.
pub(crate) const SIGN: u16 = 8443;
/// Where a model server listens that is guarded.
const GUARDED: &str = "127.0.0.1:8000";
const ADMIN: u16 = 8081;
/// ConfigMap with what is trusted, in every namespace with model servers.
pub(crate) const TRUST: &str = "mesh-trust";
/// ServiceAccount of the gateways.
pub(crate) const GATEWAY: &str = "mesh-gateway";
const FOLDER: &str = "/var/run/inferencemesh.dev";
/// Namespaces in which clusters run their DNS, and the address of one that runs on the node.
const DNS_NAMESPACES: [&str; 2] = ["kube-system", "openshift-dns"];
const NODE_LOCAL_DNS: &str = "169.254.20.10/32";
/// How long a token is valid; the kubelet renews it.
const TOKEN_SECONDS: u32 = 3600;

/// The transport of the pods of one backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transport<'a> {
    pub(crate) mesh_namespace: &'a str,
    /// Namespace of the backend.
    pub(crate) namespace: &'a str,
}

impl Transport<'_> {
    /// Volumes of the pod.
    pub(crate) fn volumes() -> Vec<Value> {
        vec![
            json!({"name": "mesh-token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": label::GROUP, "expirationSeconds": TOKEN_SECONDS, "path": "token"}}]}}),
            json!({"name": TRUST, "configMap": {"name": TRUST}}),
            // In memory: a key does not belong on a disk. It outlives the container, not the pod.
            json!({"name": "mesh-identity", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        ]
    }

    /// Where the container that speaks TLS finds them.
    pub(crate) fn mounts() -> Vec<Value> {
        let folder = |name: &str| format!("{FOLDER}/{name}");
        let read =
            |name: &str, at: &str| json!({"name": name, "mountPath": folder(at), "readOnly": true});
        vec![
            read("mesh-token", "token"),
            read(TRUST, "trust"),
            // The API server keeps no `false`: said here, it would differ for ever.
            json!({"name": "mesh-identity", "mountPath": folder("identity")}),
        ]
    }

    /// Arguments of `mesh-worker serve` and `guard`.
    pub(crate) fn args(&self) -> Vec<String> {
        let home = self.mesh_namespace;
        vec![
            format!("--tls-listen=0.0.0.0:{TLS}"),
            format!("--sign-url=https://mesh-operator.{home}.svc:{SIGN}"),
            format!("--gateway-account={home}/{GATEWAY}"),
        ]
    }

    /// Port of the container that speaks TLS.
    pub(crate) fn port() -> Value {
        json!({"name": "mesh", "containerPort": TLS})
    }

    /// Port of the Service. By number: not every Kubernetes finds the name of a sidecar's port.
    pub(crate) fn service_port() -> Value {
        json!({"name": "mesh", "port": TLS, "targetPort": TLS, "protocol": "TCP"})
    }

    /// The guard before a model server that is not ours and listens on loopback: a container that begins
    /// before it and ends after it. At port 8081 it answers `/readyz`, and `/engine` for the model
    /// server's own probes.
    pub(crate) fn guard(&self, image: &str, pull_policy: &str, health_path: &str) -> Value {
        let mut args = vec![
            String::from("guard"),
            format!("--to={GUARDED}"),
            format!("--health-path={health_path}"),
            format!("--admin-listen=0.0.0.0:{ADMIN}"),
        ];
        args.extend(self.args());
        let probe = |path: &str, period: u64, failures: u64| json!({"httpGet": {"path": path, "port": ADMIN}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5});
        json!({
            "name": "guard",
            "image": image,
            "imagePullPolicy": pull_policy,
            "restartPolicy": "Always",
            "args": args,
            "ports": [Self::port(), {"name": "admin", "containerPort": ADMIN}],
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
            // The model server begins once the guard lives, so only its life is waited for here.
            "startupProbe": probe("/healthz", 1, 60),
            "readinessProbe": probe("/readyz", 2, 2),
            "livenessProbe": probe("/healthz", 10, 6),
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": Self::mounts(),
        })
    }

    /// `lifecycle` of a guarded model server: it goes on answering until gateways have heard that the pod
    /// ends. Its guard ends after it.
    pub(crate) fn lifecycle() -> Value {
        json!({"preStop": {"sleep": {"seconds": 10}}})
    }

    /// Who may reach the pod.
    pub(crate) fn ingress(&self) -> Vec<Value> {
        let gateway = json!({
            "namespaceSelector": {"matchLabels": {label::NAMESPACE_NAME: self.mesh_namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/part-of": "inference-mesh"}},
        });
        let mut sidecar = json!({"podSelector": {"matchExpressions": [{"key": label::INJECTED, "operator": "Exists"}]}});
        if self.namespace == self.mesh_namespace {
            // Models of the mesh namespace serve everybody.
            sidecar["namespaceSelector"] = json!({});
        }
        vec![
            json!({"from": [gateway, sidecar], "ports": [{"port": TLS, "protocol": "TCP"}]}),
            json!({"ports": [{"port": ADMIN, "protocol": "TCP"}]}),
        ]
    }

    /// Whom the pod may reach.
    pub(crate) fn egress(&self) -> Vec<Value> {
        let operator = json!({
            "namespaceSelector": {"matchLabels": {label::NAMESPACE_NAME: self.mesh_namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "inference-mesh"}},
        });
        let dns = [
            json!({"namespaceSelector": {"matchExpressions": [{"key": label::NAMESPACE_NAME, "operator": "In", "values": DNS_NAMESPACES}]}}),
            json!({"ipBlock": {"cidr": NODE_LOCAL_DNS}}),
        ];
        let port = |port: u16, protocol: &str| json!({"port": port, "protocol": protocol});
        vec![
            json!({"to": [operator], "ports": [port(SIGN, "TCP")]}),
            json!({"to": dns, "ports": [port(53, "UDP"), port(53, "TCP"), port(5353, "UDP"), port(5353, "TCP")]}),
        ]
    }
}

/// The same as Kubernetes reads it: what workers of a namespace may reach.
pub(crate) fn worker_egress(mesh_namespace: &str, namespace: &str) -> Vec<NetworkPolicyEgressRule> {
    let transport = Transport {
        mesh_namespace,
        namespace,
    };
    let rules = transport.egress().into_iter();
    // A test reads each of them.
    rules
        .filter_map(|rule| serde_json::from_value(rule).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;
    use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
    use serde_json::{Value, json};

    use super::Transport;

    fn transport(namespace: &str) -> Transport<'_> {
        Transport {
            mesh_namespace: "mesh-system",
            namespace,
        }
    }

    #[test]
    fn everything_is_what_kubernetes_understands() {
        let team = transport("team");
        let guard = team.guard("r/worker:1", "IfNotPresent", "/health");
        let read: Container = serde_json::from_value(guard.clone()).expect("a container");
        assert_eq!(read.restart_policy.as_deref(), Some("Always"));
        assert_eq!(
            json!(read),
            guard,
            "no field is one that Kubernetes does not know"
        );
        for rule in team.ingress() {
            let read: NetworkPolicyIngressRule =
                serde_json::from_value(rule.clone()).expect("a rule");
            assert_eq!(json!(read), rule);
        }
        for rule in team.egress() {
            let read: NetworkPolicyEgressRule =
                serde_json::from_value(rule.clone()).expect("a rule");
            assert_eq!(json!(read), rule);
        }
    }

    #[test]
    fn a_tenants_model_is_open_to_sidecars_of_its_namespace_and_the_floor_to_all_of_them() {
        let sidecar = |namespace: &str| transport(namespace).ingress()[0]["from"][1].clone();
        assert_eq!(sidecar("team")["namespaceSelector"], Value::Null);
        assert_eq!(sidecar("mesh-system")["namespaceSelector"], json!({}));
    }

    #[test]
    fn nothing_goes_out_but_to_the_operator_and_to_dns() {
        let egress = transport("team").egress();
        assert_eq!(egress.len(), 2);
        assert!(
            egress
                .iter()
                .all(|rule| rule["to"].as_array().is_some_and(|to| !to.is_empty()))
        );
    }
}
