//! The models of this process: which are declared, which are loaded, and why the others are not.
//! Loading happens beside the traffic; what was loaded before goes on until it is replaced.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use mesh_backends::{AttemptError, Backends, LocalModel, Outbound, Started};
use mesh_core::{BackendId, Capabilities, Place};
use mesh_crds::convert::ModelSpec;
use mesh_dataplane::source::Loaded;
use mesh_engine::{Engine, EngineOptions};
use mesh_models::Resolver;
use mesh_runtime::Shutdown;
use tokio::sync::watch;

use crate::catalog;
use crate::models::Bars;
use crate::up::local::Floor;

/// How long after a failure it is tried again: a source may have come back.
const AGAIN: Duration = Duration::from_secs(30);
/// How long running answers may go on when an engine ends.
const ENGINE_GRACE: Duration = Duration::from_secs(2);

const LOADING: &str = "its model is being loaded";

/// What a backend of this process needs of an engine; equal needs keep the loaded one.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    /// Without what the engine does not read: license and capabilities.
    model: ModelSpec,
    kv_bytes: Option<u64>,
    protect: bool,
}

/// How far the wanted engine is.
#[derive(Clone)]
enum State {
    Loading,
    Loaded,
    Failed(String),
}

struct Slot {
    wanted: Wanted,
    state: State,
    /// The engine that answers: the wanted one, or the one before it for as long as that is not there.
    serving: Option<Arc<Floor>>,
}

/// All models of this process.
pub(crate) struct Floors {
    resolver: Resolver,
    backends: Arc<Backends>,
    threads: Option<NonZeroUsize>,
    shutdown: Shutdown,
    slots: Mutex<BTreeMap<BackendId, Slot>>,
    changed: watch::Sender<()>,
}

impl Floors {
    pub(crate) fn new(
        resolver: Resolver,
        backends: Arc<Backends>,
        threads: Option<NonZeroUsize>,
        shutdown: Shutdown,
    ) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            resolver,
            backends,
            threads,
            shutdown,
            slots: Mutex::default(),
            changed,
        }
    }

    /// Makes the loaded models those that are declared: keeps what is the same, loads what is new,
    /// drops what is gone.
    pub(crate) fn declare(self: &Arc<Self>, loaded: &Loaded) {
        let wanted = wanted(loaded);
        let mut started = Vec::new();
        {
            let mut slots = self.lock();
            slots.retain(|id, _| wanted.contains_key(id));
            for (id, wanted) in wanted {
                if slots.get(&id).is_some_and(|slot| slot.wanted == wanted) {
                    continue;
                }
                let before = slots.remove(&id).and_then(|slot| slot.serving);
                let slot = Slot {
                    wanted: wanted.clone(),
                    state: State::Loading,
                    serving: before,
                };
                slots.insert(id.clone(), slot);
                started.push((id, wanted));
            }
        }
        self.publish();
        for (id, wanted) in started {
            let floors = Arc::clone(self);
            let token = self.shutdown.token.clone();
            self.shutdown.spawn(async move {
                token.run_until_cancelled(floors.bring_up(id, wanted)).await;
            });
        }
    }

    /// What is declared and how far it is: nothing wrong, or why it does not answer.
    pub(crate) fn states(&self) -> Vec<(BackendId, Result<String, String>)> {
        let state = |slot: &Slot| match (&slot.state, &slot.serving) {
            (State::Loaded, Some(floor)) => Ok(describe(floor.engine())),
            (State::Failed(why), Some(_)) => Err(format!("{why}; what was loaded before goes on")),
            (State::Failed(why), None) => Err(why.clone()),
            (State::Loading | State::Loaded, _) => Err(String::from(LOADING)),
        };
        self.lock()
            .iter()
            .map(|(id, slot)| (id.clone(), state(slot)))
            .collect()
    }

    /// Waits until nothing is being loaded for the first time.
    pub(crate) async fn settled(&self) {
        let mut changes = self.changed.subscribe();
        while self
            .lock()
            .values()
            .any(|slot| matches!(slot.state, State::Loading))
        {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends all engines.
    pub(crate) fn end(&self) {
        for slot in std::mem::take(&mut *self.lock()).into_values() {
            if let Some(floor) = slot.serving {
                floor.engine().shutdown(ENGINE_GRACE);
            }
        }
    }

    /// Loads one model, and tries again for as long as it is wanted like this.
    async fn bring_up(self: Arc<Self>, id: BackendId, wanted: Wanted) {
        loop {
            let outcome = self.load(&wanted).await;
            if let Err(error) = &outcome {
                let reason = format!("{error:#}");
                tracing::warn!(backend = %id, reason, "the model is not loaded, trying again in a while");
            }
            let failed = outcome.is_err();
            if !self.note(&id, &wanted, outcome) || !failed {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Enters what came of loading; false if something else is wanted by now.
    fn note(&self, id: &BackendId, wanted: &Wanted, outcome: anyhow::Result<Floor>) -> bool {
        {
            let mut slots = self.lock();
            let Some(slot) = slots.get_mut(id).filter(|slot| slot.wanted == *wanted) else {
                return false;
            };
            match outcome {
                Ok(floor) => {
                    slot.state = State::Loaded;
                    slot.serving = Some(Arc::new(floor));
                }
                Err(error) => slot.state = State::Failed(format!("{error:#}")),
            }
        }
        self.publish();
        true
    }

    async fn load(&self, wanted: &Wanted) -> anyhow::Result<Floor> {
        let cache = catalog::cache(&wanted.model)?;
        let bars = Bars::new();
        let files = self
            .resolver
            .resolve(&cache, &self.shutdown.token, &|progress| {
                bars.show(progress);
            })
            .await;
        bars.clear();
        let files = files?;
        let model = files.iter().find(|file| {
            Path::new(&file.artifact)
                .extension()
                .is_some_and(|end| end == "gguf")
        });
        let Some(model) = model else {
            anyhow::bail!(
                "not supported yet: ModelCache {} has no .gguf artifact, and this engine reads nothing else",
                wanted.model.name
            );
        };
        let (path, options) = (model.path.clone(), self.options(wanted));
        let shown = path.display().to_string();
        let loaded = tokio::task::spawn_blocking(move || Engine::load(path, options)).await?;
        let engine = loaded.with_context(|| {
            let cache = &wanted.model.name;
            format!("{shown} cannot be served: name its sha256 in ModelCache {cache} and fetch it again, or use another file")
        })?;
        Ok(Floor::new(engine))
    }

    fn options(&self, wanted: &Wanted) -> EngineOptions {
        let standard = EngineOptions::default();
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 2")]
        let number =
            |value: Option<f64>, otherwise: f32| value.map_or(otherwise, |value| value as f32);
        EngineOptions {
            threads: self.threads.map(NonZeroUsize::get),
            kv_bytes: wanted
                .kv_bytes
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(standard.kv_bytes),
            temperature: number(wanted.model.sampling.temperature, standard.temperature),
            top_p: number(wanted.model.sampling.top_p, standard.top_p),
            protect: wanted.protect,
            ..standard
        }
    }

    /// Gives the data plane what is there, and for the rest why it is not.
    fn publish(&self) {
        let models: HashMap<BackendId, Arc<dyn LocalModel>> = self
            .lock()
            .iter()
            .map(|(id, slot)| {
                let model: Arc<dyn LocalModel> = match (&slot.serving, &slot.state) {
                    (Some(floor), _) => Arc::<Floor>::clone(floor),
                    (None, State::Failed(why)) => Arc::new(Absent(why.clone())),
                    (None, State::Loading | State::Loaded) => {
                        Arc::new(Absent(String::from(LOADING)))
                    }
                };
                (id.clone(), model)
            })
            .collect();
        self.backends.set_local(models);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A declared model that is not loaded, with the reason.
struct Absent(String);

impl LocalModel for Absent {
    fn ready(&self) -> Result<(), String> {
        Err(self.0.clone())
    }

    fn start(&self, _: Outbound) -> BoxFuture<'_, Result<Started, AttemptError>> {
        Box::pin(std::future::ready(Err(AttemptError::NotReady(
            self.0.clone(),
        ))))
    }
}

fn wanted(loaded: &Loaded) -> BTreeMap<BackendId, Wanted> {
    let snapshot = &loaded.snapshot;
    let protects = |id: &BackendId| {
        let floors = snapshot
            .policies
            .iter()
            .filter_map(|policy| policy.floor.as_ref());
        floors
            .into_iter()
            .any(|floor| floor.protect && floor.backend == (id.namespace.clone(), id.name.clone()))
    };
    let need = |backend: &mesh_core::Backend| {
        let Place::InProcess {
            model_cache,
            kv_bytes,
            ..
        } = &backend.place
        else {
            return None;
        };
        let named = |model: &&ModelSpec| {
            model.name == *model_cache && model.namespace == backend.id.namespace
        };
        let declared = loaded.models.iter().find(named)?.clone();
        let model = ModelSpec {
            license: None,
            capabilities: Capabilities::default(),
            ..declared
        };
        Some((
            backend.id.clone(),
            Wanted {
                model,
                kv_bytes: *kv_bytes,
                protect: protects(&backend.id),
            },
        ))
    };
    snapshot
        .backends
        .iter()
        .filter_map(|backend| need(backend))
        .collect()
}

fn describe(engine: &Engine) -> String {
    let info = engine.info();
    format!(
        "{} ({}), {} threads, {}",
        info.name, info.architecture, info.threads, info.instructions
    )
}
