//! What is written of a request: names, numbers and what its decision holds, never what its caller wrote.

use mesh_core::Snapshot;
use mesh_ledger::{Entry, Event};
use mesh_routing::{AUTO, LOCAL};

use super::Recorder;
use crate::Job;

/// In place of a name that nobody declares, which is the caller's text.
const UNDECLARED: &str = "(not declared)";

impl Recorder {
    /// What was decided.
    pub(super) fn decided(&self, job: &Job, snapshot: &Snapshot) -> Entry {
        let mut decision = job.decided.decision.clone();
        if !declared(&decision.model, snapshot) {
            UNDECLARED.clone_into(&mut decision.model);
        }
        let surface = job.request.surface.as_str();
        self.entry(Event::decided(&decision, &job.caller, surface, job.bytes))
    }
}

/// True if it is a name of the mesh or of somebody's declaration.
fn declared(model: &str, snapshot: &Snapshot) -> bool {
    let mut models = snapshot.backends.iter().flat_map(|backend| &backend.models);
    [AUTO, LOCAL].contains(&model) || models.any(|served| served.answers_to(model))
}
