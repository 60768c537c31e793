//! Who owns the hardware a backend runs on, and under which law.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of ownership and place of a backend, derived from evidence. Ordered from the worst to the
/// best; a higher class may always stand in for a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SovereigntyClass {
    /// Cloud that keeps or trains on data, or of which nothing is known.
    CloudRetained,
    /// Cloud without retention; seat, data centers or law outside the home jurisdictions.
    CloudForeign,
    /// Cloud without retention, wholly inside the home jurisdictions.
    CloudDomestic,
    /// Any peer.
    OpenSwarm,
    /// Peer with pinned identity and invitation.
    TrustedSwarm,
    /// Hardware somebody rents out to the organization.
    RentedHardware,
    /// Hardware the organization owns; also a process on this machine.
    OwnHardware,
}

impl SovereigntyClass {
    /// All classes, worst first.
    pub const ALL: [Self; 7] = [
        Self::CloudRetained,
        Self::CloudForeign,
        Self::CloudDomestic,
        Self::OpenSwarm,
        Self::TrustedSwarm,
        Self::RentedHardware,
        Self::OwnHardware,
    ];

    /// Sovereignty score, 0.1 to 1.0.
    pub const fn score(self) -> f64 {
        match self {
            Self::CloudRetained => 0.1,
            Self::CloudForeign => 0.2,
            Self::CloudDomestic => 0.4,
            Self::OpenSwarm => 0.5,
            Self::TrustedSwarm => 0.7,
            Self::RentedHardware => 0.8,
            Self::OwnHardware => 1.0,
        }
    }

    /// The name as written in YAML, headers and JSON: `OwnHardware`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudRetained => "CloudRetained",
            Self::CloudForeign => "CloudForeign",
            Self::CloudDomestic => "CloudDomestic",
            Self::OpenSwarm => "OpenSwarm",
            Self::TrustedSwarm => "TrustedSwarm",
            Self::RentedHardware => "RentedHardware",
            Self::OwnHardware => "OwnHardware",
        }
    }

    /// The same in the snake_case of labels of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::CloudRetained => "cloud_retained",
            Self::CloudForeign => "cloud_foreign",
            Self::CloudDomestic => "cloud_domestic",
            Self::OpenSwarm => "open_swarm",
            Self::TrustedSwarm => "trusted_swarm",
            Self::RentedHardware => "rented_hardware",
            Self::OwnHardware => "own_hardware",
        }
    }

    /// True for the three cloud classes.
    pub const fn cloud(self) -> bool {
        matches!(
            self,
            Self::CloudRetained | Self::CloudForeign | Self::CloudDomestic
        )
    }

    /// True where the organization owns the hardware.
    pub const fn owned(self) -> bool {
        matches!(self, Self::OwnHardware)
    }
}

impl fmt::Display for SovereigntyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::SovereigntyClass;

    #[test]
    fn a_better_class_has_a_higher_score() {
        assert!(SovereigntyClass::ALL.is_sorted());
        assert!(SovereigntyClass::ALL.is_sorted_by(|a, b| a.score() < b.score()));
    }
}
