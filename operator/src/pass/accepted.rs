//! What the operator itself does by accepted policies: it confines namespaces.

use super::{Pass, Seen};
use crate::confine;

impl Pass {
    /// Confines namespaces.
    pub(super) async fn confine(&self, seen: &Seen) -> confine::Plan {
        let accepted = self.accepted(seen);
        confine::keep(&self.writer, &self.world, &self.options, &accepted).await
    }

    /// The newest accepted spec of every policy.
    fn accepted(&self, seen: &Seen) -> Vec<confine::Accepted> {
        let policies = seen.policies.iter().filter(|read| !read.deleted());
        let accepted = policies.filter_map(|read| {
            let newest = self.kept(read).pop()?;
            Some(confine::Accepted {
                namespace: read.namespace(),
                name: read.name(),
                spec: newest.data?.0.get("spec")?.clone(),
            })
        });
        accepted.collect()
    }
}
