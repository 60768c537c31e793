//! How a source is reached: its key, its certificate authority, its proxy. Keys are read for every use and
//! are in no message. Refuses keys that no header can carry, and proxy settings of the environment.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use http::Uri;
use mesh_core::Sensitive;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Proxy};
use url::Url;

use crate::error::{Error, SourceError, Stop};
use crate::place::local;
use crate::resolve::Settings;
use crate::spec::{Access, Credentials};

/// Longest key file: registries' tokens are a few KiB.
const LONGEST_KEY: u64 = 64 * 1024;
/// Longest file of certificates: a whole system's is about 250 KiB.
const LONGEST_CA: u64 = 4 * 1024 * 1024;

/// The client for a source that says something about trust or proxy, else the common one.
pub(crate) fn client(settings: &Settings, access: &Access) -> Result<Client, Stop> {
    let mut builder = Client::builder()
        .no_proxy()
        // Several connections for one file: HTTP/2 would make them one.
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(settings.connect_timeout)
        .user_agent(concat!("inference-mesh/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &access.ca_file {
        let path = local(path, &settings.base_dir, settings.home.as_deref())?;
        builder = builder.tls_certs_only(authorities(&path)?);
    }
    if let Some(url) = &access.proxy {
        builder = builder.proxy(proxy(url)?);
    }
    builder.build().map_err(|error| {
        Error::Client {
            problem: error.to_string(),
        }
        .into()
    })
}

fn refused(why: String) -> SourceError {
    SourceError::Refused { why }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, SourceError> {
    let shown = path.display();
    let pem = read(path, LONGEST_CA)
        .map_err(|problem| refused(format!("certificate authority {shown}: {problem}")))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(refused(format!("{shown} holds no PEM certificate"))),
    }
}

/// Only for https: plaintext is for this machine alone, and a proxy would be another one.
fn proxy(text: &str) -> Result<Proxy, SourceError> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| refused("the proxy is not an http or https URL".to_owned()))?;
    if !url.username().is_empty() || url.password().is_some() {
        let why = "the proxy's URL must not carry a user name or password";
        return Err(refused(why.to_owned()));
    }
    if !readable(&url) {
        return Err(refused("the proxy's URL cannot be read".to_owned()));
    }
    Proxy::https(url).map_err(|_| refused("the proxy cannot be used".to_owned()))
}

/// The client reads addresses by other rules than ours, and goes around a proxy whose address it cannot read.
fn readable(url: &Url) -> bool {
    let read = url.as_str().parse::<Uri>();
    read.is_ok_and(|read| read.host() == url.host_str() && read.port_u16() == url.port())
}

/// The key of a source, if it names one.
pub(crate) fn key(
    settings: &Settings,
    access: &Access,
) -> Result<Option<Sensitive<String>>, SourceError> {
    let bad = |problem: String| SourceError::Credentials { problem };
    let (what, text) = match &access.credentials {
        None => return Ok(None),
        Some(Credentials::Env(name)) => {
            let what = format!("environment variable {name}");
            let text = std::env::var(name).map_err(|_| bad(format!("{what} is not set")))?;
            (what, text)
        }
        Some(Credentials::File(path)) => {
            let path = local(path, &settings.base_dir, settings.home.as_deref())?;
            let what = format!("file {}", path.display());
            let bytes = read(&path, LONGEST_KEY).map_err(|why| bad(format!("{what}: {why}")))?;
            let text = String::from_utf8(bytes).map_err(|_| bad(format!("{what} is not text")))?;
            (what, text)
        }
    };
    match text.trim() {
        "" => Err(bad(format!("{what} is empty"))),
        key => Ok(Some(Sensitive::new(key.to_owned()))),
    }
}

/// The key as a bearer token.
pub(crate) fn bearer(
    settings: &Settings,
    access: &Access,
) -> Result<Option<HeaderValue>, SourceError> {
    key(settings, access)?
        .map(|key| secret(&format!("Bearer {}", key.expose())))
        .transpose()
}

/// The two parts of a key `<name>:<secret>`.
pub(crate) fn pair(
    settings: &Settings,
    access: &Access,
    what: &str,
) -> Result<Option<(String, Sensitive<String>)>, SourceError> {
    let Some(key) = key(settings, access)? else {
        return Ok(None);
    };
    match key.expose().split_once(':') {
        Some((name, secret)) if !name.is_empty() && !secret.is_empty() => {
            Ok(Some((name.to_owned(), Sensitive::new(secret.to_owned()))))
        }
        _ => Err(SourceError::Credentials {
            problem: format!("the key must be {what}"),
        }),
    }
}

/// A header that no `Debug` output shows.
pub(crate) fn secret(text: &str) -> Result<HeaderValue, SourceError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| SourceError::Credentials {
        problem: "the key has characters that no header can carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {limit} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path) -> Access {
        Access {
            credentials: Some(Credentials::File(path.to_path_buf())),
            ..Access::default()
        }
    }

    #[test]
    fn a_key_is_trimmed_and_no_fault_of_it_shows_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let settings = Settings::default();
        std::fs::write(&path, "  hunter2\n").unwrap();
        let value = bearer(&settings, &of(&path)).unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer hunter2");
        assert!(!format!("{value:?}").contains("hunter2"));
        assert!(bearer(&settings, &Access::default()).unwrap().is_none());

        for (content, part) in [
            ("hunter2\nhunter2", "no header can carry"),
            ("", "is empty"),
        ] {
            std::fs::write(&path, content).unwrap();
            let message = bearer(&settings, &of(&path)).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        std::fs::write(&path, "hunter2").unwrap();
        let message = pair(&settings, &of(&path), "<user>:<password>")
            .unwrap_err()
            .to_string();
        assert!(message.contains("<user>:<password>") && !message.contains("hunter2"));
        std::fs::write(&path, vec![b'a'; 70_000]).unwrap();
        assert!(key(&settings, &of(&path)).is_err());
        assert!(key(&settings, &of(&folder.path().join("none"))).is_err());
    }

    #[test]
    fn a_proxy_is_a_web_address_without_a_password() {
        for bad in ["", "socks5://p", "p:3128", "http://u:p@p:3128"] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
        // The client would leave these out without a word, and go around them.
        for bad in ["${PROXY_HOST}", "{{proxy}}", "a\"b", "a`b"] {
            let refused = proxy(&format!("http://{bad}:3128")).expect_err(bad);
            assert!(refused.to_string().contains("proxy"), "{refused}");
        }
        for good in [
            "http://proxy.example:3128",
            "https://10.0.0.1",
            "http://[fd00::7]:3128/",
            "http://m\u{fc}nchen.example:3128",
        ] {
            assert!(proxy(good).is_ok(), "{good}");
        }
    }
}
