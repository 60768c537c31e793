//! Names that the mesh writes on objects or looks for: labels, annotations, finalizers.

/// API group of all kinds.
pub const GROUP: &str = "inferencemesh.dev";
/// Version of all kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version as written in `apiVersion`.
pub const API_VERSION: &str = "inferencemesh.dev/v1alpha1";

/// Label of a namespace or pod: `enabled`, `required` (namespace only) or `disabled` (pod only).
pub const INJECT: &str = "inferencemesh.dev/inject";
/// Label that the webhook sets on an injected pod.
pub const INJECTED: &str = "inferencemesh.dev/injected";
/// Annotation of a Job that fills a volume: how large the volume was when the Job was made.
pub const CAPACITY: &str = "inferencemesh.dev/capacity";
/// Label of a namespace whose pods may be confined.
pub const CONFINE: &str = "inferencemesh.dev/confine";
/// Label of a namespace: with [`OWN`] it has a mesh of its own, and a mesh of the whole cluster leaves it
/// alone. Only who may change namespaces can say so.
pub const MESH: &str = "inferencemesh.dev/mesh";
/// The value of [`MESH`].
pub const OWN: &str = "own";
/// Label of canaries in confined namespaces and of their Jobs; its value is the pool of nodes.
pub const CANARY: &str = "inferencemesh.dev/canary";
/// Value of [`CONFINE`] and [`INJECT`] that says yes.
pub const ENABLED: &str = "enabled";
/// Annotation of a pod or namespace: the lowest level of everything it sends.
pub const PRIVACY: &str = "inferencemesh.dev/privacy";
/// Label of the objects that the installation made.
pub const BOOTSTRAP: &str = "inferencemesh.dev/bootstrap";
/// Label of a policy that stands in for one that was never accepted; set by the gateway, on no object.
pub const STAND_IN: &str = "inferencemesh.dev/stand-in";
/// Label of everything that belongs to an InferenceBackend: its name.
pub const BACKEND: &str = "inferencemesh.dev/backend";
/// Label of everything that belongs to a ModelCache: its name.
pub const MODEL_CACHE: &str = "inferencemesh.dev/model-cache";
/// Label of the kept versions of a SovereigntyPolicy: its name.
pub const POLICY: &str = "inferencemesh.dev/policy";
/// Finalizer of objects with something to clean up outside their namespace.
pub const FINALIZER: &str = "inferencemesh.dev/cleanup";
/// Key of a namespace's own name, set by Kubernetes on every namespace.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
