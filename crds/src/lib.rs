//! The kinds of `inferencemesh.dev/v1alpha1`: types, schemas, validation rules, and the door through
//! which files of these kinds come in.
//!
//! One set of types is the API of the cluster and the file format of a machine. From the types come
//! the CustomResourceDefinitions ([`manifests`]) and the reference pages ([`reference_markdown`]);
//! against the same schema and the same CEL rules [`parse`] checks a file's text, and
//! [`to_snapshot`](convert::to_snapshot) turns what it gave into what the data plane decides from.
//!
//! ```text
//! text --parse--> Document (kind, positions) --to_snapshot--> Snapshot
//!         |                                        |
//!         +---------- Problem: file, line, field --+
//! ```
//!
//! Refuses: reading files, resolving names, talking to a cluster. All of it is pure.

#![expect(
    clippy::duplicated_attributes,
    reason = "kube reads a list of attributes for every printer column"
)]
#![expect(
    unreachable_pub,
    reason = "the schema derive copies every struct into a function body and keeps its `pub`"
)]

pub mod capability;
mod child;
mod compose;
pub mod condition;
pub mod convert;
pub mod endpoint;
pub mod guard;
mod header;
mod home;
pub mod in_cluster;
pub mod inference_backend;
pub mod kind;
pub mod label;
pub mod manifest;
pub mod mend;
pub mod model_cache;
mod networks;
mod object;
pub mod parse;
pub mod peer;
pub mod policy_rule;
pub mod policy_test;
pub mod problem;
pub mod reference;
mod reference_page;
mod rule;
pub mod source;
pub mod sovereignty_policy;
mod standing;
mod suggest;
mod support;
mod tree;
pub mod value;
pub mod vocabulary;
mod walk;

pub use child::child_name;
pub use convert::{
    ArtifactSpec, ConvertInput, Converted, ModelSpec, PodMap, SamplingSpec, SourceSpec,
    to_snapshot, to_snapshot_lenient,
};
pub use home::Home;
pub use inference_backend::{InferenceBackend, InferenceBackendSpec, InferenceBackendStatus};
pub use kind::Kind;
pub use manifest::manifests;
pub use model_cache::{ModelCache, ModelCacheSpec, ModelCacheStatus};
pub use networks::{NO_SERVICE_NETWORKS, cluster_networks, read_network};
pub use object::{node_evidence, object_file, parse_object};
pub use parse::{Document, Object, Parsed, decode, parse, parse_for};
pub use problem::{Position, Problem, ProblemKind, Severity};
pub use reference_page::reference_markdown;
pub use sovereignty_policy::{SovereigntyPolicy, SovereigntyPolicySpec, SovereigntyPolicyStatus};
pub use standing::{AuthorityState, Standing, Standings};
