//! What a backend outside refers to and only gateways may read: its key, its proxy's, and the authority that it proves itself by.
//! The operator reads none of it. Whether a gateway may is a matter of what was installed; whether an authority is there, and is
//! one, the gateways say. Refuses to call an authority well of which no gateway has spoken yet.

use mesh_core::Kept;
use mesh_crds::condition::{self, Condition, ConditionStatus};
use mesh_crds::reference::{CaRef, KeyRef};
use mesh_crds::{AuthorityState, InferenceBackend};

use crate::args::Run;
use crate::status::Fact;
use crate::world::Read;

/// What the gateways may read, by what was installed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted<'o> {
    mesh_namespace: &'o str,
    /// Further namespaces.
    namespaces: &'o [String],
    /// The only Secrets, or none for any.
    secrets: &'o [String],
}

impl<'o> From<&'o Run> for Granted<'o> {
    fn from(options: &'o Run) -> Self {
        Self {
            mesh_namespace: &options.mesh_namespace,
            namespaces: &options.credential_namespaces,
            secrets: &options.secret_names,
        }
    }
}

/// Why an authority is not usable.
const MISSING: &str = "AuthorityMissing";
const INVALID: &str = "AuthorityInvalid";
/// What of a backend gateways may not read.
const NOT_GRANTED: &str = "NotGranted";

/// Whether gateways may read the Secrets with the backend's keys; none if it has none.
pub(super) fn credentials(
    granted: Granted<'_>,
    backend: &InferenceBackend,
    namespace: &str,
) -> Option<Result<(), String>> {
    let read = |secret| granted.read((Kept::Secret, secret), namespace);
    keys(backend).map(read).reduce(Result::and)
}

/// The backend's own key first.
fn keys(backend: &InferenceBackend) -> impl Iterator<Item = &KeyRef> {
    let cloud = backend.spec.cloud.iter();
    let external = backend.spec.external.iter();
    let cloud = cloud.map(|one| (one.credentials.as_ref(), one.proxy.as_ref()));
    let external = external.map(|one| (one.credentials.as_ref(), one.proxy.as_ref()));
    let all = cloud.chain(external).flat_map(|(own, proxy)| {
        let proxy = proxy.and_then(|proxy| proxy.credentials.as_ref());
        [own, proxy]
    });
    all.flatten()
        .filter_map(|credentials| credentials.secret_ref.as_ref())
}

impl Granted<'_> {
    /// Whether gateways may read an object.
    fn read(self, (kept, entry): (Kept, &KeyRef), namespace: &str) -> Result<(), String> {
        let name = &entry.name.0;
        let mut further = self.namespaces.iter();
        let readable = namespace == self.mesh_namespace || further.any(|one| one == namespace);
        let named =
            kept == Kept::ConfigMap || self.secrets.is_empty() || self.secrets.contains(name);
        let value = match (readable, named) {
            (true, true) => return Ok(()),
            (false, _) => "credentialNamespaces",
            (true, false) => "secretNames",
        };
        let kind = kept.kind();
        Err(format!(
            "the gateways may not read {kind} {name} of namespace {namespace}: whoever installed the mesh adds it to gateway.{value}"
        ))
    }
}

/// What is known of the authority that a backend proves itself by; none if it names none. `said`: by the gateways, now.
pub(super) fn authority(
    granted: Granted<'_>,
    read: &Read,
    backend: &InferenceBackend,
    said: Option<AuthorityState>,
) -> Option<Fact> {
    let about = condition::AUTHORITY_READABLE;
    let (kept, entry) = named(backend)?;
    let namespace = read.namespace();
    if let Err(message) = granted.read((kept, entry), &namespace) {
        return Some(Fact::no(about, NOT_GRANTED, message));
    }
    let place = format!(
        "entry {} of {} {namespace}/{}",
        entry.key,
        kept.kind(),
        entry.name.0
    );
    // Gateways that have just started or could not ask, or a leader that has, know nothing yet: what was known stays.
    let fact = match said.or_else(|| known(read)) {
        Some(AuthorityState::Readable) => Fact::yes(
            about,
            "the gateways trust the certificates there, and no others",
        ),
        Some(AuthorityState::Missing) => Fact::no(
            about,
            MISSING,
            format!("{place} is not there, or the gateways may not read it"),
        ),
        Some(AuthorityState::Invalid) => Fact::no(
            about,
            INVALID,
            format!("{place} is not a certificate authority in PEM of at most 256 KiB"),
        ),
        None => Fact::new(
            about,
            ConditionStatus::Unknown,
            condition::REASON_PROGRESSING,
            "no gateway has read the authority yet, or could ask the API server for it",
        ),
    };
    Some(fact)
}

fn named(backend: &InferenceBackend) -> Option<(Kept, &KeyRef)> {
    let cloud = backend.spec.cloud.as_ref().and_then(|one| one.tls.as_ref());
    let external = backend.spec.external.as_ref();
    let tls = cloud.or_else(|| external.and_then(|one| one.tls.as_ref()))?;
    let CaRef {
        secret, config_map, ..
    } = &tls.ca_ref;
    let secret = secret.as_ref().map(|entry| (Kept::Secret, entry));
    secret.or_else(|| Some((Kept::ConfigMap, config_map.as_ref()?)))
}

/// What the object says already of this very spec.
fn known(read: &Read) -> Option<AuthorityState> {
    let conditions = read.raw.data.pointer("/status/conditions")?.clone();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).ok()?;
    let about = |one: &Condition| {
        one.type_ == condition::AUTHORITY_READABLE
            && one.observed_generation == read.raw.metadata.generation
    };
    let found = conditions.into_iter().find(about)?;
    match (found.status, found.reason.as_str()) {
        (ConditionStatus::True, _) => Some(AuthorityState::Readable),
        (_, MISSING) => Some(AuthorityState::Missing),
        (_, INVALID) => Some(AuthorityState::Invalid),
        _ => None,
    }
}

/// What keeps the backend from being ready: reason and message, and whether only somebody's help goes on.
pub(super) fn blocked(authority: &Fact) -> Option<(String, String, bool)> {
    let (status, reason, message) = authority.said();
    let reason = match reason {
        NOT_GRANTED => "AuthorityUnreadable",
        reason => reason,
    };
    let stuck = status == "False";
    (status != "True").then(|| (reason.to_owned(), message.to_owned(), stuck))
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use mesh_crds::AuthorityState::{self, Invalid, Missing, Readable};
    use mesh_crds::{InferenceBackend, Object};
    use serde_json::{Value, json};

    use super::{Granted, authority, blocked, credentials};
    use crate::status::Fact;
    use crate::world::Read;

    const HOME: &str = "mesh-system";
    const MAP: &str = r#"{"caRef": {"configMap": {"name": "ca", "key": "ca.crt"}}}"#;
    const SECRET: &str = r#"{"caRef": {"secret": {"name": "ca", "key": "ca.crt"}}}"#;

    fn granted<'o>(namespaces: &'o [String], secrets: &'o [String]) -> Granted<'o> {
        Granted {
            mesh_namespace: HOME,
            namespaces,
            secrets,
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn read(namespace: &str, external: &Value, conditions: &Value) -> Read {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "inferencemesh.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": {"namespace": namespace, "name": "vllm", "generation": 3},
            "spec": {"external": external, "models": [{"name": "a"}]},
            "status": {"conditions": conditions},
        }))
        .expect("an object");
        Read::new(std::sync::Arc::new(object))
    }

    fn proven(tls: &str) -> Value {
        let tls: Value = serde_json::from_str(tls).expect("JSON");
        json!({"url": "https://vllm.lab.example/v1", "tls": tls})
    }

    fn backend(read: &Read) -> &InferenceBackend {
        match read.object() {
            Some(Object::InferenceBackend(backend)) => backend,
            other => panic!("{other:?}: {:?}", read.faults()),
        }
    }

    fn said(read: &Read, said: Option<AuthorityState>) -> Fact {
        authority(granted(&[], &[]), read, backend(read), said).expect("it names one")
    }

    #[test]
    fn what_the_gateways_say_of_an_authority_is_said_and_holds_the_backend_up() {
        let fresh = read(HOME, &proven(MAP), &json!([]));
        for (told, status, reason, stuck) in [
            (Some(Readable), "True", "Succeeded", None),
            (Some(Missing), "False", "AuthorityMissing", Some(true)),
            (Some(Invalid), "False", "AuthorityInvalid", Some(true)),
            (None, "Unknown", "Progressing", Some(false)),
        ] {
            let fact = said(&fresh, told);
            assert_eq!(fact.said().0, status, "{told:?}");
            assert_eq!(fact.said().1, reason, "{told:?}");
            let held = blocked(&fact);
            assert_eq!(held.as_ref().map(|held| held.2), stuck, "{told:?}");
            assert!(held.is_none_or(|held| held.0 == reason));
        }
        let missing = said(&fresh, Some(Missing));
        assert!(
            missing
                .said()
                .2
                .contains("entry ca.crt of ConfigMap mesh-system/ca")
        );
        let invalid = said(&fresh, Some(Invalid));
        assert!(invalid.said().2.contains("at most 256 KiB"));
    }

    #[test]
    fn silence_changes_nothing_of_what_was_known_of_this_spec_and_is_no_word_on_another() {
        let old = |generation: i64| {
            json!([{"type": "AuthorityReadable", "status": "False", "reason": "AuthorityInvalid", "message": "no",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation}])
        };
        let known = read(HOME, &proven(MAP), &old(3));
        assert_eq!(said(&known, None).said().1, "AuthorityInvalid");
        assert_eq!(said(&known, Some(Readable)).said().0, "True");
        let edited = read(HOME, &proven(MAP), &old(2));
        assert_eq!(said(&edited, None).said().0, "Unknown");
    }

    #[test]
    fn whose_namespace_or_secret_gateways_may_not_read_is_told_who_can_let_them() {
        for (namespace, tls, (namespaces, secrets), value) in [
            ("team", MAP, ("", ""), Some("gateway.credentialNamespaces")),
            (
                "team",
                SECRET,
                ("lab", ""),
                Some("gateway.credentialNamespaces"),
            ),
            ("team", MAP, ("lab team", ""), None),
            (HOME, SECRET, ("", "cloud"), Some("gateway.secretNames")),
            (HOME, SECRET, ("", "cloud ca"), None),
            (HOME, MAP, ("", "cloud"), None),
        ] {
            let there = read(namespace, &proven(tls), &json!([]));
            let (namespaces, secrets) = (words(namespaces), words(secrets));
            let granted = granted(&namespaces, &secrets);
            // A gateway of before may have read it.
            let fact = authority(granted, &there, backend(&there), Some(Readable));
            let fact = fact.expect("it names one");
            match value {
                None => assert_eq!(fact.said().0, "True", "{namespace} {tls}"),
                Some(value) => {
                    assert_eq!(fact.said().1, "NotGranted");
                    assert!(fact.said().2.contains(value), "{:?}", fact.said());
                    let held = blocked(&fact).expect("it holds it up");
                    assert_eq!((held.0.as_str(), held.2), ("AuthorityUnreadable", true));
                }
            }
        }
    }

    #[test]
    fn a_proxys_key_is_one_of_the_backends_and_who_names_nothing_is_told_nothing() {
        let key = |name: &str| json!({"secretRef": {"name": name, "key": "k"}});
        let both = json!({"url": "https://a.example/v1", "credentials": key("cloud"),
            "proxy": {"url": "http://proxy.example:3128", "credentials": key("proxy")}});
        let there = read(HOME, &both, &json!([]));
        let of = |names: &str| credentials(granted(&[], &words(names)), backend(&there), HOME);
        assert_eq!(of("cloud proxy"), Some(Ok(())));
        let refused = of("cloud").expect("it has keys").expect_err("the proxy's");
        assert!(
            refused.contains("Secret proxy of namespace mesh-system"),
            "{refused}"
        );
        let refused = of("proxy").expect("it has keys").expect_err("its own");
        assert!(refused.contains("Secret cloud"), "{refused}");
        let plain =
            json!({"url": "https://a.example/v1", "proxy": {"url": "http://proxy.example:3128"}});
        let there = read(HOME, &plain, &json!([]));
        let granted = granted(&[], &[]);
        assert!(credentials(granted, backend(&there), HOME).is_none());
        assert!(authority(granted, &there, backend(&there), Some(Missing)).is_none());
    }
}
