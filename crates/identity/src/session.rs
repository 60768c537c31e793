//! A connection to one member that stays: for who asks it again and again and cannot wait for a handshake.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::endpoint::{answer, opened, words};
use crate::{Account, EndpointError, Member, Trust, client_config};

/// Where a member is, and who it must prove to be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Name or address of its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who it is.
    pub account: Account,
}

/// An open connection. Nothing happens on it unless one of its functions is awaited.
pub struct Session {
    sender: SendRequest<Full<Bytes>>,
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    host: String,
    generation: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects as `member`. How long that may take is the caller's matter.
    ///
    /// # Errors
    /// If it cannot be reached or cannot prove who it is.
    pub async fn open(
        place: &Place,
        member: &Arc<Member>,
        trust: &Arc<Trust>,
    ) -> Result<Self, EndpointError> {
        let generation = *member.changed().borrow();
        let config = client_config(Some(member), trust, Some(place.account.clone()))
            .map_err(|error| EndpointError::Tls(error.to_string()))?;
        let name = ServerName::try_from(place.host.clone()).map_err(|_| EndpointError::Address)?;
        let stream = TcpStream::connect((place.host.as_str(), place.port))
            .await
            .map_err(|error| EndpointError::Unreachable(error.kind()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| EndpointError::Unreachable(error.kind()))?;
        let (sender, connection) = opened(stream, (config, name)).await?;
        let connection = async move {
            // Who asks next finds out.
            drop(connection.await);
        };
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
            host: format!("{}:{}", place.host, place.port),
            generation,
        })
    }

    /// Asks, and reads the answer, of at most `largest` bytes.
    ///
    /// # Errors
    /// If the connection has ended, or the answer does not come whole. Whether the request was heard is then not known.
    pub async fn ask(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
        largest: usize,
    ) -> Result<(StatusCode, Bytes), EndpointError> {
        let request: Request<Full<Bytes>> = request
            .header(header::HOST, &self.host)
            .body(Full::new(body))
            .map_err(|_| EndpointError::Address)?;
        let sender = &mut self.sender;
        let asking = Box::pin(async move {
            sender.ready().await.map_err(|_| EndpointError::Answer)?;
            answer(sender, request, largest).await
        });
        let Some(connection) = self.connection.take() else {
            return Err(EndpointError::Answer);
        };
        match select(asking, connection).await {
            Either::Left((answered, connection)) => {
                self.connection = Some(connection);
                answered
            }
            // An answer may have come with the end.
            Either::Right(((), asking)) => asking.await,
        }
    }

    /// Waits until the other side ends the connection.
    pub async fn ended(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.await;
        }
        self.connection = None;
    }

    /// True if nothing can be asked any more.
    pub fn over(&self) -> bool {
        self.connection.is_none() || self.sender.is_closed()
    }

    /// True if `member` has got another certificate since.
    pub fn outdated(&self, member: &Member) -> bool {
        *member.changed().borrow() != self.generation
    }
}

/// As much of an answer as a log line may hold.
pub fn words_of(answer: &[u8]) -> String {
    words(&String::from_utf8_lossy(answer))
}
