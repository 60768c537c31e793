//! Artifacts in an OCI registry (distribution specification, API version 2): manifest by tag or digest,
//! then the layer that is the file. Anonymous, basic, or with a token of the registry's own token server.
//! Refuses manifests whose bytes are not those of the wanted digest, and indexes of several manifests.

mod manifest;
mod token;

use reqwest::Response;
use reqwest::header::{self, HeaderMap, HeaderValue};
use url::Url;

use crate::digest::Digest;
use crate::error::{SourceError, Stop};
use crate::http::{Asker, Start, judge_status};
use crate::place::{append, checked, refused, shown};
use crate::spec::ArtifactPath;
use manifest::{Content, Missing};
pub(crate) use token::{Login, login};

/// What is understood, the newest first.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Form of a key, for messages.
pub(crate) const FORM: &str = "<user>:<password>";
/// The public registry goes by another name than its host.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Registry, repository, and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    registry: Url,
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

impl Reference {
    pub(crate) fn new(text: &str) -> Result<Self, SourceError> {
        let wrong = || refused("`reference` must be registry/repository:tag or …@sha256:<digest>");
        let (registry, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (rest, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| wrong())?)),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            None => (rest, "latest"),
            Some((repository, tag)) => (repository, tag),
        };
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.len() <= 255
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let host = registry.contains(['.', ':']) || registry == "localhost";
        if !host || !plain(tag) || !repository.split('/').all(plain) {
            return Err(wrong());
        }
        let official = registry == HUB.0 && !repository.contains('/');
        let repository = if official {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let host = if registry == HUB.0 { HUB.1 } else { registry };
        // Plaintext is for this machine alone.
        let registry = checked(&format!("http://{host}/"))
            .or_else(|_| checked(&format!("https://{host}/")))
            .map_err(|_| wrong())?;
        Ok(Self {
            registry,
            repository,
            tag: tag.to_owned(),
            digest,
        })
    }

    fn url(&self, kind: &str, name: &str) -> Result<Url, SourceError> {
        let mut url = self.registry.clone();
        let parts = std::iter::once("v2")
            .chain(self.repository.split('/'))
            .chain([kind, name]);
        append(&mut url, parts)?;
        Ok(url)
    }
}

/// One file in a registry.
pub(crate) struct Blob {
    url: Url,
    login: Login,
    /// What the manifest says its bytes hash to.
    pub(crate) sha256: Digest,
}

impl Blob {
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// A request for it, with a token that has just been given.
    pub(crate) async fn start(&self, asker: &Asker<'_>) -> Result<Start, Stop> {
        Ok(Start {
            url: self.url.clone(),
            authorization: self.login.authorization(asker).await?,
        })
    }
}

/// Finds the layer that is `artifact`.
pub(crate) async fn locate(
    asker: &Asker<'_>,
    reference: &Reference,
    mut login: Login,
    artifact: &ArtifactPath,
    expected: Option<Digest>,
) -> Result<Blob, Stop> {
    let mut named = reference.digest;
    for _ in 0..2 {
        let name = named.map_or_else(
            || reference.tag.clone(),
            |digest| format!("sha256:{digest}"),
        );
        let url = reference.url("manifests", &name)?;
        let bytes = fetch_manifest(asker, &url, reference, &mut login).await?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = named.filter(|expected| *expected != actual) {
            return Err(SourceError::OtherDigest {
                what: format!("the manifest at {}", shown(&url)),
                expected,
                actual,
            }
            .into());
        }
        let at = |why: String| refused(format!("{}: {why}", shown(&url)));
        let layers = match manifest::parse(&bytes).map_err(at)? {
            Content::Layers(layers) => layers,
            Content::Manifest(digest) => {
                named = Some(digest);
                continue;
            }
        };
        let layer = manifest::choose(&layers, artifact, expected).map_err(|missing| {
            let what = format!("{artifact} in {}", shown(&url));
            match missing {
                Missing::Absent => SourceError::NotFound { what },
                Missing::Archive => refused(format!("{what} is packed in an archive")),
            }
        })?;
        if let Some(expected) = expected.filter(|expected| *expected != layer.digest) {
            return Err(SourceError::OtherDigest {
                what: format!("{artifact} in {}", shown(&url)),
                expected,
                actual: layer.digest,
            }
            .into());
        }
        let limit = asker.settings.max_bytes;
        if layer.size > limit {
            return Err(SourceError::TooLarge { limit }.into());
        }
        return Ok(Blob {
            url: reference.url("blobs", &format!("sha256:{}", layer.digest))?,
            login,
            sha256: layer.digest,
        });
    }
    Err(refused("an index that leads to an index").into())
}

/// Asks once as it is, and once more with what the registry then demands.
async fn fetch_manifest(
    asker: &Asker<'_>,
    url: &Url,
    reference: &Reference,
    login: &mut Login,
) -> Result<Vec<u8>, Stop> {
    let mut response = ask(asker, url, login).await?;
    if response.status() == reqwest::StatusCode::UNAUTHORIZED
        && login.challenged(
            response.headers(),
            &reference.registry,
            &reference.repository,
        )?
    {
        response = ask(asker, url, login).await?;
    }
    judge_status(url, response.status())?;
    asker.small(response, url, manifest::LARGEST).await
}

async fn ask(asker: &Asker<'_>, url: &Url, login: &Login) -> Result<Response, Stop> {
    let start = Start {
        url: url.clone(),
        authorization: login.authorization(asker).await?,
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    Ok(asker.get(&start, &headers).await?.response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_of(reference: &str) -> Result<String, String> {
        let reference = Reference::new(reference).map_err(|error| error.to_string())?;
        let name = match reference.digest {
            Some(digest) => format!("sha256:{digest}"),
            None => reference.tag.clone(),
        };
        let url = reference.url("manifests", &name);
        url.map(Into::into).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_names_registry_repository_and_tag_or_digest() {
        let digest = Digest::of(b"x");
        for (reference, url) in [
            ("r.example/a/b:1", "https://r.example/v2/a/b/manifests/1"),
            (
                "r.example:5000/a",
                "https://r.example:5000/v2/a/manifests/latest",
            ),
            (
                "127.0.0.1:5000/a:x",
                "http://127.0.0.1:5000/v2/a/manifests/x",
            ),
            ("localhost/a", "http://localhost/v2/a/manifests/latest"),
            (
                "docker.io/ubuntu:24",
                "https://registry-1.docker.io/v2/library/ubuntu/manifests/24",
            ),
        ] {
            assert_eq!(manifest_of(reference).as_deref(), Ok(url));
        }
        let pinned = format!("r.example/a:1@sha256:{digest}");
        assert!(
            manifest_of(&pinned)
                .unwrap()
                .ends_with(&format!("manifests/sha256:{digest}"))
        );
        for bad in [
            "",
            "a",
            "ubuntu/x",
            "r.example/",
            "r.example/../a",
            "r.example/a@sha256:00",
            "r.example/a:",
            "u:p@r.example/a",
        ] {
            assert!(manifest_of(bad).is_err(), "{bad}");
        }
    }
}
