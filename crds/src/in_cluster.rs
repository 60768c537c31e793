//! Model servers of the cluster. On one machine the same struct means the engine inside the process,
//! and what only a cluster can do (images, nodes, replicas) is refused or has no effect.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model_cache::Quantization;
use crate::reference::LocalRef;
use crate::value::{DurationText, ObjectName, Quantity};

/// Model servers of this cluster; on one machine: the engine inside this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.stages) || self.stages == 1 || self.engine == 'Candle'")
    .message("only engine Candle can be cut into stages").field_path(".stages"))]
pub struct InCluster {
    /// The model to serve.
    pub model_ref: ModelSource,
    /// The inference engine.
    #[serde(default)]
    pub engine: Engine,
    /// Pods; on one machine always 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: i32,
    /// Hardware to run on. Absent: the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Processor and memory of a pod. No effect on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Context window to serve. Absent: what the model states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16))]
    pub context_tokens: Option<i32>,
    /// Memory for keys and values. Absent: 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_memory: Option<Quantity>,
    /// Adapters that may be asked for with the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub adapters: Vec<AdapterRef>,
    /// Layer stages over several pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub stages: Option<i32>,
    /// Accelerators that share the layers of one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub tensor_parallel: Option<i32>,
    /// Shared memory of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<Quantity>,
    /// Time until a new pod must answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<DurationText>,
    /// Image of the model server. Absent: the mesh's worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Further arguments of the model server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub args: Vec<String>,
    /// Further environment variables of the model server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// Labels of nodes that may run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// How pods are spread over nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub topology_spread: Vec<TopologySpread>,
    /// RuntimeClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<ObjectName>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<ObjectName>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<LocalRef>,
}

fn one() -> i32 {
    1
}

/// A ModelCache of the same namespace, or something derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// Name of the ModelCache.
    pub name: ObjectName,
    /// Serve this derived version. Absent: the artifacts as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// The inference engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Engine {
    /// The mesh's own worker.
    #[default]
    Candle,
    /// vLLM.
    Vllm,
    /// llama.cpp's server.
    LlamaCpp,
}

/// Hardware to run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.vendor != 'Cpu' || !(has(self.count) || has(self.memory) || has(self.deviceClassName))")
    .message("count, memory and deviceClassName are for accelerators, not for vendor Cpu"))]
pub struct Accelerator {
    /// Who makes it.
    pub vendor: Vendor,
    /// How many a pod needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<i32>,
    /// Memory that each must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// DeviceClass to claim it by dynamic resource allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_class_name: Option<ObjectName>,
}

/// Maker of an accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Vendor {
    /// No accelerator: the processor.
    Cpu,
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
}

/// Processor and memory of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What it is sure to get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// An adapter that may be asked for with the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterRef {
    /// ModelCache of type Adapter, in the same namespace.
    pub name: ObjectName,
}

/// How pods are spread over one kind of place. It counts the backend's own pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// Label of nodes that names the place, for example `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// Largest difference in pods between two places.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub max_skew: i32,
    /// What happens if that cannot be kept.
    #[serde(default)]
    pub when_unsatisfiable: Unsatisfiable,
}

/// What happens if a spread cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Unsatisfiable {
    /// The pod is placed all the same.
    #[default]
    ScheduleAnyway,
    /// The pod waits.
    DoNotSchedule,
}
