//! Which image serves a model: the backend's own, else what the platform team chose for engine and maker.

use mesh_crds::in_cluster::{Engine, Vendor};

use crate::args::{EngineImages, Run};

/// Images and how they are pulled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Images {
    pub(crate) worker: String,
    pub(crate) worker_floor: String,
    pub(crate) worker_cuda: Option<String>,
    pub(crate) engines: EngineImages,
    pub(crate) pull_policy: String,
    pub(crate) pull_secrets: Vec<String>,
}

impl From<&Run> for Images {
    fn from(run: &Run) -> Self {
        Self {
            worker: run.worker_image.clone(),
            worker_floor: run.worker_floor_image.clone(),
            worker_cuda: run.worker_cuda_image.clone(),
            engines: run.engines.clone(),
            pull_policy: run.image_pull_policy.clone(),
            pull_secrets: run.image_pull_secrets.clone(),
        }
    }
}

impl Images {
    /// The image that has `fetch`, and with `builtin` the built-in model.
    pub(crate) fn ours(&self, builtin: bool) -> &str {
        if builtin {
            &self.worker_floor
        } else {
            &self.worker
        }
    }

    /// The image that serves; `Err` says what the platform team would have to set.
    pub(crate) fn serving(
        &self,
        engine: Engine,
        vendor: Vendor,
        builtin: bool,
    ) -> Result<&str, String> {
        let engines = &self.engines;
        let (image, value) = match (engine, vendor) {
            (Engine::Candle, Vendor::Cpu) => return Ok(self.ours(builtin)),
            (Engine::Candle, Vendor::Nvidia) => (&self.worker_cuda, "workerCuda.repository"),
            (Engine::Candle, Vendor::Amd | Vendor::Intel) => {
                return Err(String::from(
                    "the mesh's own worker computes on processors and on NVIDIA's accelerators: use engine Vllm or LlamaCpp",
                ));
            }
            (Engine::Vllm, Vendor::Nvidia) => (&engines.vllm_nvidia_image, "engines.vllm.nvidia"),
            (Engine::Vllm, Vendor::Amd) => (&engines.vllm_amd_image, "engines.vllm.amd"),
            (Engine::Vllm, Vendor::Intel) => (&engines.vllm_intel_image, "engines.vllm.intel"),
            (Engine::Vllm, Vendor::Cpu) => (&engines.vllm_cpu_image, "engines.vllm.cpu"),
            (Engine::LlamaCpp, Vendor::Nvidia) => {
                (&engines.llamacpp_nvidia_image, "engines.llamaCpp.nvidia")
            }
            (Engine::LlamaCpp, Vendor::Amd) => {
                (&engines.llamacpp_amd_image, "engines.llamaCpp.amd")
            }
            (Engine::LlamaCpp, Vendor::Intel) => {
                (&engines.llamacpp_intel_image, "engines.llamaCpp.intel")
            }
            (Engine::LlamaCpp, Vendor::Cpu) => {
                (&engines.llamacpp_cpu_image, "engines.llamaCpp.cpu")
            }
        };
        let set = image.as_deref().filter(|image| !image.is_empty());
        set.ok_or_else(|| {
            format!("there is no image for it: whoever installed the mesh sets {value}")
        })
    }
}
