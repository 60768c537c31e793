//! The command line; every flag is also an environment variable.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use mesh_watch::Scope;

/// Entry of a cluster for applications that speak OpenAI's API.
#[derive(Debug, Clone, Parser)]
#[command(name = "mesh-gateway", version, about)]
pub(crate) struct Args {
    /// Address of the API.
    #[arg(long, env = "MESH_LISTEN", default_value = "0.0.0.0:8080")]
    pub(crate) listen: SocketAddr,
    /// Address of metrics and health.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    pub(crate) admin_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) identity: crate::member::Identity,
    /// Namespace of the mesh itself: its backends serve everybody, its policies may select everybody.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system")]
    pub(crate) mesh_namespace: String,
    /// How far it reaches: `cluster`, or `namespaced` for its own namespace and no node.
    #[arg(long, env = "MESH_SCOPE", default_value_t)]
    pub(crate) scope: Scope,
    /// Further namespaces whose Secrets may be read for backends declared there, separated by commas.
    #[arg(long, env = "MESH_CREDENTIAL_NAMESPACES", value_delimiter = ',')]
    pub(crate) credential_namespaces: Vec<String>,
    /// Addresses of this pod, separated by commas: no tenant's backend is connected to at one of them.
    #[arg(long, env = "MESH_POD_IPS", value_delimiter = ',')]
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Address of the API server's Service, as Kubernetes tells every pod: the same holds for it.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST")]
    pub(crate) api_server: Option<String>,
    /// Ask the API server whether tokens still hold, and let an answer count for this long, for example `5s`; without it
    /// tokens are verified offline only.
    #[arg(long, env = "MESH_TOKEN_REVIEW", value_parser = duration)]
    pub(crate) token_review: Option<Duration>,
    /// Networks of pods and Services besides those that nodes and `ServiceCIDR`s tell, separated by commas: no address there
    /// counts as owned.
    #[arg(long, env = "MESH_CLUSTER_CIDRS", value_delimiter = ',', value_parser = mesh_crds::read_network)]
    pub(crate) cluster_networks: Vec<IpNet>,
    /// After SIGTERM: how long connections are still accepted, so that no sender is refused before it
    /// has heard.
    #[arg(long, env = "MESH_DRAIN_DELAY", default_value = "5s", value_parser = duration)]
    pub(crate) drain_delay: Duration,
    /// After that: how long answers may take to end.
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value = "120s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,
    /// Where the durable audit is kept, `HOST:PORT`; empty: nowhere.
    #[arg(long, env = "MESH_LEDGER", default_value = "")]
    pub(crate) ledger: String,
    /// Longest wait for it to keep something.
    #[arg(long, env = "MESH_LEDGER_TIMEOUT", default_value = "500ms", value_parser = duration)]
    pub(crate) ledger_timeout: Duration,
    /// Name of this gateway in the audit: its pod's.
    #[arg(long, env = "MESH_POD_NAME", default_value = "mesh-gateway")]
    pub(crate) pod_name: String,
    /// Log filter, for example `info`.
    #[arg(
        long,
        env = "MESH_LOG",
        global = true,
        default_value = "info,kube_runtime=warn"
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What else it can be.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Keep the durable audit of a mesh on a volume, for its gateways.
    Ledger(crate::ledger::Options),
}

impl Args {
    /// Addresses of this pod and of the API server.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        let api_server = self.api_server.iter().filter_map(|host| host.parse().ok());
        self.pod_ips.iter().copied().chain(api_server).collect()
    }
}

/// `30s`, `2m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| String::from("expected for example 30s"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(String::from("expected a number and ms, s or m")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{CommandFactory, Parser};

    use super::{Args, Command, duration};

    #[test]
    fn every_command_can_be_begun_with_nothing_but_its_name() {
        Args::command().debug_assert();
        let gateway = Args::try_parse_from(["mesh-gateway"]).expect("a gateway");
        assert!(gateway.command.is_none());
        let ledger = Args::try_parse_from(["mesh-gateway", "ledger"]).expect("a ledger");
        assert!(matches!(ledger.command, Some(Command::Ledger(_))));
    }

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "5", "s", "5h", "-5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
