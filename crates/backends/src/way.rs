//! How a backend is reached, where its author says so: by whose certificates it proves itself, and over which proxy. Both are
//! found at the moment they are used, as keys are; whoever rotates one has new connections with the next request.
//!
//! What this refuses: to trust anybody where the declared authority cannot be read (the system's do not step in), to pass anything
//! through a proxy that is not TLS up to the backend itself, a proxy with a password in its address or with an address that the
//! client cannot read.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Uri};
use mesh_core::{Endpoint, Sensitive};
use reqwest::Proxy;
use url::Url;

use crate::authority::{Authorities, Certificates};
use crate::credential::{self, Keys};
use crate::{AttemptError, authority};

/// A way to a backend. Two that differ share no connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    /// The only certificates that count.
    pub(crate) authority: Option<Arc<Certificates>>,
    pub(crate) proxy: Option<Via>,
}

/// A proxy and what is said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    url: Url,
    /// `user:password`.
    key: Option<Sensitive<String>>,
}

impl Hash for Via {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.url.hash(state);
    }
}

impl Way {
    /// The way to `endpoint`.
    pub(crate) fn find(
        endpoint: &Endpoint,
        keys: &Keys,
        authorities: &Authorities,
    ) -> Result<Self, AttemptError> {
        if endpoint.proxy.is_some() && endpoint.url.scheme() != "https" {
            return Err(AttemptError::Unusable("a proxy would read along"));
        }
        let authority = endpoint.authority.as_ref();
        Ok(Self {
            authority: authority
                .map(|one| authority::certificates(one, authorities))
                .transpose()?,
            proxy: endpoint
                .proxy
                .as_ref()
                .map(|proxy| Via::find(proxy, keys))
                .transpose()?,
        })
    }

    /// True if there is anything but the network between here and there, or anybody but the system to ask whom to trust.
    pub(crate) const fn special(&self) -> bool {
        self.authority.is_some() || self.proxy.is_some()
    }
}

impl Via {
    fn find(proxy: &mesh_core::Proxy, keys: &Keys) -> Result<Self, AttemptError> {
        let url = &proxy.url;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(AttemptError::Unusable("its proxy is not http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AttemptError::Unusable(
                "the address of its proxy holds a user or password",
            ));
        }
        if !readable(url) {
            return Err(AttemptError::Unusable(
                "the address of its proxy cannot be read",
            ));
        }
        let key = proxy.credentials.as_ref();
        let key = key
            .map(|credential| credential::resolve(credential, keys))
            .transpose()?;
        if key.as_ref().is_some_and(|key| !key.expose().contains(':')) {
            let what = String::from("what is for the proxy is not of the form user:password");
            return Err(AttemptError::Credentials { what });
        }
        Ok(Self {
            url: url.clone(),
            key,
        })
    }

    pub(crate) const fn url(&self) -> &Url {
        &self.url
    }

    /// For https only: nothing else goes this way. What it is told is written here: in its address it would be decoded once more.
    pub(crate) fn proxy(&self) -> Option<Proxy> {
        let proxy = Proxy::https(self.url.clone()).ok()?;
        let Some(key) = &self.key else {
            return Some(proxy);
        };
        let said = format!("Basic {}", BASE64_STANDARD.encode(key.expose()));
        let mut said = HeaderValue::try_from(said).ok()?;
        said.set_sensitive(true);
        Some(proxy.custom_http_auth(said))
    }
}

/// The client reads addresses by other rules than ours, and goes around a proxy whose address it cannot read.
fn readable(url: &Url) -> bool {
    let read = url.as_str().parse::<Uri>();
    read.is_ok_and(|read| read.host() == url.host_str() && read.port_u16() == url.port())
}

#[cfg(test)]
mod tests {
    use mesh_core::{Credential, Proxy};

    use super::{Keys, Via};
    use crate::AttemptError;

    fn proxy(url: &str, credentials: Option<Credential>) -> Proxy {
        Proxy {
            url: url.parse().expect("a url"),
            credentials,
        }
    }

    #[test]
    fn a_proxy_is_a_web_address_and_its_password_is_in_no_address_and_never_shown() {
        for bad in ["socks5://p", "ftp://p", "http://u:canary@p:3128"] {
            let error = Via::find(&proxy(bad, None), &Keys::new()).expect_err(bad);
            assert!(matches!(error, AttemptError::Unusable(_)), "{error:?}");
        }
        for odd in ["${PROXY_HOST}", "{{p}}", "a\"b", "a`b"] {
            let error = Via::find(&proxy(&format!("http://{odd}:3128"), None), &Keys::new());
            let error = error.expect_err(odd);
            assert!(matches!(error, AttemptError::Unusable(_)), "{error:?}");
        }
        for good in [
            "http://p",
            "https://p.example:443/",
            "http://10.0.0.1:80",
            "http://[fd00::7]:3128/",
            "http://m\u{fc}nchen.example:3128",
        ] {
            assert!(
                Via::find(&proxy(good, None), &Keys::new()).is_ok(),
                "{good}"
            );
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let declared = proxy("http://p:3128", Some(Credential::File(path.clone())));
        for (content, good) in [("canary", false), ("user:canary\n", true)] {
            std::fs::write(&path, content).expect("written");
            let found = Via::find(&declared, &Keys::new());
            assert_eq!(found.is_ok(), good, "{content}");
            assert!(!format!("{found:?}").contains("canary"), "{found:?}");
        }
    }
}
