//! Settings of canaries. Refuses places at which nobody could listen, and intervals that would be a load or no proof.

use std::net::IpAddr;
use std::time::Duration;

use crate::args::duration;
use crate::canary::{Target, TargetError};

/// Settings of canaries.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Image of the canary: the operator's own. Without one nothing is proved.
    #[arg(long, env = "MESH_CANARY_IMAGE")]
    pub(super) canary_image: Option<String>,
    /// Time between two canaries of a namespace, for example `5m`.
    #[arg(long, env = "MESH_CANARY_INTERVAL", default_value = "5m", value_parser = interval)]
    pub(super) canary_interval: Duration,
    /// Labels of nodes by whose values pools of nodes are told apart, separated by commas; those of the usual clouds
    /// that nodes carry, if none is named.
    #[arg(long, env = "MESH_CANARY_POOL_LABELS", value_delimiter = ',')]
    pub(crate) canary_pool_labels: Vec<String>,
    /// Further places that must not be reached, as HOST:PORT, or dns://HOST:PORT for who must not answer questions over
    /// UDP; separated by commas.
    #[arg(long, env = "MESH_CANARY_FORBIDDEN", value_delimiter = ',', value_parser = place)]
    pub(super) canary_forbidden: Vec<Target>,
    /// Address of this pod, which canaries must not reach.
    #[arg(long, env = "MESH_POD_IP")]
    pub(super) pod_ip: Option<IpAddr>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let read = duration(text)?;
    let fits = (Duration::from_secs(10)..=Duration::from_hours(24)).contains(&read);
    fits.then_some(read)
        .ok_or_else(|| String::from("it is from 10s to 24h"))
}

fn place(text: &str) -> Result<Target, String> {
    let form = || format!("`{text}` is not HOST:PORT or dns://HOST:PORT");
    if text.contains('=') {
        return Err(form());
    }
    let name = text.replace("dns://", "dns:");
    let read = format!("{name}={text}").parse();
    read.map_err(|error| match error {
        TargetError::Port(_) => error.to_string(),
        TargetError::Form(_) | TargetError::Name(_) => form(),
    })
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_further_place_has_a_host_and_a_port_that_somebody_can_listen_at() {
        for good in [
            "db.example:5432",
            "10.0.0.1:1",
            "[2001:db8::1]:65535",
            "dns://10.0.0.2:53",
        ] {
            assert!(place(good).is_ok(), "{good}");
        }
        for (bad, words) in [
            ("db.example:0", "`db.example:0`: a port is from 1 to 65535"),
            ("db.example:00", "a port is from 1 to 65535"),
            ("db.example:65536", "a port is from 1 to 65535"),
            ("db.example:999999", "a port is from 1 to 65535"),
            ("db.example", "`db.example` is not HOST:PORT"),
            ("dns://db.example:0", "a port is from 1 to 65535"),
            ("udp://db.example:53", "is not HOST:PORT"),
            ("dns://a/b:53", "is not HOST:PORT"),
            ("db.example:", "is not HOST:PORT"),
            ("db.example:+5", "is not HOST:PORT"),
            (":53", "is not HOST:PORT"),
            ("a=b:53", "is not HOST:PORT"),
        ] {
            let said = place(bad).expect_err(bad);
            assert!(said.contains(words), "{bad}: {said}");
        }
    }
}
