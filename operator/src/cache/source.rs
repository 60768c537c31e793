//! From the sources of a ModelCache to what `mesh-worker fetch` reads and what its pod mounts. Secrets are
//! files that only the kubelet reads and mounts: no key is in an environment variable, in an argument or in
//! the operator.

use mesh_crds::ModelCache;
use mesh_crds::model_cache::Artifact;
use mesh_crds::reference::{CaRef, Credentials};
use mesh_crds::source::Source;
use serde_json::{Map, Value, json};

/// Where worker-floor has its files.
pub(crate) const BUILTIN: &str = "/builtin";
const CREDENTIALS: &str = "/credentials";
const TRUST: &str = "/trust";
const SOURCES: &str = "/sources";

/// What a container that fetches needs.
#[derive(Debug, Default)]
pub(crate) struct Fetching {
    /// Value of `MESH_FETCH`.
    pub(crate) order: String,
    /// Volumes of the pod.
    pub(crate) volumes: Vec<Value>,
    /// Mounts of the container.
    pub(crate) mounts: Vec<Value>,
}

/// True if the image with the built-in model has files of it.
pub(crate) fn builtin(cache: &ModelCache) -> bool {
    let sources = &cache.spec.sources;
    sources.iter().any(|source| source.builtin.is_some())
}

/// True if some source is neither in the image nor in a volume: whoever fetches needs a way out.
pub(crate) fn outside(cache: &ModelCache) -> bool {
    let inside = |source: &Source| source.builtin.is_some() || source.pvc.is_some();
    !cache.spec.sources.iter().all(inside)
}

/// What is wrong with the sources in a way that no schema can say.
pub(crate) fn fault(cache: &ModelCache) -> Option<String> {
    let path = |source: &Source| source.pvc.as_ref().and_then(|pvc| pvc.path.clone());
    let bad = cache.spec.sources.iter().filter_map(path).find(|path| {
        path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty())
    })?;
    Some(format!(
        "pvc.path {bad:?} must be a relative path without `..` and empty parts"
    ))
}

/// How `artifacts` are fetched. `prefix` tells the volumes of several models in one pod apart.
pub(crate) fn fetching(cache: &ModelCache, artifacts: &[Artifact], prefix: &str) -> Fetching {
    let mut made = Fetching::default();
    let (mut credentials, mut trust, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    for (index, source) in cache.spec.sources.iter().enumerate() {
        let mut value = json!(source);
        if let Some(pvc) = &source.pvc {
            let (name, folder) = (
                format!("{prefix}-source-{index}"),
                format!("{SOURCES}/{index}"),
            );
            made.volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": pvc.claim_name.0, "readOnly": true}}));
            made.mounts
                .push(json!({"name": name, "mountPath": folder, "readOnly": true}));
            let below = pvc.path.as_ref().map(|path| format!("/{path}"));
            value["pvc"] = json!({"folder": format!("{folder}{}", below.unwrap_or_default())});
        }
        let (key, authority) = secrets(source);
        if let Some(inner) = inner(&mut value) {
            inner.shift_remove("credentials");
            inner.shift_remove("tls");
            if let Some(key) = key.and_then(|key| key.secret_ref.as_ref()) {
                credentials.push(entry("secret", &key.name.0, &key.key, index));
                inner.insert(
                    String::from("credentialsFile"),
                    json!(format!("{CREDENTIALS}/{index}")),
                );
            }
            if let Some(authority) = authority {
                trust.extend(
                    authority
                        .secret
                        .iter()
                        .map(|key| entry("secret", &key.name.0, &key.key, index)),
                );
                trust.extend(
                    authority
                        .config_map
                        .iter()
                        .map(|key| entry("configMap", &key.name.0, &key.key, index)),
                );
                inner.insert(String::from("caFile"), json!(format!("{TRUST}/{index}")));
            }
        }
        sources.push(value);
    }
    made.project(&format!("{prefix}-credentials"), CREDENTIALS, &credentials);
    made.project(&format!("{prefix}-trust"), TRUST, &trust);
    made.order = json!({"artifacts": artifacts, "sources": sources}).to_string();
    made
}

impl Fetching {
    /// One folder with an entry per source.
    fn project(&mut self, name: &str, folder: &str, entries: &[Value]) {
        if entries.is_empty() {
            return;
        }
        self.volumes
            .push(json!({"name": name, "projected": {"defaultMode": 0o440, "sources": entries}}));
        self.mounts
            .push(json!({"name": name, "mountPath": folder, "readOnly": true}));
    }
}

/// The one field that a source has.
fn inner(source: &mut Value) -> Option<&mut Map<String, Value>> {
    let (_, value) = source.as_object_mut()?.iter_mut().next()?;
    value.as_object_mut()
}

/// Optional, so that what is missing is told by the fetch in words, and does not keep its pod waiting for
/// ever without a reason.
fn entry(kind: &str, name: &str, key: &str, index: usize) -> Value {
    json!({kind: {"name": name, "optional": true, "items": [{"key": key, "path": index.to_string()}]}})
}

/// Key and authority of a source.
fn secrets(source: &Source) -> (Option<&Credentials>, Option<&CaRef>) {
    let (credentials, tls) = if let Some(one) = &source.hugging_face {
        (&one.credentials, &one.tls)
    } else if let Some(one) = &source.http {
        (&one.credentials, &one.tls)
    } else if let Some(one) = &source.s3 {
        (&one.credentials, &one.tls)
    } else if let Some(one) = &source.oci {
        (&one.credentials, &one.tls)
    } else {
        return (None, None);
    };
    (credentials.as_ref(), tls.as_ref().map(|tls| &tls.ca_ref))
}

#[cfg(test)]
mod tests {
    use mesh_crds::ModelCache;
    use serde_json::{Value, json};

    use super::{builtin, fault, fetching, outside};

    fn cache(sources: &Value) -> ModelCache {
        serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "m", "namespace": "team"},
            "spec": {"artifacts": [{"path": "m.gguf"}], "sources": sources},
        }))
        .expect("a cache")
    }

    #[test]
    fn a_key_is_a_file_that_only_the_kubelet_reads() {
        let cache = cache(&json!([
            {"builtin": {}},
            {"http": {"url": "https://a.example/", "credentials": {"secretRef": {"name": "s", "key": "k"}}, "tls": {"caRef": {"configMap": {"name": "c", "key": "ca.crt"}}}}},
            {"s3": {"endpoint": "https://s.example", "bucket": "bkt", "credentials": {"secretRef": {"name": "t", "key": "u"}}, "proxy": {"url": "https://p.example"}}},
        ]));
        let made = fetching(&cache, &cache.spec.artifacts, "models");
        let order: Value = serde_json::from_str(&made.order).expect("JSON");
        let http = &order["sources"][1]["http"];
        assert_eq!(http["credentialsFile"], "/credentials/1");
        assert_eq!(http["caFile"], "/trust/1");
        assert!(http["credentials"].is_null() && http["tls"].is_null());
        assert_eq!(
            order["sources"][2]["s3"]["proxy"]["url"],
            "https://p.example"
        );
        assert_eq!(order["sources"][0], json!({"builtin": {}}));
        let credentials = &made.volumes[0]["projected"]["sources"];
        assert_eq!(
            credentials[0]["secret"]["items"],
            json!([{"key": "k", "path": "1"}])
        );
        assert_eq!(credentials[1]["secret"]["name"], "t");
        assert_eq!(
            made.volumes[1]["projected"]["sources"][0]["configMap"]["name"],
            "c"
        );
        assert!(made.mounts.iter().all(|mount| mount["readOnly"] == true));
    }

    #[test]
    fn a_claim_as_a_source_is_mounted_for_reading_and_needs_no_way_out() {
        let cache =
            cache(&json!([{"builtin": {}}, {"pvc": {"claimName": "shared", "path": "models/a"}}]));
        let made = fetching(&cache, &cache.spec.artifacts, "models");
        let order: Value = serde_json::from_str(&made.order).expect("JSON");
        assert_eq!(
            order["sources"][1],
            json!({"pvc": {"folder": "/sources/1/models/a"}})
        );
        assert_eq!(
            made.volumes[0]["persistentVolumeClaim"],
            json!({"claimName": "shared", "readOnly": true})
        );
        assert!(builtin(&cache) && !outside(&cache) && fault(&cache).is_none());
    }

    #[test]
    fn a_path_in_a_claim_cannot_lead_out_of_it() {
        for path in ["../secrets", "a/../../b", "/etc", "a//b"] {
            let cache = cache(&json!([{"pvc": {"claimName": "c", "path": path}}]));
            assert!(fault(&cache).is_some(), "{path}");
        }
    }
}
