//! The command line; every flag is also an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use http::Uri;
use mesh_core::PrivacyLevel;

/// Stands beside one application and carries what it asks to the mesh.
#[derive(Debug, Clone, Parser)]
#[command(name = "mesh-sidecar", version, about)]
pub struct Args {
    /// Address for the application.
    #[arg(long, env = "MESH_LISTEN", default_value = "127.0.0.1:14141")]
    pub listen: SocketAddr,
    /// Address of metrics and health, for the kubelet and Prometheus.
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value = "0.0.0.0:14142")]
    pub admin_listen: SocketAddr,
    /// The gateway, `https://host:port`.
    #[arg(
        long,
        env = "MESH_GATEWAY_URL",
        default_value = "https://mesh-gateway.mesh-system.svc:8443"
    )]
    pub gateway_url: Uri,
    /// Folder with `ca.crt`, `jwks.json`, `issuer` and `floor`: the ConfigMap `mesh-trust`. It may come later.
    #[arg(
        long,
        env = "MESH_TRUST",
        default_value = "/var/run/inferencemesh.dev/trust"
    )]
    pub trust: PathBuf,
    /// File with the pod's ServiceAccount token of audience `inferencemesh.dev`.
    #[arg(
        long,
        env = "MESH_TOKEN_FILE",
        default_value = "/var/run/inferencemesh.dev/token/token"
    )]
    pub token_file: PathBuf,
    /// Folder in which what the gateway pushed outlives the container.
    #[arg(
        long,
        env = "MESH_SNAPSHOT",
        default_value = "/var/run/inferencemesh.dev/snapshot"
    )]
    pub snapshot: PathBuf,
    /// Level below which nothing is sent; a word that is no level counts as `restricted`.
    #[arg(long, env = "MESH_PRIVACY", default_value = "")]
    pub privacy: String,
    /// Namespace of the pod, for logs.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "")]
    pub namespace: String,
    /// After SIGTERM: how long answers may take to end.
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value = "20", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// How long the gateway may take, beyond the policy's deadline, until an answer begins that is no stream: it begins
    /// with its end. Streams get two minutes of it.
    #[arg(long, env = "MESH_ANSWER_TIMEOUT", default_value = "600", value_parser = seconds)]
    pub answer_timeout: Duration,
    /// Log filter, for example `info`.
    #[arg(long, env = "MESH_LOG", default_value = "info")]
    pub log: String,
}

impl Args {
    /// What the pod's annotation asks for. An empty one asks for nothing; one that is not understood must not
    /// lower what somebody meant to raise.
    pub fn floor_level(&self) -> Option<PrivacyLevel> {
        let word = self.privacy.trim();
        if word.is_empty() {
            return None;
        }
        Some(word.parse().unwrap_or(PrivacyLevel::Restricted))
    }
}

/// A number of seconds, with or without `s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let number: u64 = number
        .parse()
        .map_err(|_| String::from("expected a number of seconds"))?;
    Ok(Duration::from_secs(number))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mesh_core::PrivacyLevel;

    use super::Args;

    #[test]
    fn a_level_that_is_not_understood_is_the_highest() {
        for (word, level) in [
            ("", None),
            ("internal", Some(PrivacyLevel::Internal)),
            ("Internal", Some(PrivacyLevel::Restricted)),
            ("secret", Some(PrivacyLevel::Restricted)),
        ] {
            let args = Args::parse_from(["mesh-sidecar", "--privacy", word]);
            assert_eq!(args.floor_level(), level, "{word}");
        }
    }
}
