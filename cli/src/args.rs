//! The command line of `mesh`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ask::Expected;

/// Access to AI that nobody can take away: classify, keep private things home, fail over, always answer.
#[derive(Debug, Parser)]
#[command(
    name = "mesh",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How results are printed.
    #[arg(long, value_enum, global = true, default_value = "table")]
    pub(crate) output: Output,
    /// Log filter, for example `info` or `mesh_dataplane=debug,warn`.
    #[arg(
        long,
        env = "MESH_LOG",
        global = true,
        default_value = "warn,mesh=info"
    )]
    pub(crate) log: String,
    /// How log lines look.
    #[arg(
        long,
        env = "MESH_LOG_FORMAT",
        value_enum,
        global = true,
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
}

/// Form of results on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For a person.
    Table,
    /// For a program.
    Json,
}

/// Form of log lines on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the mesh on this machine: gateway and floor in one process.
    Up(Up),
    /// Explain how a request would be served, without sending it anywhere.
    Why(Why),
    /// Ask a running mesh, and see whether it answers or refuses as expected.
    Ask(Ask),
    /// Show what the classifier finds in a text.
    Classify(Classify),
    /// Check policies.
    #[command(subcommand)]
    Policy(Policy),
    /// List, fetch and verify model files.
    #[command(subcommand)]
    Models(Models),
    /// Show the state of a running mesh.
    Status(Remote),
    /// Show and verify the durable audit.
    #[command(subcommand)]
    Audit(crate::audit::Audit),
}

/// `mesh up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Directory with the YAML of the kinds.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Address of the API.
    #[arg(long, env = "MESH_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "127.0.0.1:8081")]
    pub(crate) admin_listen: SocketAddr,
    /// File with API keys, one `<name> <sha256 of the key in hex>` a line; keys are then required.
    #[arg(long, env = "MESH_API_KEYS")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Host names, besides loopback, under which callers may reach this mesh.
    #[arg(long = "host", env = "MESH_HOSTS", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Threads of the engine; default: the CPU quota minus one, at least one.
    #[arg(long, env = "MESH_THREADS")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// Where model files are kept.
    #[command(flatten)]
    pub(crate) store: StoreDir,
    /// Where decisions are written down.
    #[command(flatten)]
    pub(crate) audit: AuditDir,
    /// How much of them is kept.
    #[command(flatten)]
    pub(crate) kept: Kept,
}

/// How much of the durable audit is kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct Kept {
    /// Days after which the oldest of the audit is removed; 0: never.
    #[arg(long, env = "MESH_AUDIT_KEEP_DAYS", default_value_t = 0)]
    audit_keep_days: u32,
    /// MiB from which on the oldest of the audit is removed; 0: never, and a full disk keeps nothing more.
    #[arg(long, env = "MESH_AUDIT_MOST_MIB", default_value_t = 1024)]
    audit_most_mib: u64,
}

impl Kept {
    /// The same for a log.
    pub(crate) fn log(&self) -> mesh_ledger::log::Options {
        let keeping = mesh_ledger::log::Options::keeping;
        let mut options = keeping(self.audit_keep_days, self.audit_most_mib);
        if let Some(most) = options.most_bytes {
            // So small that the oldest can go before there is more.
            options.segment_bytes = options.segment_bytes.min(most / 8);
        }
        options
    }
}

/// Where decisions are written down, if a policy asks for it.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditDir {
    /// Folder of the durable audit; default: `inference-mesh/audit` in the user's data directory.
    #[arg(long = "audit-dir", env = "MESH_AUDIT_DIR")]
    pub(crate) audit_dir: Option<PathBuf>,
}

/// Where model files are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreDir {
    /// Directory of the model store; default: `inference-mesh/models` in the user's data directory.
    #[arg(long = "models-dir", env = "MESH_MODELS_DIR")]
    pub(crate) models_dir: Option<PathBuf>,
}

/// A running mesh.
#[derive(Debug, Clone, Args)]
pub(crate) struct Remote {
    /// Address of the running mesh.
    #[arg(long, env = "MESH_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Environment variable that holds the API key, if the mesh asks for one.
    #[arg(long, default_value = "MESH_API_KEY")]
    pub(crate) key_env: String,
    /// File with the API key or a `ServiceAccount`'s token, in place of the variable.
    #[arg(long, env = "MESH_KEY_FILE", conflicts_with = "cluster")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with certificate authorities (PEM) to trust besides the machine's own: `ca.crt` of ConfigMap `mesh-trust`.
    #[arg(long, env = "MESH_CA_FILE", conflicts_with = "cluster")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The mesh of a cluster, reached with the kubeconfig, in place of an address.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// Context of the kubeconfig; default: its current one.
    #[arg(long, requires = "cluster")]
    pub(crate) context: Option<String>,
    /// Namespace of the mesh in that cluster.
    #[arg(
        long,
        env = "MESH_NAMESPACE",
        default_value = "mesh-system",
        requires = "cluster"
    )]
    pub(crate) mesh_namespace: String,
    /// `NAMESPACE/SERVICEACCOUNT` of the application to ask as; default: `default` of the context's namespace.
    #[arg(long, requires = "cluster")]
    pub(crate) caller: Option<String>,
}

/// `mesh why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Text of the request.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// File with the text, or with a whole request body as JSON; `-` reads standard input.
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// Model named by the caller.
    #[arg(short, long, default_value = "auto")]
    pub(crate) model: String,
    /// The header `mesh-privacy`.
    #[arg(long)]
    pub(crate) privacy: Option<String>,
    /// The header `mesh-task`.
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// The header `mesh-latency`.
    #[arg(long)]
    pub(crate) latency: Option<String>,
    /// Decide from the files of this directory instead of asking a running mesh; health is then assumed.
    #[arg(long, conflicts_with = "cluster")]
    pub(crate) dir: Option<PathBuf>,
    /// The mesh to ask.
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// `mesh ask`.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// Text of the request.
    pub(crate) text: String,
    /// Model to name.
    #[arg(short, long, default_value = "auto")]
    pub(crate) model: String,
    /// The header `mesh-privacy`.
    #[arg(long)]
    pub(crate) privacy: Option<String>,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 64)]
    pub(crate) max_tokens: u32,
    /// What must come back, `KEY=VALUE,…` of status, reason, backend, class, privacy; given several times, one of
    /// them; default: a completion.
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) expect: Vec<Expected>,
    /// Seconds to try again while nobody can answer yet.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) patience: u64,
    /// The mesh to ask.
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// `mesh classify`.
#[derive(Debug, Args)]
pub(crate) struct Classify {
    /// File to read; `-` or nothing reads standard input.
    pub(crate) file: Option<PathBuf>,
}

/// `mesh policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check every file of a directory: syntax, schema, rules, references, and that something is admitted.
    Check(PolicyDir),
    /// Run the tests that policies carry.
    Test(PolicyDir),
}

/// A directory of kinds.
#[derive(Debug, Args)]
pub(crate) struct PolicyDir {
    /// Directory with the YAML of the kinds.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// `mesh models`.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// Show the declared model files and whether they are here.
    List(ModelsDir),
    /// Fetch what is missing.
    Pull(ModelsDir),
    /// Read every file again and compare its digest; a bad one is quarantined.
    Verify(ModelsDir),
}

/// Which models, and where they are kept.
#[derive(Debug, Args)]
pub(crate) struct ModelsDir {
    /// Directory with the YAML of the kinds.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Only this ModelCache.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where model files are kept.
    #[command(flatten)]
    pub(crate) store: StoreDir,
}
