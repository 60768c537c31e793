//! Where an application's own `OPENAI_BASE_URL` leads: to its sidecar, to the mesh's gateways, or elsewhere.
//! Refuses to hand on more of it than the host: the rest may hold a key.

use url::{Host, Url};

/// The Service of the gateways.
const GATEWAY: &str = "mesh-gateway";
/// Longest host that is quoted.
const LONGEST: usize = 120;

/// What can be seen of where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To this pod or to the mesh.
    Home,
    /// Elsewhere: the host, or why it cannot be said.
    Elsewhere(String),
}

/// Where a value leads; `home` is the namespace of the mesh.
pub(crate) fn leads(value: &str, home: &str) -> Leads {
    let value = value.trim();
    if value.is_empty() {
        // SDKs take that for the address of their maker.
        return Leads::Elsewhere(String::from("(empty)"));
    }
    if value.contains("$(") {
        return Leads::Elsewhere(String::from("(computed)"));
    }
    let parsed = Url::parse(value).ok();
    let Some(host) = parsed.as_ref().and_then(Url::host) else {
        return Leads::Elsewhere(String::from("(unreadable)"));
    };
    let ours = match &host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => is_ours(name, home),
    };
    if ours {
        return Leads::Home;
    }
    let mut host = host.to_string();
    // A host that the library has parsed is ASCII.
    host.truncate(LONGEST);
    Leads::Elsewhere(host)
}

fn is_ours(name: &str, home: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" {
        return true;
    }
    let Some(rest) = name.strip_prefix(&format!("{GATEWAY}.{home}")) else {
        return false;
    };
    // A cluster may have any domain, but what stands before it is `svc`.
    rest.is_empty() || rest == ".svc" || rest.starts_with(".svc.cluster.")
}

#[cfg(test)]
mod tests {
    use super::{Leads, leads};

    #[test]
    fn loopback_and_the_gateways_are_home() {
        for value in [
            "http://127.0.0.1:14141/v1",
            "http://127.9.9.9/v1",
            "http://[::1]:14141/v1",
            "http://LOCALHOST:14141",
            "http://mesh-gateway.mesh-system:8080/v1",
            "https://mesh-gateway.mesh-system.svc:8443/v1",
            "https://mesh-gateway.mesh-system.svc.cluster.local.:8443/v1",
        ] {
            assert_eq!(leads(value, "mesh-system"), Leads::Home, "{value}");
        }
    }

    #[test]
    fn everything_else_is_told_by_its_host_and_nothing_more() {
        for (value, host) in [
            ("https://api.openai.com/v1", "api.openai.com"),
            (
                "https://user:secret@api.example.com/v1?key=s",
                "api.example.com",
            ),
            ("http://127.0.0.1@evil.example/v1", "evil.example"),
            ("http://127.0.0.1.evil.example/v1", "127.0.0.1.evil.example"),
            (
                "http://mesh-gateway.mesh-system.svc.evil.example",
                "mesh-gateway.mesh-system.svc.evil.example",
            ),
            ("http://mesh-gateway.team.svc/v1", "mesh-gateway.team.svc"),
            ("http://mesh-gateway/v1", "mesh-gateway"),
            ("http://10.0.0.7/v1", "10.0.0.7"),
            ("http://[2001:db8::1]/v1", "[2001:db8::1]"),
            ("http://$(HOST)/v1", "(computed)"),
            ("", "(empty)"),
            ("secret-that-is-no-url", "(unreadable)"),
            ("mailto:secret@example.com", "(unreadable)"),
        ] {
            let found = leads(value, "mesh-system");
            assert_eq!(found, Leads::Elsewhere(host.to_owned()), "{value}");
        }
    }
}
