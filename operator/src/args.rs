//! The command line; every flag is also an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use mesh_crds::value::DurationText;
use mesh_watch::Scope;

/// Makes a cluster match the objects of inferencemesh.dev.
#[derive(Debug, Parser)]
#[command(name = "mesh-operator", version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log filter, for example `info`.
    #[arg(
        long,
        env = "MESH_LOG",
        global = true,
        default_value = "info,kube_runtime=warn,kube_client=off"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Reconcile until told to end.
    Run(Box<Run>),
    /// Remove what was made for the objects of the kinds; the objects themselves stay.
    Uninstall(Uninstall),
    /// Try what is forbidden and what is allowed, from inside of a confined namespace.
    Canary(crate::canary::Canary),
}

/// Settings of `run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Run {
    /// Namespace of the mesh itself.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system")]
    pub(crate) mesh_namespace: String,
    /// How far it reaches: `cluster`, or `namespaced` for its own namespace and no node.
    #[arg(long, env = "MESH_SCOPE", default_value_t)]
    pub(crate) scope: Scope,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    pub(crate) admin_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) authority: crate::endpoint::Authority,
    #[command(flatten)]
    pub(crate) inject: crate::inject::Settings,
    /// Name of this replica; in a pod, the pod's.
    #[arg(long, env = "MESH_POD_NAME", default_value = "mesh-operator")]
    pub(crate) identity: String,
    /// Unrenewed for this many seconds, the lease of the leading replica may be taken by another.
    #[arg(long, env = "MESH_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=300))]
    pub(crate) lease_seconds: u16,
    /// The gateways are asked this often (seconds) how backends do.
    #[arg(long, env = "MESH_HEALTH_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) health_seconds: u16,
    /// Time after a signal in which it still answers, for example `5s`: whoever asks here learns of it meanwhile.
    #[arg(long, env = "MESH_DRAIN_DELAY", default_value = "5s", value_parser = duration)]
    pub(crate) drain_delay: Duration,
    /// Objects that are made if they are not there: the floor of an installation.
    #[arg(long, env = "MESH_BOOTSTRAP")]
    pub(crate) bootstrap: Option<PathBuf>,
    /// Where the durable audit is; empty: none is installed, and policies that ask for one are told so.
    #[arg(long, env = "MESH_LEDGER", default_value = "")]
    pub(crate) ledger: String,
    /// Further namespaces whose Secrets the gateways may read, separated by commas.
    #[arg(long, env = "MESH_CREDENTIAL_NAMESPACES", value_delimiter = ',')]
    pub(crate) credential_namespaces: Vec<String>,
    /// The only Secrets that the gateways may read for backends, separated by commas; empty: any by its name.
    #[arg(long, env = "MESH_SECRET_NAMES", value_delimiter = ',')]
    pub(crate) secret_names: Vec<String>,
    /// Networks of pods and Services besides those that nodes and `ServiceCIDR`s tell, separated by commas: no address there
    /// counts as owned.
    #[arg(long, env = "MESH_CLUSTER_CIDRS", value_delimiter = ',', value_parser = mesh_crds::read_network)]
    pub(crate) cluster_networks: Vec<IpNet>,
    /// Further namespaces that are never confined, separated by commas.
    #[arg(long, env = "MESH_CONFINE_NEVER", value_delimiter = ',')]
    pub(crate) confine_never: Vec<String>,
    /// Folders of nodes that pods of confined namespaces may read, separated by commas.
    #[arg(long, env = "MESH_CONFINE_HOST_PATHS", value_delimiter = ',')]
    pub(crate) confine_host_paths: Vec<String>,
    #[command(flatten)]
    pub(crate) canary: crate::confine::Options,
    /// Image of the worker.
    #[arg(long, env = "MESH_WORKER_IMAGE")]
    pub(crate) worker_image: String,
    /// Image of the worker with the built-in model.
    #[arg(long, env = "MESH_WORKER_FLOOR_IMAGE")]
    pub(crate) worker_floor_image: String,
    /// Image of the worker that computes on NVIDIA's accelerators; none unless the platform team has one.
    #[arg(long, env = "MESH_WORKER_CUDA_IMAGE")]
    pub(crate) worker_cuda_image: Option<String>,
    /// Images of engines that are not ours.
    #[command(flatten)]
    pub(crate) engines: EngineImages,
    /// Pull policy of all.
    #[arg(long, env = "MESH_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) image_pull_policy: String,
    /// Secrets to pull them with, separated by commas.
    #[arg(long, env = "MESH_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub(crate) image_pull_secrets: Vec<String>,
}

/// As the kinds write one.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read = DurationText(text.to_owned());
    read.read().map_err(|error| error.to_string())
}

/// Images of vLLM and llama.cpp by the maker of the accelerator. Where none is given, such a backend is
/// refused unless it names one itself.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(
    clippy::struct_field_names,
    reason = "each is the name of a flag, which says what it is"
)]
pub(crate) struct EngineImages {
    /// vLLM on NVIDIA's accelerators.
    #[arg(long, env = "MESH_VLLM_NVIDIA_IMAGE")]
    pub(crate) vllm_nvidia_image: Option<String>,
    /// vLLM on AMD's accelerators.
    #[arg(long, env = "MESH_VLLM_AMD_IMAGE")]
    pub(crate) vllm_amd_image: Option<String>,
    /// vLLM on Intel's accelerators.
    #[arg(long, env = "MESH_VLLM_INTEL_IMAGE")]
    pub(crate) vllm_intel_image: Option<String>,
    /// vLLM on processors.
    #[arg(long, env = "MESH_VLLM_CPU_IMAGE")]
    pub(crate) vllm_cpu_image: Option<String>,
    /// llama.cpp's server on NVIDIA's accelerators.
    #[arg(long, env = "MESH_LLAMACPP_NVIDIA_IMAGE")]
    pub(crate) llamacpp_nvidia_image: Option<String>,
    /// llama.cpp's server on AMD's accelerators.
    #[arg(long, env = "MESH_LLAMACPP_AMD_IMAGE")]
    pub(crate) llamacpp_amd_image: Option<String>,
    /// llama.cpp's server on Intel's accelerators.
    #[arg(long, env = "MESH_LLAMACPP_INTEL_IMAGE")]
    pub(crate) llamacpp_intel_image: Option<String>,
    /// llama.cpp's server on processors.
    #[arg(long, env = "MESH_LLAMACPP_CPU_IMAGE")]
    pub(crate) llamacpp_cpu_image: Option<String>,
}

/// Settings of `uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct Uninstall {
    /// Namespace of the mesh itself.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system")]
    pub(crate) mesh_namespace: String,
    /// How far it reached: `cluster` or `namespaced`.
    #[arg(long, env = "MESH_SCOPE", default_value_t)]
    pub(crate) scope: Scope,
    /// Also delete the volumes with models.
    #[arg(long, env = "MESH_DELETE_VOLUMES")]
    pub(crate) delete_volumes: bool,
    /// For how long what fails is tried again, for example `60s`.
    #[arg(long, env = "MESH_PATIENCE", default_value = "60s", value_parser = duration)]
    pub(crate) patience: Duration,
}
