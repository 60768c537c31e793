//! What is fetched, and how a request for it is made: plain, signed, or with a registry's token. Every try
//! makes its request anew, so that signatures and tokens are fresh.

use jiff::Timestamp;
use reqwest::header::HeaderValue;
use url::Url;

use crate::digest::Digest;
use crate::error::Stop;
use crate::http::{Asker, Start};
use crate::oci::Blob;
use crate::s3::Object;

/// One file of one source.
pub(crate) enum Target {
    /// A URL, perhaps with a bearer token.
    Plain {
        url: Url,
        authorization: Option<HeaderValue>,
    },
    /// An object of a bucket.
    Object(Object),
    /// A blob of a registry.
    Blob(Blob),
}

impl Target {
    /// Its address, without signature.
    pub(crate) fn url(&self) -> &Url {
        match self {
            Self::Plain { url, .. } => url,
            Self::Object(object) => object.url(),
            Self::Blob(blob) => blob.url(),
        }
    }

    /// What its source says that its bytes hash to.
    pub(crate) fn sha256(&self) -> Option<Digest> {
        match self {
            Self::Plain { .. } | Self::Object(_) => None,
            Self::Blob(blob) => Some(blob.sha256),
        }
    }

    /// A request for it that may be sent now.
    pub(crate) async fn start(&self, asker: &Asker<'_>) -> Result<Start, Stop> {
        Ok(match self {
            Self::Plain { url, authorization } => Start {
                url: url.clone(),
                authorization: authorization.clone(),
            },
            Self::Object(object) => Start {
                url: object.signed(&Timestamp::now()),
                authorization: None,
            },
            Self::Blob(blob) => blob.start(asker).await?,
        })
    }
}
