//! Who may depend on whom, checked on `cargo metadata`. Pure. The table is the whole list: an edge that
//! is not in it is a violation, and so is a crate that is not in it.

use serde_json::Value;

/// A crate of ours and which of ours it may use.
struct Room {
    name: &'static str,
    uses: &'static [&'static str],
}

const fn room(name: &'static str, uses: &'static [&'static str]) -> Room {
    Room { name, uses }
}

const ROOMS: &[Room] = &[
    room("mesh-core", &[]),
    room("mesh-protocol", &[]),
    room("mesh-classify", &["mesh-core", "mesh-protocol"]),
    room("mesh-routing", &["mesh-core"]),
    room("mesh-models", &["mesh-core"]),
    room("mesh-crds", &["mesh-core"]),
    room("mesh-ledger", &["mesh-core"]),
    room(
        "mesh-backends",
        &["mesh-core", "mesh-protocol", "mesh-routing"],
    ),
    room(
        "mesh-engine",
        &["mesh-core", "mesh-protocol", "mesh-models"],
    ),
    room(
        "mesh-dataplane",
        &[
            "mesh-core",
            "mesh-protocol",
            "mesh-classify",
            "mesh-door",
            "mesh-routing",
            "mesh-backends",
            "mesh-crds",
            "mesh-ledger",
        ],
    ),
    room("mesh-door", &["mesh-core", "mesh-protocol"]),
    room("mesh-identity", &[]),
    room("mesh-watch", &[]),
    room(
        "mesh-sidecar",
        &[
            "mesh-core",
            "mesh-protocol",
            "mesh-classify",
            "mesh-door",
            "mesh-identity",
            "mesh-runtime",
        ],
    ),
    room(
        "mesh-worker",
        &[
            "mesh-core",
            "mesh-protocol",
            "mesh-engine",
            "mesh-identity",
            "mesh-models",
            "mesh-runtime",
        ],
    ),
    room(
        "mesh-operator",
        &[
            "mesh-core",
            "mesh-protocol",
            "mesh-classify",
            "mesh-routing",
            "mesh-crds",
            "mesh-identity",
            "mesh-runtime",
            "mesh-watch",
        ],
    ),
    room(
        "mesh-gateway",
        &[
            "mesh-core",
            "mesh-backends",
            "mesh-crds",
            "mesh-dataplane",
            "mesh-identity",
            "mesh-ledger",
            "mesh-runtime",
            "mesh-watch",
        ],
    ),
    room(
        "mesh",
        &[
            "mesh-core",
            "mesh-protocol",
            "mesh-classify",
            "mesh-routing",
            "mesh-backends",
            "mesh-dataplane",
            "mesh-crds",
            "mesh-engine",
            "mesh-ledger",
            "mesh-models",
            "mesh-runtime",
        ],
    ),
    room("mesh-runtime", &[]),
    room("mesh-testkit", &["mesh-core", "mesh-protocol", "mesh-crds"]),
    room("mesh-cluster", &[]),
    room("mesh-e2e", &["mesh-cluster", "mesh-crds"]),
    room("xtask", &["mesh-cluster", "mesh-crds", "mesh-e2e"]),
];

/// A crate of others and who may use it beyond tests.
struct Reserved {
    matches: fn(&str) -> bool,
    only: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved {
        matches: |name| name.starts_with("candle-") || name == "gemm" || name == "cudarc",
        only: &["mesh-engine"],
    },
    Reserved {
        matches: |name| name == "reqwest",
        only: &[
            "mesh-backends",
            "mesh-models",
            "mesh-testkit",
            "mesh-e2e",
            "xtask",
        ],
    },
    Reserved {
        matches: |name| name == "axum",
        only: &[
            "mesh",
            "mesh-dataplane",
            "mesh-door",
            "mesh-gateway",
            "mesh-operator",
            "mesh-runtime",
            "mesh-sidecar",
            "mesh-worker",
            "mesh-testkit",
        ],
    },
    Reserved {
        matches: |name| name == "anyhow",
        only: &[
            "mesh",
            "mesh-cluster",
            "mesh-e2e",
            "mesh-gateway",
            "mesh-operator",
            "mesh-sidecar",
            "mesh-testkit",
            "mesh-worker",
            "xtask",
        ],
    },
    Reserved {
        matches: |name| name == "kube",
        only: &[
            "mesh",
            "mesh-crds",
            "mesh-e2e",
            "mesh-gateway",
            "mesh-operator",
            "mesh-watch",
        ],
    },
];

/// Who may talk to an API server.
const KUBE_CLIENTS: &[&str] = &["mesh", "mesh-gateway", "mesh-operator", "mesh-watch"];

/// Levels 0 and 1: no runtime, no clock, no randomness of their own.
const PURE: &[&str] = &[
    "mesh-core",
    "mesh-protocol",
    "mesh-classify",
    "mesh-routing",
];
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "rand",
    "getrandom",
    "hyper",
    "reqwest",
    "axum",
];

/// Never a direct dependency, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("lazy_static", "std has LazyLock"),
    ("once_cell", "std has OnceLock"),
    ("chrono", "jiff is the one calendar"),
    ("serde_yaml", "it is no longer maintained"),
    ("native-tls", "rustls with aws-lc-rs is the one TLS"),
    ("openssl", "rustls with aws-lc-rs is the one TLS"),
    ("ring", "aws-lc-rs is the one crypto provider"),
];

/// One declared dependency.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    dev: bool,
    features: Vec<&'a str>,
}

/// Every broken rule, one sentence each; `metadata` is the output of `cargo metadata --no-deps`.
pub(crate) fn violations(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut found = Vec::new();
    if packages.is_empty() {
        found.push("cargo metadata lists no packages".to_owned());
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if !ROOMS.iter().any(|room| room.name == name) {
            found.push(format!("{name} is not in the table of layers"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let edge = Edge {
                from: name,
                to: dependency["name"].as_str().unwrap_or_default(),
                dev: dependency["kind"].as_str() == Some("dev"),
                features: dependency["features"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect(),
            };
            found.extend(judge(&edge));
        }
    }
    found
}

fn judge(edge: &Edge<'_>) -> Vec<String> {
    let (from, to) = (edge.from, edge.to);
    let mut found = Vec::new();
    if let Some((_, why)) = BANNED.iter().find(|(name, _)| *name == to) {
        found.push(format!("{from} must not depend on {to}: {why}"));
    }
    if to == "kube" && edge.features.contains(&"client") && !KUBE_CLIENTS.contains(&from) {
        found.push(format!("{from} uses kube's client, which it may not"));
    }
    if edge.dev {
        return found;
    }
    if ROOMS.iter().any(|room| room.name == to) && !allowed(from, to) {
        found.push(format!("{from} must not depend on {to}"));
    }
    for reserved in RESERVED
        .iter()
        .filter(|reserved| (reserved.matches)(to) && !reserved.only.contains(&from))
    {
        found.push(format!(
            "{from} must not depend on {to}: only {} may",
            reserved.only.join(", ")
        ));
    }
    if PURE.contains(&from) && IMPURE.contains(&to) {
        found.push(format!(
            "{from} must not depend on {to}: levels 0 and 1 are pure"
        ));
    }
    found
}

fn allowed(from: &str, to: &str) -> bool {
    ROOMS
        .iter()
        .any(|room| room.name == from && room.uses.contains(&to))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(from: &str, to: &str, kind: Option<&str>, features: &[&str]) -> Vec<String> {
        let dependency = json!({"name": to, "kind": kind, "features": features});
        violations(&json!({"packages": [{"name": from, "dependencies": [dependency]}]}))
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        for (from, to) in [
            ("mesh-core", "mesh-protocol"),
            ("mesh-routing", "mesh-protocol"),
            ("mesh-models", "mesh-crds"),
            ("mesh-backends", "mesh-engine"),
            ("mesh-runtime", "mesh-core"),
            ("mesh-dataplane", "mesh-testkit"),
            ("mesh", "mesh-worker"),
            ("xtask", "mesh-core"),
        ] {
            assert_eq!(
                with(from, to, None, &[]),
                [format!("{from} must not depend on {to}")]
            );
        }
        assert_eq!(
            with("mesh-new", "serde", None, &[]),
            ["mesh-new is not in the table of layers"]
        );
    }

    #[test]
    fn a_crate_of_others_is_kept_to_its_rooms() {
        for (from, to) in [
            ("mesh-dataplane", "reqwest"),
            ("mesh-backends", "axum"),
            ("mesh", "candle-core"),
            ("mesh-models", "anyhow"),
            ("mesh-routing", "tokio"),
            ("mesh-classify", "rand"),
            ("mesh-models", "chrono"),
            ("mesh-backends", "ring"),
        ] {
            assert_eq!(with(from, to, None, &[]).len(), 1, "{from} -> {to}");
        }
        assert_eq!(
            with("mesh-crds", "kube", None, &["derive", "client"]).len(),
            1
        );
    }

    #[test]
    fn what_the_table_allows_and_what_tests_use_is_fine() {
        for (from, to) in [
            ("mesh", "mesh-engine"),
            ("mesh-engine", "candle-core"),
            ("mesh-models", "tokio"),
        ] {
            assert!(with(from, to, None, &[]).is_empty(), "{from} -> {to}");
        }
        assert!(with("mesh-routing", "mesh-testkit", Some("dev"), &[]).is_empty());
        assert!(with("mesh-backends", "axum", Some("dev"), &[]).is_empty());
        assert_eq!(
            with("mesh-routing", "once_cell", Some("dev"), &[]).len(),
            1,
            "a ban holds in tests too"
        );
    }

    #[test]
    fn metadata_without_packages_is_not_taken_as_fine() {
        assert_eq!(violations(&json!({})).len(), 1);
    }

    #[test]
    fn the_table_itself_has_no_circles() {
        fn reaches(from: &str, to: &str, depth: usize) -> bool {
            let uses = ROOMS
                .iter()
                .find(|room| room.name == from)
                .map_or(&[][..], |room| room.uses);
            depth > 0
                && uses
                    .iter()
                    .any(|next| *next == to || reaches(next, to, depth - 1))
        }
        for room in ROOMS {
            assert!(!reaches(room.name, room.name, ROOMS.len()), "{}", room.name);
        }
    }
}
