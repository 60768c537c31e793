//! Addresses that mean the asking machine itself.

use std::net::IpAddr;

/// True for an address that leads to the machine that asks, or to the service of its cloud that hands out
/// identities: loopback, link-local, unspecified. An IPv4 address written as IPv6 counts as what it is.
pub fn own_machine(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::own_machine;

    #[test]
    fn every_spelling_of_the_machine_itself_is_known_and_no_other() {
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
        ] {
            assert!(own_machine(own.parse().expect("an address")), "{own}");
        }
        for other in ["10.0.0.1", "192.168.20.7", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(!own_machine(other.parse().expect("an address")), "{other}");
        }
    }
}
