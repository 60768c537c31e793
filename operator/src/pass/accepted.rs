//! What the operator itself does by accepted policies: it confines namespaces, and tells whether that holds.

use mesh_crds::condition;

use super::{Pass, Seen};
use crate::confine;
use crate::events::Story;
use crate::policy;
use crate::status::Fact;
use crate::world::Read;

impl Pass {
    /// Condition `Enforced`, with an event where it is not what it was.
    pub(super) async fn enforced(&self, read: &Read, confined: &confine::Plan) -> Fact {
        let (id, home) = (
            (read.namespace(), read.name()),
            &self.options.mesh_namespace,
        );
        let fact = confine::enforced(confined, (&self.world, &self.canaries), home, &id);
        if let Some(story) = changed(read, &fact) {
            self.events.tell(&read.raw, &story).await;
        }
        fact
    }

    /// Confines namespaces.
    pub(super) async fn confine(&self, seen: &Seen) -> confine::Plan {
        let accepted = self.accepted(seen);
        // Nobody else needs them meanwhile, and none of ours is kept across a wait.
        let mut setbacks = std::mem::take(&mut self.memory().confining);
        let around = (&self.writer, &self.world);
        let mut plan = confine::keep(around, &self.options, &accepted, &mut setbacks).await;
        self.memory().confining = setbacks;
        plan.look(&self.canaries);
        plan
    }

    /// The newest accepted spec of every policy.
    fn accepted(&self, seen: &Seen) -> Vec<confine::Accepted> {
        let revisions = self.world.revisions.state();
        let policies = seen.policies.iter().filter(|read| !read.deleted());
        let accepted = policies.filter_map(|read| {
            Some(confine::Accepted {
                namespace: read.namespace(),
                name: read.name(),
                spec: policy::newest(&revisions, &read.raw)?,
            })
        });
        accepted.collect()
    }
}

/// What is to be told: that it holds, or why it does not, if the status says something else.
fn changed(read: &Read, fact: &Fact) -> Option<Story> {
    let conditions = read.raw.data.pointer("/status/conditions");
    let mut all = conditions?.as_array()?.iter();
    let old = all.find(|one| one["type"] == condition::ENFORCED)?;
    let (status, reason, message) = fact.said();
    let same = old["status"] == status && old["reason"] == reason;
    let what = "ProveEgress";
    let story = match status {
        "True" => Story::normal("EgressEnforced", what, message),
        "False" => Story::warning(reason, what, message),
        _ => return None,
    };
    (!same).then(|| story.change())
}
