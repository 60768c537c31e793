//! ConfigMap `mesh-trust`: what members take as proof, in the mesh namespace and wherever there are model
//! servers or sidecars; gone where there are none any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use mesh_core::pushed::{Floor, Floors};
use mesh_core::{PrivacyLevel, SovereigntyClass};
use mesh_crds::child_name;
use mesh_identity::TrustFiles;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::{Error, Writer, digest};
use crate::authority::SECRET;
use crate::inject::namespace_asks;
use crate::keeper::Proof;
use crate::pass::setback::{self, Setbacks};
use crate::policy;
use crate::world::{MANAGED, World};

/// Its name everywhere.
pub(crate) const NAME: &str = "mesh-trust";
/// Port of the floor.
const TLS: u16 = 8444;
/// Changes that come in a burst are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Everything is looked at at least this often.
const RESYNC: Duration = Duration::from_mins(1);
/// After something could not be written.
const RETRY: Duration = Duration::from_secs(2);

/// Publishes what is trusted. Only the leader does.
pub(crate) struct Publisher {
    /// Namespaces where it was refused, which rest.
    pub(crate) setbacks: Setbacks,
    pub(crate) writer: Writer,
    pub(crate) world: World,
    pub(crate) mesh_namespace: String,
    pub(crate) proof: watch::Receiver<Option<Proof>>,
}

/// What was published.
pub(crate) struct Announced {
    world: World,
    mesh_namespace: String,
}

impl Announced {
    /// Whether members are told of these authorities, and of no others. The mesh namespace is told last, so it speaks for
    /// all whom that could be told. None while that is not known.
    pub(crate) fn says(&self, authorities: &str) -> Option<bool> {
        if !self.world.missing().is_empty() {
            return None;
        }
        let home = ObjectRef::new(NAME).within(&self.mesh_namespace);
        let told = self.world.trusts.get(&home);
        let data = told.as_ref().and_then(|told| told.data.as_ref());
        let entry = data.and_then(|data| data.get(TrustFiles::AUTHORITIES));
        Some(entry.is_some_and(|entry| entry == authorities))
    }
}

impl Publisher {
    /// What it has published.
    pub(crate) fn announced(&self) -> Announced {
        Announced {
            world: self.world.clone(),
            mesh_namespace: self.mesh_namespace.clone(),
        }
    }

    /// Until dropped.
    pub(crate) async fn run(mut self) {
        let mut changed = self.world.changed();
        loop {
            changed.borrow_and_update();
            let proof = self.proof.borrow_and_update().clone();
            let good = match proof {
                Some(proof) if self.world.missing().is_empty() => self.once(&proof).await,
                _ => true,
            };
            tokio::time::sleep(DEBOUNCE).await;
            let wait = if good { RESYNC } else { RETRY };
            let due = self.setbacks.first(Instant::now());
            let wait = due.map_or(wait, |due| wait.min(due));
            tokio::select! {
                news = changed.changed() => if news.is_err() { return },
                news = self.proof.changed() => if news.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Where pods have sidecars, or get them: told before the first of them is made.
    fn injected(&self) -> BTreeSet<String> {
        let namespaces = self.world.namespaces.state();
        let asking = namespaces.iter().filter(|namespace| {
            let (name, labels) = (namespace.name_any(), namespace.labels());
            namespace.metadata.deletion_timestamp.is_none()
                && namespace_asks(&self.mesh_namespace, &name, labels).is_some()
        });
        let pods = self.world.injected.state();
        let homes = pods.iter().filter_map(|pod| pod.namespace());
        asking
            .map(|namespace| namespace.name_any())
            .chain(homes)
            .collect()
    }

    /// Policies of the mesh namespace as gateways decide by them: what was accepted of them last.
    fn accepted(&self) -> Vec<Value> {
        let (policies, revisions) = (self.world.policies.state(), self.world.revisions.state());
        accepted(&policies, &revisions, &self.mesh_namespace)
    }

    /// True if nothing may be done by trying again soon.
    async fn once(&mut self, proof: &Proof) -> bool {
        // A namespace with a mesh of its own is told by that one.
        let others = self.world.own_meshes();
        let mut wanted = namespaces(&self.world.backends.state());
        wanted.extend(self.injected());
        wanted.retain(|namespace| !others.contains(namespace));
        wanted.insert(self.mesh_namespace.clone());
        let policies = self.accepted();
        let backends = self.world.backends.state();
        let floors = floors(&policies, &backends, &self.mesh_namespace).write();
        let mut left = self.world.trusts.state();
        left.retain(|old| {
            let ours = old.labels().get(MANAGED.0).map(String::as_str) == Some(MANAGED.1);
            let namespace = old.namespace().unwrap_or_default();
            ours && !wanted.contains(&namespace) && !others.contains(&namespace)
        });
        let homes = left.iter().filter_map(|old| old.namespace());
        let all = wanted.iter().cloned().chain(homes);
        self.setbacks
            .only(&all.map(|namespace| key(&namespace)).collect());
        let mut good = true;
        wanted.remove(&self.mesh_namespace);
        // Last, as [`Announced`] has it.
        for namespace in wanted.iter().chain([&self.mesh_namespace.clone()]) {
            let object = object(namespace, proof, &floors);
            let of = (Some(digest(&json!(object.data))), None);
            if self.rests(namespace, &of) {
                continue;
            }
            let done = self.writer.apply(object, &self.world.trusts).await;
            good &= self.told(namespace, of, &done);
        }
        for old in left {
            let (namespace, of) = (old.namespace().unwrap_or_default(), (old.uid(), None));
            if !self.rests(&namespace, &of) {
                let done = self.writer.delete(&*old).await;
                good &= self.told(&namespace, of, &done);
            }
        }
        good
    }

    fn rests(&self, namespace: &str, of: &setback::Version) -> bool {
        let resting = self.setbacks.resting(&key(namespace), of, Instant::now());
        resting.is_some()
    }

    /// True if it was done, or will not be by trying again soon.
    fn told(&mut self, namespace: &str, of: setback::Version, done: &Result<(), Error>) -> bool {
        self.setbacks
            .noted(key(namespace), of, done, Instant::now());
        let Err(error) = done else { return true };
        // A namespace that is going away takes no new objects.
        tracing::warn!(namespace, reason = error.reason(), %error, "members there are not told whom to trust");
        error.refused() || error.stalls()
    }
}

fn key(namespace: &str) -> setback::Key {
    (
        String::from("ConfigMap"),
        namespace.to_owned(),
        NAME.to_owned(),
    )
}

/// Removes the authority itself when the release goes; what tells whom to trust goes as a child like others.
pub(crate) async fn forget(client: &Client, mesh_namespace: &str) -> kube::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), mesh_namespace);
    match secrets.delete(SECRET, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where model servers of this cluster are declared.
fn namespaces(backends: &[Arc<DynamicObject>]) -> BTreeSet<String> {
    let served = |backend: &&Arc<DynamicObject>| {
        backend.metadata.deletion_timestamp.is_none()
            && backend
                .data
                .pointer("/spec/inCluster")
                .is_some_and(Value::is_object)
    };
    let found = backends.iter().filter(served);
    found.filter_map(|backend| backend.namespace()).collect()
}

/// The newest accepted specs of policies of the mesh namespace: one that was never accepted says nothing, and one
/// whose spec of today was not says what it said before.
fn accepted(
    policies: &[Arc<DynamicObject>],
    revisions: &[Arc<ControllerRevision>],
    home: &str,
) -> Vec<Value> {
    let ours = policies
        .iter()
        .filter(|policy| policy.namespace().as_deref() == Some(home));
    ours.filter_map(|policy| policy::newest(revisions, policy))
        .collect()
}

/// The floors that accepted policies name and that pods can reach, for sidecars that no gateway answers. Of a floor
/// whose class is not known yet nobody is told.
fn floors(accepted: &[Value], backends: &[Arc<DynamicObject>], home: &str) -> Floors {
    let named = accepted.iter().filter_map(|spec| {
        let name = spec.pointer("/floor/backendRef/name")?.as_str()?;
        let trim = spec.pointer("/floor/overflow");
        let trim = trim.and_then(Value::as_str) != Some("Refuse");
        Some((name, trim))
    });
    let found = named.filter_map(|(name, trim)| {
        let backend = backends.iter().find(|backend| {
            backend.namespace().as_deref() == Some(home) && backend.name_any() == name
        });
        floor(backend?, home, trim)
    });
    Floors::new(found.collect())
}

fn floor(backend: &DynamicObject, home: &str, trim: bool) -> Option<Floor> {
    let at = |path: &str| backend.data.pointer(path);
    let model_ref = at("/spec/inCluster/modelRef/name")?.as_str()?;
    let class = at("/status/sovereignty/class")?;
    let models = at("/spec/models").and_then(Value::as_array);
    let models = models.map(Vec::as_slice).unwrap_or_default();
    let word = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let first = models.first();
    let model = first.and_then(|model| word(model, "target").or_else(|| word(model, "name")));
    let aliases = models
        .iter()
        .filter_map(|model| model.get("aliases")?.as_array());
    let aliases = aliases
        .flatten()
        .filter_map(|alias| Some(alias.as_str()?.to_owned()));
    let names = models.iter().filter_map(|model| word(model, "name"));
    let level = at("/spec/maxPrivacy").and_then(Value::as_str);
    let name = backend.name_any();
    let child = child_name(&name);
    Some(Floor {
        url: format!("https://{child}.{home}.svc:{TLS}").parse().ok()?,
        account: format!("{home}/{child}"),
        model: model.unwrap_or_else(|| model_ref.to_owned()),
        names: names.chain(aliases).filter(|name| name != "*").collect(),
        class: SovereigntyClass::deserialize(class).ok()?,
        max_privacy: match level {
            None => PrivacyLevel::Restricted,
            Some(word) => word.to_ascii_lowercase().parse().ok()?,
        },
        backend: name,
        trim,
    })
}

fn object(namespace: &str, proof: &Proof, floors: &str) -> ConfigMap {
    let labels = [
        MANAGED,
        ("app.kubernetes.io/part-of", "inference-mesh"),
        ("app.kubernetes.io/name", NAME),
    ];
    let data = [
        (TrustFiles::AUTHORITIES, proof.authorities.as_str()),
        (TrustFiles::KEYS, &proof.keys),
        (TrustFiles::ISSUER, &proof.issuer),
        (TrustFiles::FLOOR, floors),
    ];
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(owned(&labels)),
            ..ObjectMeta::default()
        },
        data: Some(owned(&data)),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use kube::api::DynamicObject;
    use serde_json::{Value, json};

    use super::{accepted, floors, namespaces};

    fn object(namespace: &str, spec: &Value, deleted: bool) -> Arc<DynamicObject> {
        let mut metadata = json!({"namespace": namespace, "name": "x"});
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let object = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "X", "metadata": metadata, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn namespaces_with_model_servers_are_told_and_others_are_not() {
        let (pods, cloud) = (json!({"inCluster": {}}), json!({"cloud": {}}));
        let found = namespaces(&[
            object("team", &pods, false),
            object("team", &pods, false),
            object("clouds", &cloud, false),
            object("going", &pods, true),
        ]);
        assert_eq!(found, BTreeSet::from([String::from("team")]));
    }

    #[test]
    fn floors_are_those_of_the_mesh_namespace_with_a_class_and_how_pods_reach_them() {
        let policy = |name: &str| json!({"floor": {"backendRef": {"name": name}}});
        let policies = [
            policy("floor"),
            policy("floor"),
            policy("new"),
            policy("gone"),
            json!({}),
        ];
        let backend = |namespace: &str, name: &str, class: Option<&str>| {
            let class = class.map(|class| json!({"sovereignty": {"class": class}}));
            Arc::new(
                serde_json::from_value(json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "X",
                    "metadata": {"namespace": namespace, "name": name}, "status": class,
                    "spec": {"inCluster": {"modelRef": {"name": "smollm2"}}, "maxPrivacy": "Confidential",
                        "models": [{"name": "small", "target": "real", "aliases": ["tiny", "*"]}, {"name": "other"}]}}))
                .expect("an object"),
            )
        };
        let backends = [
            backend("mesh-system", "floor", Some("RentedHardware")),
            backend("mesh-system", "new", None),
            backend("team", "gone", Some("OwnHardware")),
        ];
        let found = floors(&policies, &backends, "mesh-system").write();
        let found: Value = serde_json::from_str(&found).expect("JSON");
        assert_eq!(
            found,
            json!({"version": 1, "floors": [{"backend": "floor", "url": "https://floor-worker.mesh-system.svc:8444/",
                "account": "mesh-system/floor-worker", "model": "real", "names": ["small", "other", "tiny"],
                "class": "RentedHardware", "maxPrivacy": "confidential", "trim": true}]})
        );
    }

    #[test]
    fn a_floor_is_where_the_accepted_spec_says_and_not_where_todays_does() {
        let policy = |namespace: &str, uid: &str| {
            let object = json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy",
                "metadata": {"namespace": namespace, "name": uid, "uid": uid},
                "spec": {"floor": {"backendRef": {"name": "of-today"}}}});
            Arc::new(serde_json::from_value::<DynamicObject>(object).expect("an object"))
        };
        let revision = |namespace: &str, uid: &str, number: i64, floor: &str| {
            let object = json!({"metadata": {"namespace": namespace, "name": format!("{uid}-{number}"), "ownerReferences": [
                    {"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "SovereigntyPolicy", "name": uid, "uid": uid}]},
                "revision": number, "data": {"spec": {"floor": {"backendRef": {"name": floor}}}}});
            Arc::new(serde_json::from_value(object).expect("a revision"))
        };
        let policies = [
            policy("mesh-system", "kept"),
            policy("mesh-system", "never"),
            policy("team", "theirs"),
        ];
        let revisions = [
            revision("mesh-system", "kept", 2, "newest"),
            revision("mesh-system", "kept", 1, "older"),
            // Whoever may write in another namespace says nothing of ours.
            revision("team", "never", 1, "forged"),
            revision("team", "theirs", 1, "own"),
        ];
        assert_eq!(
            accepted(&policies, &revisions, "mesh-system"),
            [json!({"floor": {"backendRef": {"name": "newest"}}})]
        );
    }
}
