//! What is put into a pod: the sidecar's container and its volumes. Written out with every default that the API
//! server would add, so that what comes back is what was put in and can be told from what somebody made of it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use mesh_core::{PrivacyLevel, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name of the container.
pub(crate) const CONTAINER: &str = "mesh-sidecar";
/// Where it listens for the application, and for the kubelet.
pub(crate) const PORTS: [u16; 2] = [LISTEN, ADMIN];
const LISTEN: u16 = 14141;
const ADMIN: u16 = 14142;
/// What runs it.
const USER: u32 = 65532;
/// As volumes say it: read by everybody, written by nobody.
const READABLE: u16 = 0o644;
/// Seconds that a token lives; the kubelet renews it in time.
const TOKEN_SECONDS: u32 = 3600;

const TOKEN: &str = "mesh-sidecar-token";
const TRUST: &str = "mesh-sidecar-trust";
const SNAPSHOT: &str = "mesh-sidecar-snapshot";
const NOTHING: &str = "mesh-sidecar-nothing";
const FOLDER: &str = "/var/run/inferencemesh.dev";
/// Where Kubernetes puts the token of the API server into every container that has nothing there.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What differs from one installation to another.
#[derive(Debug, Clone)]
pub(crate) struct Given<'a> {
    /// Namespace of the mesh.
    pub(crate) home: &'a str,
    pub(crate) image: &'a str,
    pub(crate) pull_policy: &'a str,
    pub(crate) pull_secrets: &'a [String],
    pub(crate) resources: &'a ResourceRequirements,
    pub(crate) log: &'a str,
}

/// The same for every pod of an installation, but for what a pod says of its own level.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// Namespace of the mesh.
    pub(crate) home: String,
    container: Value,
    pub(crate) volumes: Vec<Value>,
    pub(crate) pull_secrets: Vec<String>,
    /// Tells this template from others.
    pub(crate) hash: String,
}

impl Template {
    pub(crate) fn new(given: &Given<'_>) -> Self {
        let (container, volumes) = (container(given), volumes());
        let all = json!([container, volumes, env(), given.pull_secrets]).to_string();
        Self {
            home: given.home.to_owned(),
            hash: hex(&Sha256::digest(all.as_bytes())[..8]),
            container,
            volumes,
            pull_secrets: given.pull_secrets.to_vec(),
        }
    }

    /// The container for a pod that wants at least this level.
    pub(crate) fn container(&self, privacy: Option<PrivacyLevel>) -> Value {
        let mut container = self.container.clone();
        if let (Some(level), Some(env)) = (privacy, container["env"].as_array_mut()) {
            env.push(json!({"name": "MESH_PRIVACY", "value": level.as_str()}));
        }
        container
    }
}

/// What SDKs read: the sidecar's address, and a key, without which they do not start. The sidecar throws it away.
pub(crate) fn env() -> [(&'static str, String); 2] {
    [
        (BASE_URL, format!("http://127.0.0.1:{LISTEN}/v1")),
        ("OPENAI_API_KEY", String::from("unused-by-inference-mesh")),
    ]
}

/// Where SDKs of OpenAI send to.
pub(crate) const BASE_URL: &str = "OPENAI_BASE_URL";

fn container(given: &Given<'_>) -> Value {
    let namespace = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let probe = |period: u16, failures: u16| {
        json!({
            "httpGet": {"path": "/healthz", "port": ADMIN, "scheme": "HTTP"},
            "timeoutSeconds": 2, "periodSeconds": period, "successThreshold": 1, "failureThreshold": failures,
        })
    };
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    json!({
        "name": CONTAINER,
        "image": given.image,
        "imagePullPolicy": given.pull_policy,
        // Begins before the application and ends after it; a Job is complete without it.
        "restartPolicy": "Always",
        "env": [
            {"name": "MESH_LISTEN", "value": format!("127.0.0.1:{LISTEN}")},
            // The kubelet does not reach a pod's loopback; this port tells health and numbers only.
            {"name": "MESH_ADMIN_LISTEN", "value": format!("0.0.0.0:{ADMIN}")},
            {"name": "MESH_GATEWAY_URL", "value": format!("https://mesh-gateway.{}.svc:8443", given.home)},
            {"name": "MESH_TRUST", "value": format!("{FOLDER}/trust")},
            {"name": "MESH_TOKEN_FILE", "value": format!("{FOLDER}/token/token")},
            {"name": "MESH_SNAPSHOT", "value": format!("{FOLDER}/snapshot")},
            {"name": "MESH_NAMESPACE", "valueFrom": namespace},
            {"name": "MESH_LOG", "value": given.log},
        ],
        "ports": [{"name": "mesh-admin", "containerPort": ADMIN, "protocol": "TCP"}],
        "resources": given.resources,
        "startupProbe": probe(1, 60),
        "livenessProbe": probe(10, 6),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            mount(TOKEN, &format!("{FOLDER}/token")),
            mount(TRUST, &format!("{FOLDER}/trust")),
            {"name": SNAPSHOT, "mountPath": format!("{FOLDER}/snapshot")},
            // The sidecar has no business with the API server.
            mount(NOTHING, API_TOKEN),
        ],
    })
}

fn volumes() -> Vec<Value> {
    let token = json!({"serviceAccountToken": {"audience": mesh_identity::AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}});
    vec![
        json!({"name": TOKEN, "projected": {"sources": [token], "defaultMode": READABLE}}),
        // Not there yet in the first seconds of a namespace: it comes later, and the pod starts nevertheless.
        json!({"name": TRUST, "configMap": {"name": crate::trust::NAME, "optional": true, "defaultMode": READABLE}}),
        json!({"name": SNAPSHOT, "emptyDir": {"sizeLimit": "16Mi"}}),
        json!({"name": NOTHING, "emptyDir": {"sizeLimit": "4Ki"}}),
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1::{Container, ResourceRequirements, Volume};
    use mesh_core::PrivacyLevel;
    use serde_json::json;

    use super::{Given, Template};

    /// A template of this image.
    pub(crate) fn template(image: &str) -> Template {
        let resources =
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
        let resources: ResourceRequirements = serde_json::from_value(resources).expect("resources");
        Template::new(&Given {
            home: "mesh-system",
            image,
            pull_policy: "IfNotPresent",
            pull_secrets: &[String::from("registry")],
            resources: &resources,
            log: "info",
        })
    }

    #[test]
    fn everything_is_what_kubernetes_understands() {
        let template = template("r/sidecar:1");
        let container = template.container(Some(PrivacyLevel::Restricted));
        let read: Container = serde_json::from_value(container.clone()).expect("a container");
        assert_eq!(json!(read), container, "no field that it does not know");
        for volume in &template.volumes {
            let read: Volume = serde_json::from_value(volume.clone()).expect("a volume");
            assert_eq!(json!(read), *volume);
        }
    }

    #[test]
    fn the_hash_tells_templates_apart_and_not_pods() {
        let one = template("r/sidecar:1");
        assert_eq!(one.hash, template("r/sidecar:1").hash);
        assert_ne!(one.hash, template("r/sidecar:2").hash);
        assert_eq!(one.hash.len(), 16);
        assert_ne!(
            one.container(None),
            one.container(Some(PrivacyLevel::Public))
        );
    }
}
