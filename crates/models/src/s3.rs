//! Objects of an S3-compatible store: addressed by path, signed with AWS Signature Version 4 in the query.
//! Without credentials the request is anonymous. Refuses prefixes that would climb out of the bucket.

use std::time::Duration;

use jiff::Timestamp;
use mesh_core::Sensitive;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use url::Url;

use crate::error::SourceError;
use crate::place::{checked, refused};
use crate::spec::ArtifactPath;

/// Region where none is named: what most stores that are not Amazon's take for granted.
const REGION: &str = "us-east-1";
/// How long a signature holds; every try makes a new one.
const VALID: Duration = Duration::from_hours(1);
/// Form of a key, for messages.
pub(crate) const FORM: &str = "<access key id>:<secret access key>, optionally :<session token>";

/// Where an object is, from the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) endpoint: Url,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) key: String,
}

impl Location {
    pub(crate) fn new(
        endpoint: &str,
        (bucket, region): (&str, Option<&str>),
        prefix: Option<&str>,
        artifact: &ArtifactPath,
    ) -> Result<Self, SourceError> {
        let key = match prefix.map(|prefix| prefix.trim_matches('/')) {
            None | Some("") => artifact.to_string(),
            Some(prefix) => {
                let prefix: ArtifactPath = prefix
                    .parse()
                    .map_err(|_| refused("`prefix` has empty or dotted parts"))?;
                format!("{prefix}/{artifact}")
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if matches!(bucket, "" | "." | "..") || !bucket.chars().all(plain) {
            return Err(refused("`bucket` must be the name of a bucket"));
        }
        let region = region.filter(|region| !region.is_empty()).unwrap_or(REGION);
        if !region.chars().all(plain) {
            return Err(refused("`region` must be the name of a region"));
        }
        Ok(Self {
            endpoint: checked(endpoint)?,
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            key,
        })
    }
}

/// An object that may be fetched.
pub(crate) struct Object {
    url: Url,
    bucket: Bucket,
    key: String,
    credentials: Option<Credentials>,
}

impl Object {
    pub(crate) fn new(
        location: Location,
        key: Option<(String, Sensitive<String>)>,
    ) -> Result<Self, SourceError> {
        let Location {
            endpoint,
            bucket,
            region,
            key: path,
        } = location;
        let bucket = Bucket::new(endpoint, UrlStyle::Path, bucket, region)
            .map_err(|error| refused(format!("`endpoint` and `bucket`: {error}")))?;
        let credentials = key.map(|(id, secret)| match secret.expose().split_once(':') {
            Some((secret, token)) => Credentials::new_with_token(id, secret, token),
            None => Credentials::new(id, secret.into_exposed()),
        });
        Ok(Self {
            url: bucket.object_url(&path),
            bucket,
            key: path,
            credentials,
        })
    }

    /// Its address, unsigned.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// A URL that may be asked for from `now` on.
    pub(crate) fn signed(&self, now: &Timestamp) -> Url {
        self.sign(now, VALID)
    }

    fn sign(&self, now: &Timestamp, valid: Duration) -> Url {
        self.bucket
            .get_object(self.credentials.as_ref(), &self.key)
            .sign_with_time(valid, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(prefix: Option<&str>, key: Option<(&str, &str)>) -> Object {
        let path = "models/ä b.gguf".parse().unwrap();
        let location =
            Location::new("https://s3.example/base", ("b", None), prefix, &path).unwrap();
        let key = key.map(|(id, secret)| (id.to_owned(), Sensitive::new(secret.to_owned())));
        Object::new(location, key).unwrap()
    }

    /// "Authenticating Requests: Using Query Parameters" of Amazon S3's API reference signs a GET of
    /// `test.txt` at the virtual host `examplebucket.s3.amazonaws.com`. The signature covers host and
    /// path only, so a bucket address that gives the same two has to give the same signature.
    #[test]
    fn the_example_of_amazons_documentation_has_its_signature() {
        let endpoint = Url::parse("https://s3.amazonaws.com").unwrap();
        let bucket = Bucket::new(
            endpoint,
            UrlStyle::VirtualHost,
            "examplebucket",
            "us-east-1",
        )
        .unwrap();
        let object = Object {
            url: bucket.object_url("test.txt"),
            bucket,
            key: "test.txt".to_owned(),
            credentials: Some(Credentials::new(
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            )),
        };
        let date = "2013-05-24T00:00:00Z".parse().unwrap();
        let url = object.sign(&date, Duration::from_hours(24));
        let signature = url
            .query_pairs()
            .find(|(name, _)| name == "X-Amz-Signature")
            .map(|(_, value)| value.into_owned());
        assert_eq!(
            signature.as_deref(),
            Some("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
        );
    }

    #[test]
    fn an_object_is_addressed_by_path_and_anonymous_without_a_key() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            object(Some("/pre/fix/"), None).signed(&now).as_str(),
            "https://s3.example/base/b/pre/fix/models/%C3%A4%20b.gguf"
        );
        let signed = object(None, Some(("id", "hunter2:session"))).signed(&now);
        let text = signed.as_str();
        assert!(text.contains("us-east-1%2Fs3%2Faws4_request") && text.contains("session"));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!crate::place::shown(&signed).contains("X-Amz"));
    }

    #[test]
    fn what_would_leave_the_bucket_is_refused() {
        let path = "m".parse().unwrap();
        for (bucket, prefix) in [
            ("..", None),
            ("a/b", None),
            ("", None),
            ("b", Some("../x")),
            ("b", Some("a//b")),
        ] {
            let found = Location::new("https://s3.example", (bucket, None), prefix, &path);
            assert!(found.is_err(), "{bucket} {prefix:?}");
        }
        assert!(Location::new("http://s3.example", ("b", None), None, &path).is_err());
    }
}
