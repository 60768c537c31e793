//! Only callers that mean this listener are heard: `Host` is a loopback name or listed (a page that
//! points its own name at our address is not), and an `Origin` is ours (a page of somebody else in
//! a browser of this machine is not).

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, header};

use crate::Error;

/// Refuses a request that means somebody else, or comes from a page of somebody else. `target`: the authority of a request in
/// absolute form, which counts beside `Host`; `listed`: names that are ours besides those of loopback.
///
/// # Errors
/// [`Error::ForeignOrigin`].
pub fn examine(
    headers: &HeaderMap,
    target: Option<&Authority>,
    listed: &[String],
) -> Result<(), Error> {
    let foreign = |header| Error::ForeignOrigin { header };
    let host = single(headers, &header::HOST)
        .and_then(|value| value.to_str().ok()?.parse::<Authority>().ok());
    let asked: Vec<&Authority> = host.iter().chain(target).collect();
    if asked.is_empty() || asked.iter().any(|authority| !ours(authority, listed)) {
        return Err(foreign("Host"));
    }
    if headers.get(header::HOST).is_some() && host.is_none() {
        return Err(foreign("Host"));
    }
    if headers.contains_key(header::ORIGIN) {
        let origin = single(headers, &header::ORIGIN).and_then(origin_of);
        let same = |origin: &Authority| {
            asked.iter().all(|authority| *authority == origin) || named(origin, listed)
        };
        if !origin.as_ref().is_some_and(same) {
            return Err(foreign("Origin"));
        }
    }
    Ok(())
}

fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// `https://name:port`; `null` and other schemes belong to nobody.
fn origin_of(value: &HeaderValue) -> Option<Authority> {
    let text = value.to_str().ok()?;
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))?;
    rest.parse().ok()
}

fn ours(authority: &Authority, listed: &[String]) -> bool {
    loopback(authority.host()) || named(authority, listed)
}

/// Listed either with its port or without.
fn named(authority: &Authority, listed: &[String]) -> bool {
    listed.iter().any(|name| {
        name.eq_ignore_ascii_case(authority.host()) || name.eq_ignore_ascii_case(authority.as_str())
    })
}

/// `localhost`, names below it (RFC 6761: always loopback), and loopback addresses.
fn loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(&host);
    bare.parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, header};

    use super::examine;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn fine(pairs: &[(HeaderName, &'static str)]) -> bool {
        let listed = [
            String::from("mesh.example"),
            String::from("lab.example:9000"),
        ];
        examine(&headers(pairs), None, &listed).is_ok()
    }

    #[test]
    fn loopback_and_listed_hosts_are_heard_and_others_are_not() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "127.8.9.1",
            "[::1]:8080",
            "app.localhost",
            "mesh.example",
            "Mesh.Example:443",
            "lab.example:9000",
        ] {
            assert!(fine(&[(header::HOST, host)]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.20.4",
            "0.0.0.0",
            "lab.example:9001",
            "",
            "a b",
        ] {
            assert!(!fine(&[(header::HOST, host)]), "{host}");
        }
        assert!(!fine(&[]));
        assert!(!fine(&[
            (header::HOST, "localhost"),
            (header::HOST, "localhost")
        ]));
    }

    #[test]
    fn the_target_of_an_absolute_request_counts_too() {
        let target = "evil.example".parse().expect("an authority");
        let local = headers(&[(header::HOST, "localhost")]);
        assert!(examine(&local, Some(&target), &[]).is_err());
    }

    #[test]
    fn an_origin_must_be_the_one_that_is_called_or_listed() {
        let host = (header::HOST, "localhost:8080");
        let with = |origin| fine(&[host.clone(), (header::ORIGIN, origin)]);
        assert!(with("http://localhost:8080"));
        assert!(with("https://mesh.example"));
        for foreign in [
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "https://evil.example",
            "null",
            "file://",
            "",
        ] {
            assert!(!with(foreign), "{foreign}");
        }
    }
}
