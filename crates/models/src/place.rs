//! From a source and an artifact to the one file or URL to look at. Pure. Refuses plaintext HTTP
//! beyond loopback, passwords in URLs, and redirects that would leave https.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use crate::error::SourceError;
use crate::oci::Reference;
use crate::s3::Location;
use crate::spec::{ArtifactPath, SourceSpec};

/// The public hub, used when a source names no endpoint.
const HUB: &str = "https://huggingface.co";

/// Where one artifact of one source is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder (then the artifact lies in it) or the file itself.
    Path(PathBuf),
    /// The same, but the file is to be copied.
    Copy {
        /// As above.
        path: PathBuf,
        /// Where the mount begins.
        root: PathBuf,
    },
    /// A URL that may be fetched.
    Url(Url),
    /// An object of a bucket.
    Object(Location),
    /// An artifact in a registry.
    Registry(Reference),
}

/// Finds the place. `base_dir` is where relative paths start; `home` stands for `~`.
pub(crate) fn place(
    source: &SourceSpec,
    artifact: &ArtifactPath,
    base_dir: &Path,
    home: Option<&Path>,
) -> Result<Place, SourceError> {
    match source {
        SourceSpec::File { path } => local(path, base_dir, home).map(Place::Path),
        SourceSpec::Mounted {
            path, copy_from, ..
        } => Ok(match copy_from {
            Some(root) => Place::Copy {
                path: path.clone(),
                root: root.clone(),
            },
            None => Place::Path(path.clone()),
        }),
        SourceSpec::Http { url, .. } => http(url, artifact).map(Place::Url),
        SourceSpec::HuggingFace {
            repo,
            revision,
            endpoint,
            files,
            ..
        } => {
            let there = there(files, artifact)?;
            let endpoint = endpoint.as_deref().unwrap_or(HUB);
            hub(repo, revision, endpoint, &there).map(Place::Url)
        }
        SourceSpec::S3 {
            endpoint,
            bucket,
            prefix,
            region,
            ..
        } => {
            let bucket = (bucket.as_str(), region.as_deref());
            Location::new(endpoint, bucket, prefix.as_deref(), artifact).map(Place::Object)
        }
        SourceSpec::Oci { reference, .. } => Reference::new(reference).map(Place::Registry),
    }
}

pub(crate) fn refused(why: impl Into<String>) -> SourceError {
    SourceError::Refused { why: why.into() }
}

pub(crate) fn local(
    path: &Path,
    base_dir: &Path,
    home: Option<&Path>,
) -> Result<PathBuf, SourceError> {
    if path.as_os_str().is_empty() {
        return Err(refused("an empty path"));
    }
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Ok(home.join(rest)),
        (Ok(_), None) => Err(refused(
            "`~` is used, but no home folder is known: set HOME or write the whole path",
        )),
        (Err(_), _) => Ok(base_dir.join(path)),
    }
}

/// What an artifact is called in a repository.
fn there(
    files: &BTreeMap<String, String>,
    artifact: &ArtifactPath,
) -> Result<ArtifactPath, SourceError> {
    match files.get(artifact.as_str()) {
        None => Ok(artifact.clone()),
        Some(path) => path
            .parse()
            .map_err(|error| refused(format!("`files` of {artifact}: {error}"))),
    }
}

fn http(text: &str, artifact: &ArtifactPath) -> Result<Url, SourceError> {
    let mut url = checked(text)?;
    if url.path().ends_with('/') {
        append(&mut url, artifact.segments())?;
    }
    Ok(url)
}

fn hub(
    repo: &str,
    revision: &str,
    endpoint: &str,
    artifact: &ArtifactPath,
) -> Result<Url, SourceError> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() != 2 || !parts.iter().all(|part| plain(part)) {
        return Err(refused("`repo` must be owner/name"));
    }
    if revision.is_empty() || revision.len() > 256 || revision.chars().any(char::is_control) {
        return Err(refused("`revision` must be a commit, branch or tag"));
    }
    let mut url = checked(endpoint)?;
    append(
        &mut url,
        parts
            .into_iter()
            .chain(["resolve", revision])
            .chain(artifact.segments()),
    )?;
    Ok(url)
}

/// Appends segments, each escaped as one (a slash in a revision becomes `%2F`).
pub(crate) fn append<'a>(
    url: &mut Url,
    segments: impl Iterator<Item = &'a str>,
) -> Result<(), SourceError> {
    let Ok(mut path) = url.path_segments_mut() else {
        return Err(refused("the URL cannot be a folder"));
    };
    path.pop_if_empty().extend(segments);
    Ok(())
}

pub(crate) fn checked(text: &str) -> Result<Url, SourceError> {
    let url = Url::parse(text).map_err(|error| refused(format!("not a URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("a URL must not carry a user name or password"));
    }
    if !secure(&url) {
        return Err(refused(format!(
            "{} is not https (plaintext is allowed on loopback only)",
            shown(&url)
        )));
    }
    Ok(url)
}

/// True for https, and for http to this machine.
fn secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => loopback(url),
        _ => false,
    }
}

pub(crate) fn loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// Where a redirect leads, if it may be followed: https stays https, and only what already began on
/// plaintext loopback may stay there.
pub(crate) fn redirect(from: &Url, location: &str) -> Result<Url, SourceError> {
    let target = from
        .join(location)
        .map_err(|error| refused(format!("redirect to no URL: {error}")))?;
    let downgrade = from.scheme() == "https" && target.scheme() != "https";
    if downgrade || !secure(&target) {
        return Err(refused(format!(
            "redirect to {}, which is not https",
            shown(&target)
        )));
    }
    if from.scheme() == "https" && loopback(&target) && !loopback(from) {
        return Err(refused("redirect from the network to this machine"));
    }
    Ok(target)
}

/// A URL as it may be shown: without user, query and fragment, where secrets are.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot have a user part.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// [`shown`] for text that may not be a URL.
pub(crate) fn shown_text(text: &str) -> String {
    Url::parse(text).map_or_else(|_| "(not a URL)".to_owned(), |url| shown(&url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Access, InvalidPath};

    fn at(source: &SourceSpec, artifact: &str) -> Result<Place, String> {
        place(
            source,
            &artifact
                .parse()
                .map_err(|error: InvalidPath| error.to_string())?,
            Path::new("/base"),
            Some(Path::new("/home/ada")),
        )
        .map_err(|error| error.to_string())
    }

    fn url(source: &SourceSpec, artifact: &str) -> Result<String, String> {
        match at(source, artifact)? {
            Place::Url(url) => Ok(url.into()),
            other => Err(format!("{other:?}")),
        }
    }

    fn http(url: &str) -> SourceSpec {
        SourceSpec::Http {
            url: url.to_owned(),
            access: Access::default(),
        }
    }

    fn hub(repo: &str, revision: &str, endpoint: Option<&str>) -> SourceSpec {
        SourceSpec::HuggingFace {
            repo: repo.into(),
            revision: revision.into(),
            endpoint: endpoint.map(Into::into),
            files: BTreeMap::new(),
            access: Access::default(),
        }
    }

    #[test]
    fn paths_start_at_home_at_the_base_or_at_the_root() {
        for (path, found) in [
            ("~/m", "/home/ada/m"),
            ("m", "/base/m"),
            ("/m", "/m"),
            ("~ada/m", "/base/~ada/m"),
        ] {
            assert_eq!(
                at(&SourceSpec::File { path: path.into() }, "a"),
                Ok(Place::Path(found.into()))
            );
        }
    }

    #[test]
    fn a_hub_url_escapes_the_revision_as_one_segment() {
        let found = url(&hub("own/na.me", "refs/pr/1", None), "a b/m?.gguf");
        assert_eq!(
            found.unwrap(),
            "https://huggingface.co/own/na.me/resolve/refs%2Fpr%2F1/a%20b/m%3F.gguf"
        );
        let mirror = url(&hub("o/n", "main", Some("https://mirror.example/hf/")), "m");
        assert_eq!(
            mirror.unwrap(),
            "https://mirror.example/hf/o/n/resolve/main/m"
        );
        for repo in ["", "a", "a/b/c", "../b", "a/..", "a/b?x"] {
            assert!(url(&hub(repo, "main", None), "m").is_err(), "{repo}");
        }
    }

    #[test]
    fn a_url_with_a_slash_at_its_end_is_a_folder() {
        assert_eq!(
            url(&http("https://e.example/d/"), "x/m").unwrap(),
            "https://e.example/d/x/m"
        );
        assert_eq!(
            url(&http("https://e.example/f?sig=1"), "x/m").unwrap(),
            "https://e.example/f?sig=1"
        );
    }

    #[test]
    fn plaintext_is_refused_beyond_loopback_and_so_are_passwords() {
        for fine in [
            "http://127.0.0.1:1/m",
            "http://[::1]/m",
            "http://localhost/m",
        ] {
            assert!(url(&http(fine), "m").is_ok(), "{fine}");
        }
        for bad in [
            "http://e.example/m",
            "http://10.0.0.1/m",
            "ftp://e.example/m",
            "file:///m",
            "https://u:p@e.example/m",
            "m",
        ] {
            let message = url(&http(bad), "m").unwrap_err();
            assert!(!message.contains(":p@"), "{message}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_https_and_never_turns_to_this_machine() {
        let from = Url::parse("https://e.example/a").unwrap();
        assert_eq!(
            redirect(&from, "/b?sig=1").unwrap().as_str(),
            "https://e.example/b?sig=1"
        );
        for to in [
            "http://e.example/b",
            "http://127.0.0.1/b",
            "https://127.0.0.1/b",
            "file:///etc/passwd",
            "data:,x",
        ] {
            assert!(redirect(&from, to).is_err(), "{to}");
        }
        let here = Url::parse("http://127.0.0.1:1/a").unwrap();
        assert!(redirect(&here, "/b").is_ok());
        assert!(redirect(&here, "http://e.example/b").is_err());
    }
}
