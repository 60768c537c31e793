//! Names of what the operator makes for an object. Others look for it by these names too.

use mesh_core::hex;
use sha2::{Digest, Sha256};

/// Longest name of a Service.
const LONGEST: usize = 63;

/// Name of all children of an InferenceBackend, and of the ServiceAccount that its pods run as.
pub fn child_name(backend: &str) -> String {
    let name = format!("{backend}-worker");
    if name.len() <= LONGEST {
        return name;
    }
    let hash = hex(&Sha256::digest(backend.as_bytes())[..4]);
    let kept: String = backend
        .chars()
        .take(LONGEST - "-worker-".len() - hash.len())
        .collect();
    format!("{kept}-{hash}-worker")
}
