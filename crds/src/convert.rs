//! From checked objects to the snapshot that the data plane decides from. Sees all objects at once,
//! so it finds what one file cannot show: names given twice, references to nothing, a floor that
//! cannot be one. Refuses to touch the world: the time and the addresses of hosts are arguments.

mod backend;
mod endpoint;
mod model;
mod peer;
mod policy;
mod promise;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use mesh_core::{ObjectId, Pod, Snapshot};

pub use model::{AccessSpec, ArtifactSpec, CredentialsSpec, ModelSpec, SamplingSpec, SourceSpec};

use crate::kind::Kind;
use crate::parse::{Document, Object};
use crate::problem::{Problem, ProblemKind, Severity};

/// Most times that a document is replaced by another.
const MOST_REPLACED: usize = 8;

/// The pods that are ready to serve, by namespace and name of their InferenceBackend.
pub type PodMap = BTreeMap<(String, String), Vec<Arc<Pod>>>;

/// Something else for a document, by what is wrong with it and how often it was asked before.
pub type Replace<'a> = dyn Fn(&Document, &[Problem], usize) -> Option<Document> + 'a;

/// What a translation needs to know besides the objects.
#[derive(Clone, Copy)]
pub struct ConvertInput<'a> {
    /// Namespace of the mesh itself, and of objects that name none. On one machine `default`.
    pub mesh_namespace: &'a str,
    /// Number of the snapshot.
    pub generation: u64,
    /// Time of the translation.
    pub now: jiff::Timestamp,
    /// Addresses of a host name; called for names only, never for addresses. May give nothing.
    pub resolve: &'a dyn Fn(&str) -> Vec<IpAddr>,
    /// In a cluster: the pods of `inCluster` backends. On one machine: `None`, they are this process.
    pub pods: Option<&'a PodMap>,
    /// Networks of the cluster's pods and Services, by [`cluster_networks`](crate::cluster_networks); on one machine none.
    pub cluster_networks: &'a Arc<[IpNet]>,
}

/// What a translation gives.
#[derive(Debug, Clone)]
pub struct Converted {
    /// What the data plane decides from.
    pub snapshot: Snapshot,
    /// The models, for whoever fetches files and runs engines. Sorted by namespace and name.
    pub model_caches: Vec<ModelSpec>,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
}

/// Translates all objects, or says everything that is wrong with them.
pub fn to_snapshot(
    documents: &[Document],
    input: &ConvertInput<'_>,
) -> Result<Converted, Vec<Problem>> {
    let world = World::new(documents, *input);
    let mut problems = world.duplicates();
    let mut snapshot = Snapshot::empty(input.mesh_namespace, input.now);
    snapshot.generation = input.generation;
    let mut model_caches = Vec::new();
    for document in documents {
        match &document.object {
            Object::ModelCache(object) => {
                model_caches.extend(model::convert(&world, document, object, &mut problems));
            }
            Object::InferenceBackend(object) => {
                let backend = backend::convert(&world, document, object, &mut problems);
                snapshot.backends.extend(backend.map(Arc::new));
            }
            Object::SovereigntyPolicy(object) => {
                let policy = policy::convert(&world, document, object, &mut problems);
                snapshot.policies.extend(policy.map(Arc::new));
            }
        }
    }
    if problems.iter().any(Problem::error) {
        return Err(problems);
    }
    snapshot.backends.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot.policies.sort_by(|a, b| a.id.cmp(&b.id));
    model_caches.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(Converted {
        snapshot,
        model_caches,
        warnings: problems,
    })
}

/// As [`to_snapshot`], but an object with a fault is left out by itself, and whatever needs it: in a
/// cluster nobody can mend another's object. `replace` may give something else for a faulty document, told
/// what is wrong with it and how often it was asked before; a policy must be replaced by a stricter one,
/// never left out.
pub fn to_snapshot_lenient(
    mut documents: Vec<Document>,
    input: &ConvertInput<'_>,
    replace: &Replace<'_>,
) -> (Converted, Vec<Problem>) {
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let mut told = Vec::new();
    loop {
        let problems = match to_snapshot(&documents, input) {
            Ok(converted) => return (converted, told),
            Err(problems) => problems,
        };
        let mut faulty: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
        for problem in problems.iter().filter(|problem| problem.error()) {
            let of_file = faulty.entry(problem.file.clone()).or_default();
            of_file.push(problem.clone());
        }
        told.extend(problems);
        documents = documents
            .into_iter()
            .filter_map(|document| {
                let Some(problems) = faulty.get(document.file()) else {
                    return Some(document);
                };
                let before = asked.entry(document.file().to_owned()).or_default();
                *before += 1;
                (*before <= MOST_REPLACED)
                    .then(|| replace(&document, problems, *before - 1))
                    .flatten()
            })
            .collect();
    }
}

/// All objects by kind, namespace and name.
struct World<'a> {
    input: ConvertInput<'a>,
    documents: &'a [Document],
    index: BTreeMap<(Kind, &'a str, &'a str), &'a Document>,
}

impl<'a> World<'a> {
    fn new(documents: &'a [Document], input: ConvertInput<'a>) -> Self {
        let mut index = BTreeMap::new();
        for document in documents {
            let object = &document.object;
            let namespace = object.namespace().unwrap_or(input.mesh_namespace);
            index
                .entry((object.kind(), namespace, object.name()))
                .or_insert(document);
        }
        Self {
            input,
            documents,
            index,
        }
    }

    fn namespace(&self, document: &'a Document) -> &'a str {
        document
            .object
            .namespace()
            .unwrap_or(self.input.mesh_namespace)
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Document> {
        self.index.get(&(kind, namespace, name)).copied()
    }

    fn id(&self, document: &'a Document) -> ObjectId {
        let namespace = self.namespace(document);
        if namespace == self.input.mesh_namespace {
            ObjectId::home(namespace, document.object.name())
        } else {
            ObjectId::foreign(namespace, document.object.name())
        }
    }

    fn duplicates(&self) -> Vec<Problem> {
        let second = |document: &&Document| {
            let object = &document.object;
            let first = self.find(object.kind(), self.namespace(document), object.name())?;
            let again = !std::ptr::eq(first, *document);
            let (kind, name, line) = (
                object.kind(),
                object.name(),
                first.position("metadata.name").line,
            );
            let message = format!(
                "{kind} {name} exists already in {}:{line}: rename or remove one",
                first.file()
            );
            again.then(|| document.problem(ProblemKind::Reference, "metadata.name", message))
        };
        self.documents
            .iter()
            .collect::<Vec<_>>()
            .iter()
            .filter_map(second)
            .collect()
    }

    /// Names of a kind in a namespace, for messages.
    fn names(&self, kind: Kind, namespace: &str) -> String {
        let names: Vec<&str> = self
            .index
            .keys()
            .filter(|(known, place, _)| *known == kind && *place == namespace)
            .map(|(_, _, name)| *name)
            .collect();
        if names.is_empty() {
            String::from("there is none")
        } else {
            format!("there is {}", names.join(", "))
        }
    }
}

/// A problem that keeps nothing from working.
fn warning(document: &Document, kind: ProblemKind, field: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Warning,
        ..document.problem(kind, field, message)
    }
}

/// A value that reads well by its pattern and means nothing.
fn value<T, E: std::fmt::Display>(
    document: &Document,
    field: &str,
    read: Result<T, E>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    read.map_err(|error| {
        problems.push(document.problem(ProblemKind::Value, field, error.to_string()));
    })
    .ok()
}
