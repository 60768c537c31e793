//! Fields that the contract has and this release does not act on. One table: the door refuses them,
//! and the reference pages mark them.

use crate::Home;
use crate::kind::Kind;
use crate::tree::{Content, Node};

/// A field, or some values of a field, whose behavior comes later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Later {
    /// Kind that has it.
    pub(crate) kind: Kind,
    /// Path with `[]` for every list.
    pub(crate) path: &'static str,
    /// Which uses are refused.
    pub(crate) uses: Uses,
    /// What to do instead; empty if there is nothing.
    pub(crate) instead: &'static str,
}

/// Which uses of a field are refused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Uses {
    /// Any that says something: an empty list or mapping does not.
    Any,
    /// Any: `{}` says everything.
    Presence,
    /// Every value but these.
    AllBut(&'static [&'static str]),
}

const fn any(kind: Kind, path: &'static str, instead: &'static str) -> Later {
    Later {
        kind,
        path,
        uses: Uses::Any,
        instead,
    }
}

const fn presence(kind: Kind, path: &'static str, instead: &'static str) -> Later {
    Later {
        kind,
        path,
        uses: Uses::Presence,
        instead,
    }
}

const fn but(
    kind: Kind,
    path: &'static str,
    good: &'static [&'static str],
    instead: &'static str,
) -> Later {
    Later {
        kind,
        path,
        uses: Uses::AllBut(good),
        instead,
    }
}

const CACHE: Kind = Kind::ModelCache;
const BACKEND: Kind = Kind::InferenceBackend;
const POLICY: Kind = Kind::SovereigntyPolicy;
const KEYS: &str = "use env or file on one machine";
const IMAGES: &str = "use builtin, huggingFace, http, s3, oci or pvc";
const SECRET: &str = "a cluster has neither: use secretRef";
const CONFINED: &str = "NetworkPolicies confine the pods of a cluster";
const SOURCES: &str = "use file, http, huggingFace, s3 or oci";
const TRUST: &str = "a Secret or ConfigMap is a cluster's; let the system trust the authority";
const FILE: &str = "use file on one machine";
const ENTRY: &str = "a cluster has no file of this machine: use configMap or secret";
const OPEN: &str = "use a proxy that asks for none";
const FORMATS: &[&str] = &["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"];
const EXACT: &str = "use Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0";
const DERIVED: &str = "make the file with `mesh-worker quantize` and declare it as an artifact";

/// What comes later everywhere, by kind and place.
const BOTH: &[Later] = &[
    but(CACHE, "spec.derive[].quantization", FORMATS, EXACT),
    any(CACHE, "spec.distribution", ""),
    any(CACHE, "spec.sources[].huggingFace.proxy.credentials", OPEN),
    any(CACHE, "spec.sources[].http.proxy.credentials", OPEN),
    any(CACHE, "spec.sources[].s3.proxy.credentials", OPEN),
    any(CACHE, "spec.sources[].oci.proxy.credentials", OPEN),
    but(
        BACKEND,
        "spec.inCluster.modelRef.quantization",
        FORMATS,
        EXACT,
    ),
    but(BACKEND, "spec.inCluster.stages", &["1"], ""),
    but(
        BACKEND,
        "spec.cloud.protocol",
        &["OpenAI"],
        "use the provider's OpenAI-compatible address",
    ),
    but(
        BACKEND,
        "spec.external.protocol",
        &["OpenAI"],
        "use the server's OpenAI-compatible address",
    ),
    any(
        BACKEND,
        "spec.limits.tokensPerMinute",
        "use requestsPerMinute",
    ),
    any(
        BACKEND,
        "spec.availableTo.namespaceSelector.matchExpressions",
        "use matchLabels",
    ),
    any(
        POLICY,
        "spec.selector.namespaceSelector.matchExpressions",
        "use matchLabels",
    ),
    any(POLICY, "spec.classification.dictionaries", ""),
    any(POLICY, "spec.classification.lowering", ""),
    but(
        POLICY,
        "spec.redaction.internal",
        &["RouteLocal"],
        "use RouteLocal",
    ),
    but(
        POLICY,
        "spec.redaction.confidential",
        &["RouteLocal"],
        "use RouteLocal",
    ),
    but(
        POLICY,
        "spec.redaction.restricted",
        &["RouteLocal"],
        "use RouteLocal",
    ),
    any(POLICY, "spec.overrides", ""),
    any(POLICY, "spec.budgets", ""),
    any(POLICY, "spec.failover.hedge", ""),
    but(POLICY, "spec.failover.midStream", &["Fail"], "use Fail"),
    but(
        POLICY,
        "spec.failover.safetyRefusals",
        &["Keep"],
        "use Keep",
    ),
    but(
        POLICY,
        "spec.failover.substitution",
        &["Floor", "Never"],
        "use Floor or Never",
    ),
];

/// What one machine refuses besides: it is a cluster's, or comes later there only.
const MACHINE: &[Later] = &[
    but(CACHE, "spec.type", &["Model"], ""),
    any(CACHE, "spec.base", ""),
    presence(
        CACHE,
        "spec.sources[].builtin",
        "builtin is for the cluster's images; use file",
    ),
    any(CACHE, "spec.sources[].pvc", "pvc is for clusters; use file"),
    presence(CACHE, "spec.sources[].peers", SOURCES),
    any(
        CACHE,
        "spec.sources[].huggingFace.credentials.secretRef",
        KEYS,
    ),
    any(CACHE, "spec.sources[].http.credentials.secretRef", KEYS),
    any(CACHE, "spec.sources[].s3.credentials.secretRef", KEYS),
    any(CACHE, "spec.sources[].oci.credentials.secretRef", KEYS),
    any(CACHE, "spec.sources[].huggingFace.tls", TRUST),
    any(CACHE, "spec.sources[].http.tls", TRUST),
    any(CACHE, "spec.sources[].s3.tls", TRUST),
    any(CACHE, "spec.sources[].oci.tls", TRUST),
    any(CACHE, "spec.derive", DERIVED),
    any(BACKEND, "spec.inCluster.modelRef.quantization", DERIVED),
    any(
        CACHE,
        "spec.storage.persistentVolumeClaim",
        "on one machine the files are in the mesh's cache",
    ),
    any(
        CACHE,
        "spec.storage.nodeLocal",
        "on one machine the files are in the mesh's cache",
    ),
    any(CACHE, "spec.verification", "use `mesh models verify`"),
    but(
        BACKEND,
        "spec.inCluster.replicas",
        &["1"],
        "one machine runs one",
    ),
    but(
        BACKEND,
        "spec.inCluster.engine",
        &["Candle"],
        "run that engine yourself and use external",
    ),
    but(BACKEND, "spec.inCluster.accelerator.vendor", &["Cpu"], ""),
    any(BACKEND, "spec.inCluster.adapters", ""),
    any(BACKEND, "spec.inCluster.tensorParallel", ""),
    any(BACKEND, "spec.inCluster.accelerator.count", ""),
    any(BACKEND, "spec.inCluster.accelerator.memory", ""),
    any(BACKEND, "spec.inCluster.accelerator.deviceClassName", ""),
    any(BACKEND, "spec.inCluster.sharedMemory", ""),
    any(BACKEND, "spec.inCluster.startupTimeout", ""),
    any(BACKEND, "spec.inCluster.image", ""),
    any(BACKEND, "spec.inCluster.args", ""),
    any(BACKEND, "spec.inCluster.env", ""),
    any(BACKEND, "spec.inCluster.nodeSelector", ""),
    any(BACKEND, "spec.inCluster.tolerations", ""),
    any(BACKEND, "spec.inCluster.topologySpread", ""),
    any(BACKEND, "spec.inCluster.runtimeClassName", ""),
    any(BACKEND, "spec.inCluster.priorityClassName", ""),
    any(BACKEND, "spec.inCluster.imagePullSecrets", ""),
    but(POLICY, "spec.egress.confine", &["false"], CONFINED),
    any(POLICY, "spec.egress.allow", CONFINED),
    any(POLICY, "spec.egress.dns", CONFINED),
    any(BACKEND, "spec.cloud.credentials.secretRef", KEYS),
    any(BACKEND, "spec.external.credentials.secretRef", KEYS),
    any(BACKEND, "spec.cloud.proxy.credentials.secretRef", KEYS),
    any(BACKEND, "spec.external.proxy.credentials.secretRef", KEYS),
    any(BACKEND, "spec.cloud.tls.caRef.secret", FILE),
    any(BACKEND, "spec.cloud.tls.caRef.configMap", FILE),
    any(BACKEND, "spec.external.tls.caRef.secret", FILE),
    any(BACKEND, "spec.external.tls.caRef.configMap", FILE),
];

/// What a cluster refuses besides: either it comes later, or it would let an author reach files, variables
/// and addresses of the gateway itself.
const CLUSTER: &[Later] = &[
    any(
        CACHE,
        "spec.sources[].file",
        "a cluster has no file of this machine: use builtin, pvc or a source outside",
    ),
    presence(CACHE, "spec.sources[].peers", IMAGES),
    any(CACHE, "spec.sources[].huggingFace.credentials.env", SECRET),
    any(CACHE, "spec.sources[].huggingFace.credentials.file", SECRET),
    any(CACHE, "spec.sources[].http.credentials.env", SECRET),
    any(CACHE, "spec.sources[].http.credentials.file", SECRET),
    any(CACHE, "spec.sources[].s3.credentials.env", SECRET),
    any(CACHE, "spec.sources[].s3.credentials.file", SECRET),
    any(CACHE, "spec.sources[].oci.credentials.env", SECRET),
    any(CACHE, "spec.sources[].oci.credentials.file", SECRET),
    any(BACKEND, "spec.cloud.credentials.env", SECRET),
    any(BACKEND, "spec.cloud.credentials.file", SECRET),
    any(BACKEND, "spec.external.credentials.env", SECRET),
    any(BACKEND, "spec.external.credentials.file", SECRET),
    any(BACKEND, "spec.cloud.proxy.credentials.env", SECRET),
    any(BACKEND, "spec.cloud.proxy.credentials.file", SECRET),
    any(BACKEND, "spec.external.proxy.credentials.env", SECRET),
    any(BACKEND, "spec.external.proxy.credentials.file", SECRET),
    any(CACHE, "spec.sources[].huggingFace.tls.caRef.file", ENTRY),
    any(CACHE, "spec.sources[].http.tls.caRef.file", ENTRY),
    any(CACHE, "spec.sources[].s3.tls.caRef.file", ENTRY),
    any(CACHE, "spec.sources[].oci.tls.caRef.file", ENTRY),
    any(BACKEND, "spec.cloud.tls.caRef.file", ENTRY),
    any(BACKEND, "spec.external.tls.caRef.file", ENTRY),
    any(
        POLICY,
        "spec.ownership.nodeSelector.matchExpressions",
        "use matchLabels",
    ),
];

/// Everything that `home` refuses.
pub(crate) fn later(home: Home) -> impl Iterator<Item = &'static Later> {
    let own = match home {
        Home::Machine => MACHINE,
        Home::Cluster => CLUSTER,
    };
    BOTH.iter().chain(own)
}

/// Every use in `root` of something that this home refuses: path and message.
pub(crate) fn refused(home: Home, kind: Kind, root: &Node) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for later in later(home).filter(|later| later.kind == kind) {
        let mut used = Vec::new();
        follow(root, later.path, String::new(), &mut used);
        found.extend(used.into_iter().filter_map(|(path, node)| {
            let message = later.message(&path, node)?;
            Some((path, message))
        }));
    }
    found
}

impl Later {
    fn message(&self, path: &str, node: &Node) -> Option<String> {
        let value = match self.uses {
            Uses::Any if empty(node) => return None,
            Uses::Presence if node.null() => return None,
            Uses::Any | Uses::Presence => String::new(),
            Uses::AllBut(good) => match node.written() {
                Some(text) if node.null() || good.contains(&text.as_str()) => return None,
                Some(text) => format!(": {}", crate::problem::shown(&text)),
                None => return None,
            },
        };
        let instead = if self.instead.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.instead)
        };
        Some(format!("not supported yet: {path}{value}{instead}"))
    }
}

/// Null, empty lists and empty mappings say nothing.
fn empty(node: &Node) -> bool {
    let mapping = matches!(node.content, Content::Map(_));
    let list = matches!(node.content, Content::List(_));
    node.null() || (mapping && node.entries().is_empty()) || (list && node.items().is_empty())
}

/// All nodes at `pattern`, with their paths.
fn follow<'n>(node: &'n Node, pattern: &str, path: String, found: &mut Vec<(String, &'n Node)>) {
    if pattern.is_empty() {
        found.push((path, node));
        return;
    }
    if let Some(rest) = pattern.strip_prefix("[]") {
        for (index, item) in node.items().iter().enumerate() {
            follow(item, rest, format!("{path}[{index}]"), found);
        }
        return;
    }
    let pattern = pattern.strip_prefix('.').unwrap_or(pattern);
    let end = pattern.find(['.', '[']).unwrap_or(pattern.len());
    let (key, rest) = pattern.split_at(end);
    if let Some(below) = node.get(key) {
        let path = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        follow(below, rest, path, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::later;
    use crate::Home;
    use crate::manifest;

    /// The schema at a path of the table.
    fn at<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
        path.split('.').try_fold(schema, |schema, part| {
            let name = part.strip_suffix("[]").unwrap_or(part);
            let found = schema.get("properties")?.get(name)?;
            if part.ends_with("[]") {
                found.get("items")
            } else {
                Some(found)
            }
        })
    }

    #[test]
    fn every_entry_names_a_field_that_exists() {
        for later in [Home::Machine, Home::Cluster].into_iter().flat_map(later) {
            let schema = manifest::schema(later.kind).expect("a schema");
            let found = at(&schema, later.path);
            assert!(found.is_some(), "{}: {}", later.kind, later.path);
            if let super::Uses::AllBut(good) = later.uses
                && let Some(choices) = found
                    .and_then(|schema| schema.get("enum"))
                    .and_then(Value::as_array)
            {
                assert!(
                    good.iter()
                        .all(|word| choices.contains(&Value::from(*word))),
                    "{}",
                    later.path
                );
            }
        }
    }
}
