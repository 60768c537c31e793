//! Where objects are used: what a field may say depends on it.

/// The home of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Home {
    /// One machine: files of kinds, one process.
    #[default]
    Machine,
    /// A cluster: objects of its API server, pods.
    Cluster,
}
