//! What a registry says about an artifact. Pure, over bytes from outside: sizes are limited before they
//! are read, digests are whole or refused. Refuses archives, because their bytes are not the file's.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::spec::ArtifactPath;

/// Largest manifest, as the distribution specification has it.
pub(super) const LARGEST: u64 = 4 * 1024 * 1024;
/// Most layers or manifests; real artifacts have tens.
const MOST: usize = 4096;
/// Names the file that a layer is.
const TITLE: &str = "org.opencontainers.image.title";

/// What a manifest is a list of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Files.
    Layers(Vec<Layer>),
    /// One other manifest.
    Manifest(Digest),
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    title: Option<String>,
    archive: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u64,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a manifest; what is wrong with it is said in a fragment.
pub(super) fn parse(bytes: &[u8]) -> Result<Content, String> {
    if bytes.len() as u64 > LARGEST {
        return Err(format!("the manifest is larger than {LARGEST} bytes"));
    }
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
    if manifest.schema_version != 2 {
        let version = manifest.schema_version;
        return Err(format!("not supported yet: manifest version {version}"));
    }
    match (manifest.layers, manifest.manifests) {
        (Some(layers), None) if layers.len() <= MOST => {
            let layers: Result<_, _> = layers.into_iter().map(layer).collect();
            layers.map(Content::Layers)
        }
        (None, Some(manifests)) => match manifests.as_slice() {
            [one] => digest(&one.digest).map(Content::Manifest),
            several => Err(format!(
                "an index of {} manifests: name one by its digest",
                several.len()
            )),
        },
        _ => Err("a manifest must have layers, at most 4096, or one manifest".to_owned()),
    }
}

fn layer(found: Descriptor) -> Result<Layer, String> {
    let kind = found.media_type.as_str();
    let archive = ["tar", "tar+gzip", "tar+zstd", "tar.gzip", "tar.zstd"]
        .iter()
        .any(|ending| kind.ends_with(ending));
    Ok(Layer {
        digest: digest(&found.digest)?,
        size: found.size,
        title: found
            .annotations
            .and_then(|mut annotations| annotations.remove(TITLE)),
        archive,
    })
}

fn digest(text: &str) -> Result<Digest, String> {
    if !text.starts_with("sha256:") {
        return Err("not supported yet: a digest that is not sha256".to_owned());
    }
    text.parse().map_err(|_| "a broken digest".to_owned())
}

/// The layer that is the artifact: by the wanted digest, else by its title, else the only one there is.
pub(super) fn choose<'l>(
    layers: &'l [Layer],
    artifact: &ArtifactPath,
    expected: Option<Digest>,
) -> Result<&'l Layer, Missing> {
    let wanted = |layer: &&Layer| Some(layer.digest) == expected;
    let named = |layer: &&Layer| layer.title.as_deref() == Some(artifact.as_str());
    let found = layers
        .iter()
        .find(wanted)
        .or_else(|| layers.iter().find(named));
    let found = match (found, layers) {
        (Some(found), _) => found,
        (None, [one]) => one,
        (None, _) => return Err(Missing::Absent),
    };
    if found.archive {
        return Err(Missing::Archive);
    }
    Ok(found)
}

/// Why no layer is the artifact.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// None has its digest or its name.
    Absent,
    /// It is packed in an archive.
    Archive,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn sha(seed: u8) -> String {
        format!("sha256:{}", Digest::of(&[seed]))
    }

    fn sample() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.inferencemesh.model",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha(9), "size": 2},
            "layers": [
                {"mediaType": "application/octet-stream", "digest": sha(1), "size": 10, "annotations": {TITLE: "deep/m.gguf"}},
                {"mediaType": "application/octet-stream", "digest": sha(2), "size": 20, "annotations": {TITLE: "m.gguf", "other": "x"}},
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha(3), "size": 30, "annotations": {TITLE: "t.gguf"}},
            ],
        })
    }

    fn layers(value: &Value) -> Vec<Layer> {
        match parse(value.to_string().as_bytes()) {
            Ok(Content::Layers(layers)) => layers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_artifact_is_found_by_digest_by_title_or_as_the_only_layer() {
        let layers = layers(&sample());
        let at = |path: &str, seed: Option<u8>| {
            let expected = seed.map(|seed| Digest::of(&[seed]));
            choose(&layers, &path.parse().unwrap(), expected).map(|layer| layer.size)
        };
        assert_eq!(at("deep/m.gguf", None), Ok(10));
        assert_eq!(at("m.gguf", None), Ok(20));
        assert_eq!(at("m.gguf", Some(1)), Ok(10), "the digest decides");
        assert_eq!(at("m.gguf", Some(7)), Ok(20));
        assert_eq!(at("none.gguf", None), Err(Missing::Absent));
        assert_eq!(at("t.gguf", None), Err(Missing::Archive));
        let only = choose(&layers[..1], &"any".parse().unwrap(), None);
        assert_eq!(only.map(|layer| layer.size), Ok(10));
    }

    #[test]
    fn an_index_is_followed_only_if_it_has_one_manifest() {
        let index = |count: u8| {
            let manifests: Vec<Value> = (0..count)
                .map(|seed| json!({"digest": sha(seed), "size": 1}))
                .collect();
            let index = json!({"schemaVersion": 2, "manifests": manifests});
            parse(index.to_string().as_bytes())
        };
        assert_eq!(index(1), Ok(Content::Manifest(Digest::of(&[0]))));
        assert!(index(0).is_err() && index(2).is_err());
    }

    #[test]
    fn what_is_no_manifest_of_today_is_refused() {
        let with = |pointer: &str, value: Value| {
            let mut sample = sample();
            *sample.pointer_mut(pointer).unwrap() = value;
            parse(sample.to_string().as_bytes()).unwrap_err()
        };
        for (pointer, value) in [
            ("/schemaVersion", json!(1)),
            ("/layers", json!(null)),
            ("/layers/0/digest", json!("sha512:00")),
            ("/layers/0/digest", json!("sha256:00")),
            ("/layers/0/digest", json!(sha(1)[7..])),
            ("/layers/0/size", json!(-1)),
            ("/layers/0/size", json!("10")),
            ("/layers/0/annotations", json!([])),
        ] {
            with(pointer, value);
        }
        let many = vec![json!({"digest": sha(1), "size": 1}); MOST + 1];
        with("/layers", json!(many));
        let large = usize::try_from(LARGEST + 1).unwrap();
        assert!(parse(&vec![b' '; large]).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_manifest_with_changed_bytes_never_gives_a_layer_without_a_whole_digest(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = sample().to_string().into_bytes();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(Content::Layers(layers)) = parse(&bytes) {
                let text = String::from_utf8_lossy(&bytes).to_lowercase();
                for layer in layers {
                    prop_assert!(text.contains(&layer.digest.to_string()));
                }
            }
        }
    }
}
