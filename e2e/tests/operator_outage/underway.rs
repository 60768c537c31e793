//! What is under way while the API server or etcd is gone: a fetch into a volume, and pods that move to volumes of their
//! own. Neither begins anew, and neither ends before its time.

use mesh_e2e::operator::Operator;
use mesh_e2e::stage::{Stage, backend, cache, namespace};
use serde_json::{Value, json};

use super::SOON;

const MOVING: [&str; 2] = ["deployment/a-worker", "statefulset/a-worker"];

/// What had begun: names and uids.
pub(super) struct Underway {
    room: String,
    begun: Vec<[String; 2]>,
}

fn kept(room: &str, name: &str, storage: &Value) -> Value {
    let mut kept = cache(room, name);
    kept["spec"]["storage"] = storage.clone();
    kept
}

/// Claims, Jobs and workloads of a room.
fn there(stage: &Stage, room: &str) -> anyhow::Result<Vec<[String; 2]>> {
    let kinds = "deployments,statefulsets,jobs,persistentvolumeclaims";
    let found = stage.get(&["-n", room, kinds])?;
    let all = found["items"].as_array().into_iter().flatten();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |one: &Value| {
        let (kind, meta) = (word(&one["kind"]), &one["metadata"]);
        let name = format!("{}/{}", kind.to_lowercase(), word(&meta["name"]));
        [name, word(&meta["uid"])]
    };
    Ok(all.map(one).collect())
}

/// Begins both.
pub(super) fn begun(stage: &Stage, room: &str) -> Underway {
    let (local, volume) = (
        json!({"nodeLocal": {"storageClassName": "disks", "diskBudget": "1Gi"}}),
        json!({"persistentVolumeClaim": {"size": "1Gi"}}),
    );
    stage.apply(&namespace(room)).unwrap();
    stage
        .apply(&kept(room, "model", &json!({"emptyDir": {}})))
        .unwrap();
    stage.apply(&kept(room, "files", &volume)).unwrap();
    stage.apply(&backend(room, "a", "model", 1)).unwrap();
    let has = |what: &'static str, count: usize| {
        let found = || {
            let all = there(stage, room)?;
            let here = all.iter().any(|[name, _]| name.starts_with(what));
            Ok((here && all.len() == count).then_some(all))
        };
        stage
            .until(&format!("{what} is there"), SOON, found)
            .unwrap()
    };
    has(MOVING[0], 3);
    stage.apply(&kept(room, "model", &local)).unwrap();
    let begun = has(MOVING[1], 4);
    Underway {
        room: room.to_owned(),
        begun,
    }
}

impl Underway {
    /// All of it is as it was, and the move ends where it should.
    pub(super) fn goes_on(&self, stage: &Stage, operator: &Operator) {
        stage.settled(operator, SOON).unwrap();
        assert_eq!(there(stage, &self.room).unwrap(), self.begun);
        stage.serves(&self.room, MOVING[1]).unwrap();
        let mut wanted = self.begun.clone();
        wanted.retain(|[name, _]| name != MOVING[0]);
        let done = || Ok((there(stage, &self.room)? == wanted).then_some(()));
        stage.until("what served before goes", SOON, done).unwrap();
    }
}
