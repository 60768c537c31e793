//! What a ModelCache's events tell, each once: sources tried in vain, files that came, Jobs that came to nothing.

use mesh_crds::condition;
use serde_json::Value;

use super::build::{Task, format};
use super::outcome::Phase;
use super::report::LISTED;
use super::room;
use super::state::State;
use crate::apply::{Error, Writer};
use crate::events::{Events, Story};
use crate::world::Read;

/// Events of one cache that are written one after another in one pass.
pub(super) const STORIES: usize = 16;

/// Writes a status and tells what is new; a status that is refused keeps no event back.
pub(super) async fn say(
    read: &Read,
    status: &Value,
    stories: impl Iterator<Item = Story>,
    (writer, events): (&Writer, &Events),
) -> Result<(), Error> {
    let said = writer.status(&read.raw, status).await;
    for story in stories {
        events.tell(&read.raw, &story).await;
    }
    said
}

/// What is new since the status was written last.
pub(super) fn stories(read: &Read, state: &State) -> Vec<Story> {
    let old = read.raw.data.get("status").cloned().unwrap_or_default();
    let mut stories = vain(&old, state);
    stories.extend(failed(state));
    stories.extend(found(&old, state));
    if let Some(more) = stories.len().checked_sub(STORIES).filter(|more| *more > 0) {
        stories.truncate(STORIES);
        let note = format!("{more} more; the status lists what is there");
        stories.push(Story::normal("More", "Fetch", note));
    }
    stories
}

/// Sources that did not have what they should: as many as the condition names, by which it is known that they
/// were told.
fn vain(old: &Value, state: &State) -> Vec<Story> {
    let all = old["conditions"].as_array().into_iter().flatten();
    let mut resolved = all.filter(|one| one["type"] == condition::SOURCE_RESOLVED);
    let said = resolved.next().and_then(|one| one["message"].as_str());
    let said = said.unwrap_or_default();
    let new = state
        .failures
        .iter()
        .take(LISTED)
        .filter(|one| !said.contains(&one.said()));
    let told = new.map(|failure| {
        let reason = if failure.quarantined {
            "Quarantined"
        } else if room::full(failure) {
            room::FULL
        } else {
            "SourceFailed"
        };
        Story::warning(reason, "Fetch", failure.to_string())
    });
    told.collect()
}

/// Files and smaller versions that were not known.
fn found(old: &Value, state: &State) -> Vec<Story> {
    let has = |list: &str, key: &str, value: &str| {
        let mut all = old[list].as_array().into_iter().flatten();
        all.any(|one| one[key] == *value)
    };
    let mut stories = Vec::new();
    for artifact in &state.known {
        if has("artifacts", "path", &artifact.path) {
            continue;
        }
        let mut spec = state.cache.spec.artifacts.iter();
        let declared = spec.any(|one| one.path == artifact.path && one.sha256.is_some());
        let reason = if declared { "Fetched" } else { "Pinned" };
        let (path, source, digest) = (&artifact.path, &artifact.source, &artifact.sha256.0);
        let note = format!("{path} from {source}: sha256 {digest}");
        stories.push(Story::normal(reason, "Fetch", note));
    }
    for made in state.derived.iter().filter_map(|one| one.made.as_ref()) {
        if !has("derived", "sha256", &made.sha256.0) {
            let note = format!("{}: sha256 {}", format(made.quantization), made.sha256.0);
            stories.push(Story::normal("Quantized", "Quantize", note));
        }
    }
    stories
}

/// Jobs that came to nothing.
fn failed(state: &State) -> Vec<Story> {
    let all = state.doings();
    let failed = all.filter(|doing| doing.outcome.phase == Phase::Failed);
    let told = failed.map(|doing| {
        let (action, what) = if matches!(doing.work.task, Task::Quantize { .. }) {
            ("Quantize", "QuantizeFailed")
        } else {
            ("Fetch", "FetchFailed")
        };
        let (reason, message) = doing.outcome.obstacle().unwrap_or_default();
        let note = format!("Job {}: {reason}: {message}", doing.work.name);
        Story::warning(what, action, note)
    });
    told.collect()
}
