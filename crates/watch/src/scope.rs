//! How far an installation reaches.

use std::fmt;
use std::str::FromStr;

/// How far an installation reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Every namespace that has no mesh of its own, and the nodes.
    #[default]
    Cluster,
    /// Its own namespace, and nothing that lies outside of namespaces.
    Namespaced,
}

impl FromStr for Scope {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text {
            "cluster" => Ok(Self::Cluster),
            "namespaced" => Ok(Self::Namespaced),
            _ => Err(Unknown),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cluster => "cluster",
            Self::Namespaced => "namespaced",
        })
    }
}

/// Neither of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `cluster` or `namespaced`")]
pub struct Unknown;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        for scope in [Scope::Cluster, Scope::Namespaced] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        for wrong in ["", "Cluster", "namespace", "all"] {
            assert_eq!(wrong.parse::<Scope>(), Err(Unknown), "{wrong}");
        }
    }
}
