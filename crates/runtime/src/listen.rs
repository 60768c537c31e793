//! Opening a port, with an error that says what to do.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// The port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has it.
    #[error(
        "{addr} is in use by another process: end that process, or choose another address with {flag}"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// Anything else.
    #[error("could not listen on {addr} (from {flag})")]
    Other {
        /// The address.
        addr: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Opens `addr`; `flag` names the option it came from, for the error message.
///
/// # Errors
/// If the address is in use or cannot be bound.
pub async fn bind(addr: SocketAddr, flag: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { addr, flag },
            _ => Error::Other { addr, flag, source },
        })
}

#[cfg(test)]
mod tests {
    use super::{Error, bind};

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
        let first = bind(([127, 0, 0, 1], 0).into(), "--listen")
            .await
            .expect("a free port");
        let addr = first.local_addr().expect("an address");
        let error = bind(addr, "--listen").await.expect_err("in use");
        assert!(matches!(error, Error::InUse { .. }));
        let text = error.to_string();
        assert!(
            text.contains(&addr.to_string()) && text.contains("--listen"),
            "{text}"
        );
    }
}
