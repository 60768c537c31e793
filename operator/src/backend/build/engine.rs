//! Engines: what each can serve, and how it is told. Ours is told what it needs; vLLM and llama.cpp are
//! also kept from asking anybody outside and from writing anywhere but in folders of their own.

use mesh_crds::in_cluster::{Engine, InCluster, Vendor};
use serde_json::{Value, json};

use super::accelerator::Accelerator;
use super::plan::{Plan, Refusal};
use super::transport::Transport;
use super::{ADMIN, API, CACHE};

/// Where engines that are not ours say that they are well.
pub(super) const HEALTH: &str = "/health";

/// For how long our engine takes requests after it was asked to end.
const DRAIN_SECONDS: u8 = 5;

/// What an engine is told to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Model {
    /// One file with everything in it.
    File(String),
    /// A folder with a configuration, a tokenizer and weights.
    Folder(String),
    /// One file with the weights, and the folder of its tokenizer.
    FileAndTokenizer(String, String),
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn ending<'f>(files: &'f [String], end: &str) -> Option<&'f String> {
    files.iter().find(|file| file.ends_with(end))
}

/// Which of the files are the model for this engine.
pub(super) fn model(engine: Engine, files: &[String], cache: &str) -> Result<Model, Refusal> {
    let wrong = |needs: &str| {
        let names: Vec<&str> = files
            .iter()
            .take(8)
            .filter_map(|file| file.rsplit('/').next())
            .collect();
        let message = format!("{needs}; ModelCache {cache} has {}", names.join(", "));
        Err(Refusal::new("FormatNotServed", message))
    };
    let gguf = ending(files, ".gguf");
    match (engine, gguf) {
        (Engine::Candle, Some(file)) if file.contains("-of-0") => Err(Refusal::later(
            "a GGUF model in several files with engine Candle",
        )),
        (Engine::Candle | Engine::LlamaCpp, Some(file)) => Ok(Model::File(file.clone())),
        (Engine::Candle, None) => wrong("the mesh's own worker serves a GGUF file"),
        (Engine::LlamaCpp, None) => wrong("llama.cpp serves a GGUF file"),
        (Engine::Vllm, gguf) => {
            let config = files.iter().find(|file| {
                file.ends_with("/config.json")
                    && files.iter().any(|other| {
                        other.ends_with(".safetensors") && folder(other) == folder(file)
                    })
            });
            let tokenizer = ending(files, "/tokenizer.json");
            match (config, gguf, tokenizer) {
                (Some(config), _, _) => Ok(Model::Folder(folder(config).to_owned())),
                (None, Some(file), Some(tokenizer)) => Ok(Model::FileAndTokenizer(
                    file.clone(),
                    folder(tokenizer).to_owned(),
                )),
                _ => wrong(
                    "vLLM serves a folder with config.json and safetensors files, or a GGUF file with its tokenizer.json",
                ),
            }
        }
    }
}

/// What an engine is told to load as an adapter.
pub(super) fn adapter(engine: Engine, files: &[String], name: &str) -> Result<String, Refusal> {
    let wrong = |needs: &str| {
        let message = format!("{needs}, which ModelCache {name} has not");
        Err(Refusal::new("FormatNotServed", message))
    };
    match engine {
        Engine::Candle => {
            let config = ending(files, "/adapter_config.json");
            let weights = config.filter(|config| {
                let weights = format!("{}/adapter_model.safetensors", folder(config));
                files.contains(&weights)
            });
            match weights {
                Some(config) => Ok(folder(config).to_owned()),
                None => wrong(
                    "the mesh's own worker loads an adapter from a folder with adapter_config.json and adapter_model.safetensors",
                ),
            }
        }
        Engine::Vllm => match ending(files, "/adapter_config.json") {
            Some(config) => Ok(folder(config).to_owned()),
            None => wrong("vLLM loads an adapter from a folder with adapter_config.json"),
        },
        Engine::LlamaCpp => match ending(files, ".gguf") {
            Some(file) => Ok(file.clone()),
            None => wrong("llama.cpp loads an adapter from a GGUF file"),
        },
    }
}

/// Refuses what this engine cannot be told.
pub(super) fn check(spec: &InCluster, accelerator: Option<&Accelerator>) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new("NotServable", message));
    let parallel = spec
        .tensor_parallel
        .map_or(1, |parallel| u64::try_from(parallel).unwrap_or(1));
    let count = accelerator.map_or(1, |accelerator| accelerator.count);
    if parallel > 1 && spec.engine == Engine::Candle {
        return Err(Refusal::later("tensorParallel with engine Candle"));
    }
    if parallel > count {
        return invalid(
            "spec.inCluster.tensorParallel: layers are shared by the accelerators of a pod, and it has fewer: raise accelerator.count",
        );
    }
    if spec.engine == Engine::LlamaCpp {
        if spec.kv_memory.is_some() {
            return invalid(
                "spec.inCluster.kvMemory: llama.cpp sizes its cache by contextTokens and limits.concurrentRequests: set those",
            );
        }
        if spec.adapters.len() > 1 {
            return invalid(
                "spec.inCluster.adapters: llama.cpp applies its adapter to every request: give one, and a backend for each",
            );
        }
    }
    Ok(())
}

impl Plan<'_> {
    /// Requests that one pod works on at the same time, as far as the author says. The same however many pods there are:
    /// arguments that change with their number would make every pod of an engine anew whenever one is added.
    fn slots(&self) -> Option<i32> {
        let all = self.backend.spec.limits?.concurrent_requests?;
        Some(all.clamp(1, 1024))
    }

    fn vendor(&self) -> Vendor {
        self.accelerator
            .as_ref()
            .map_or(Vendor::Cpu, |accelerator| accelerator.vendor)
    }

    /// Accelerators that share the layers.
    pub(super) fn parallel(&self) -> u64 {
        let count = self.accelerator.as_ref().map_or(1, |one| one.count);
        let wanted = self.spec.tensor_parallel;
        wanted.map_or(count, |wanted| u64::try_from(wanted).unwrap_or(1))
    }

    /// Names that the engine must answer to; adapters answer to their own.
    fn names(&self) -> Vec<&str> {
        let models = self.backend.spec.models.iter();
        let targets = models.map(|model| model.target.as_deref().unwrap_or(&model.name));
        let adapter = |name: &&str| !self.adapters.iter().any(|one| one.name == *name);
        let mut names: Vec<&str> = match self.spec.engine {
            Engine::Candle | Engine::Vllm => targets.filter(adapter).collect(),
            // It applies its one adapter to every request.
            Engine::LlamaCpp => targets.collect(),
        };
        if names.is_empty() {
            names.push(&self.spec.model_ref.name.0);
        }
        names
    }

    /// The program, where the image does not say it the same way everywhere.
    pub(super) fn command(&self) -> Value {
        match self.spec.engine {
            Engine::Vllm => json!(["vllm", "serve"]),
            Engine::Candle | Engine::LlamaCpp => Value::Null,
        }
    }

    /// Ours first, so that what the author adds cannot come before them.
    pub(super) fn args(&self, host: &str) -> Vec<String> {
        let mut args = match self.spec.engine {
            Engine::Candle => self.candle(host),
            Engine::Vllm => self.vllm(host),
            Engine::LlamaCpp => self.llama(host),
        };
        args.extend(self.spec.args.iter().cloned());
        args
    }

    fn kv_bytes(&self) -> Option<u64> {
        self.spec.kv_memory.as_ref()?.read().ok()
    }

    fn candle(&self, host: &str) -> Vec<String> {
        let mut args = vec![
            String::from("serve"),
            format!("--model={}", self.model.file()),
            format!("--served-name={}", self.names().join(",")),
            format!("--listen={host}:{API}"),
            format!("--admin-listen=0.0.0.0:{ADMIN}"),
            // Gateways hear of the end of a pod a moment after the pod does.
            format!("--drain-delay={DRAIN_SECONDS}"),
        ];
        args.extend(self.transport().args());
        if self.accelerator.is_some() {
            args.push(String::from("--device=cuda"));
        }
        if let Some(bytes) = self.kv_bytes() {
            args.push(format!("--kv-mib={}", (bytes >> 20).max(1)));
        }
        let adapters = self.adapters.iter();
        args.extend(adapters.map(|one| format!("--adapter={}={}", one.name, one.path)));
        args
    }

    fn vllm(&self, host: &str) -> Vec<String> {
        let mut args = vec![self.model.file().to_owned()];
        if let Model::FileAndTokenizer(_, tokenizer) = &self.model {
            args.push(format!("--tokenizer={tokenizer}"));
        }
        args.extend([format!("--host={host}"), format!("--port={API}")]);
        // Without `=`: the option takes several names.
        args.push(String::from("--served-model-name"));
        args.extend(self.names().into_iter().map(str::to_owned));
        if let Some(tokens) = self.spec.context_tokens {
            args.push(format!("--max-model-len={tokens}"));
        }
        if self.parallel() > 1 {
            args.push(format!("--tensor-parallel-size={}", self.parallel()));
        }
        if let Some(slots) = self.slots() {
            args.push(format!("--max-num-seqs={slots}"));
        }
        if let Some(bytes) = self.kv_bytes().filter(|_| self.vendor() != Vendor::Cpu) {
            args.push(format!("--kv-cache-memory-bytes={bytes}"));
        }
        // Requests are not for its logs.
        args.push(String::from("--no-enable-log-requests"));
        if !self.adapters.is_empty() {
            args.push(String::from("--enable-lora"));
            args.push(format!("--max-loras={}", self.adapters.len().min(8)));
            args.push(String::from("--lora-modules"));
            let modules = self.adapters.iter();
            args.extend(modules.map(|one| format!("{}={}", one.name, one.path)));
        }
        args
    }

    fn llama(&self, host: &str) -> Vec<String> {
        let slots = self.slots().unwrap_or(1);
        let name = self
            .names()
            .first()
            .map_or("model", |name| *name)
            .to_owned();
        let mut args = vec![
            format!("--model={}", self.model.file()),
            format!("--alias={name}"),
            format!("--host={host}"),
            format!("--port={API}"),
            format!("--parallel={slots}"),
            String::from("--metrics"),
            String::from("--jinja"),
            String::from("--offline"),
        ];
        // The slots share the whole context.
        if let Some(tokens) = self.spec.context_tokens {
            args.push(format!(
                "--ctx-size={}",
                i64::from(tokens) * i64::from(slots)
            ));
        }
        if self.vendor() != Vendor::Cpu {
            args.push(String::from("--n-gpu-layers=999"));
            if self
                .spec
                .tensor_parallel
                .is_some_and(|parallel| parallel > 1)
            {
                args.push(String::from("--split-mode=row"));
            }
        }
        args.extend(
            self.adapters
                .iter()
                .map(|one| format!("--lora={}", one.path)),
        );
        args.into_iter()
            .flat_map(|arg| match arg.split_once('=') {
                // It reads values as words of their own.
                Some((name, value)) => vec![name.to_owned(), value.to_owned()],
                None => vec![arg],
            })
            .collect()
    }

    /// Ours, then the author's, which win: of one name there is one.
    pub(super) fn env(&self) -> Vec<Value> {
        let own = |name: &str| self.spec.env.iter().any(|one| one.name == name);
        let ours = self.offline();
        let ours = ours.iter().filter(|(name, _)| !own(name));
        let mut env: Vec<Value> = ours
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        env.extend(self.spec.env.iter().map(|one| json!(one)));
        env
    }

    /// Nothing is asked outside, nothing is reported, and what is written is written to folders that can be.
    fn offline(&self) -> Vec<(&'static str, String)> {
        let under = |name: &str| format!("{CACHE}/{name}");
        let home = || ("HOME", CACHE.to_owned());
        match self.spec.engine {
            Engine::Candle => Vec::new(),
            Engine::LlamaCpp => vec![home(), ("LLAMA_CACHE", under("llama.cpp"))],
            Engine::Vllm => {
                let mut env = vec![
                    home(),
                    // Libraries ask for the user's name, and this one has none.
                    ("USER", String::from("mesh")),
                    ("LOGNAME", String::from("mesh")),
                    ("HF_HUB_OFFLINE", String::from("1")),
                    ("TRANSFORMERS_OFFLINE", String::from("1")),
                    ("HF_HOME", under("huggingface")),
                    ("VLLM_NO_USAGE_STATS", String::from("1")),
                    ("DO_NOT_TRACK", String::from("1")),
                    ("VLLM_CACHE_ROOT", under("vllm")),
                    ("VLLM_CONFIG_ROOT", under("vllm-config")),
                    ("XDG_CACHE_HOME", under("cache")),
                    ("XDG_CONFIG_HOME", under("config")),
                    ("TRITON_CACHE_DIR", under("triton")),
                    ("TORCHINDUCTOR_CACHE_DIR", under("inductor")),
                    ("NUMBA_CACHE_DIR", under("numba")),
                    ("PYTHONDONTWRITEBYTECODE", String::from("1")),
                ];
                if let Some(bytes) = self.kv_bytes().filter(|_| self.vendor() == Vendor::Cpu) {
                    let gib = bytes.div_ceil(1 << 30);
                    env.push(("VLLM_CPU_KVCACHE_SPACE", gib.to_string()));
                }
                env
            }
        }
    }

    /// How the pods are reached.
    pub(super) fn transport(&self) -> Transport<'_> {
        Transport {
            mesh_namespace: self.mesh_namespace,
            namespace: self
                .backend
                .metadata
                .namespace
                .as_deref()
                .unwrap_or_default(),
        }
    }

    /// True for an engine that is not ours.
    pub(super) fn foreign_engine(&self) -> bool {
        self.spec.engine != Engine::Candle
    }

    /// Memory that processes of one pod share.
    pub(super) fn shared_memory(&self) -> Option<String> {
        let own = self.spec.shared_memory.as_ref();
        let needed = self.spec.engine == Engine::Vllm && self.parallel() > 1;
        own.map(crate::quantity::canonical)
            .or_else(|| needed.then(|| String::from("2Gi")))
    }

    /// Paths of readiness and liveness.
    pub(super) fn probes(&self) -> (&'static str, &'static str) {
        match self.spec.engine {
            Engine::Candle => ("/readyz", "/healthz"),
            // The guard tells of them: they themselves listen on loopback only.
            Engine::Vllm | Engine::LlamaCpp => ("/engine", "/engine"),
        }
    }
}

impl Model {
    fn file(&self) -> &str {
        match self {
            Self::File(path) | Self::Folder(path) | Self::FileAndTokenizer(path, _) => path,
        }
    }
}
