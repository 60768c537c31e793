//! The directory source: what is accepted, what is refused and how it says so, and that an edit which
//! is refused changes nothing.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use jiff::Timestamp;
    use mesh_dataplane::source::{FileSource, Loaded, Rejected};
    use mesh_dataplane::{SnapshotStore, clock};
    use tempfile::TempDir;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    const FLOOR: &str = "\
apiVersion: inferencemesh.dev/v1alpha1
kind: ModelCache
metadata: {name: tiny}
spec:
  type: Model
  license: Apache-2.0
  artifacts: [{path: tiny.gguf}]
  sources: [{file: {path: models}}]
---
apiVersion: inferencemesh.dev/v1alpha1
kind: InferenceBackend
metadata: {name: floor}
spec:
  inCluster: {modelRef: {name: tiny}, engine: Candle, replicas: 1, accelerator: {vendor: Cpu}}
  models: [{name: tiny}]
";

    fn policy(level: &str, expected: &str) -> String {
        format!(
            "\
apiVersion: inferencemesh.dev/v1alpha1
kind: SovereigntyPolicy
metadata: {{name: default}}
spec:
  defaults: {{privacy: {level}}}
  floor: {{backendRef: {{name: floor}}}}
  tests:
  - name: a card stays home
    request: {{text: \"pay 4111 1111 1111 1111\"}}
    expect: {{privacy: {expected}, servedBy: floor}}
"
        )
    }

    fn directory(policy: &str) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("floor.yaml"), FLOOR).expect("written");
        fs::write(dir.path().join("policy.yaml"), policy).expect("written");
        dir
    }

    fn load(dir: &Path) -> Result<Loaded, Rejected> {
        FileSource::new(dir, "default").load(Timestamp::now())
    }

    #[test]
    fn a_directory_that_keeps_its_promises_is_accepted_and_other_files_are_not_read() {
        let dir = directory(&policy("Public", "Restricted"));
        fs::write(dir.path().join("notes.txt"), "kind: [").expect("written");
        fs::write(dir.path().join(".hidden.yaml"), "kind: [").expect("written");
        let loaded = load(dir.path()).expect("accepted");
        assert_eq!(
            (loaded.snapshot.backends.len(), loaded.models.len()),
            (1, 1)
        );
    }

    #[test]
    fn a_policy_that_fails_its_own_test_is_refused_with_file_line_and_field() {
        let dir = directory(&policy("Public", "Internal"));
        let text = load(dir.path()).expect_err("refused").to_string();
        assert!(text.contains("policy.yaml:8:"), "{text}");
        assert!(
            text.contains("spec.tests[0]") && text.contains("a card stays home"),
            "{text}"
        );
        assert!(
            !text.contains("4111"),
            "the text of the request is not repeated: {text}"
        );
    }

    #[test]
    fn a_policy_that_admits_nothing_is_refused() {
        let nothing = policy("Public", "Restricted").replace(
            "  tests:",
            "  constraints: {licenses: {allow: [MIT]}}\n  tests:",
        );
        let text = load(directory(&nothing).path())
            .expect_err("refused")
            .to_string();
        assert!(
            text.contains("policy.yaml") && text.contains("admits"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_directory_and_a_missing_one_say_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = load(dir.path()).expect_err("refused").to_string();
        assert!(text.contains("holds no file that ends in .yaml"), "{text}");
        let text = load(&dir.path().join("absent"))
            .expect_err("refused")
            .to_string();
        assert!(text.contains("could not be read"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_edit_is_used_and_a_bad_one_changes_nothing_and_is_told() {
        let dir = directory(&policy("Public", "Restricted"));
        let source = FileSource::new(dir.path(), "default");
        let seen = source.fingerprint();
        let store = SnapshotStore::new(load(dir.path()).expect("accepted").snapshot);
        let stop = CancellationToken::new();
        let (told, mut hears) = mpsc::unbounded_channel();
        let accepts = told.clone();
        let watching = source.watch(
            seen,
            store.clone(),
            clock::system_clock(),
            stop.clone(),
            move |loaded| drop(accepts.send(Ok(loaded.snapshot.policies.len()))),
            move |rejected| drop(told.send(Err(rejected.to_string()))),
        );
        let editing = async {
            let edit =
                |text: &str| fs::write(dir.path().join("policy.yaml"), text).expect("written");
            edit("kind: [");
            let refused = hears.recv().await.expect("told").expect_err("a bad edit");
            assert!(refused.contains("policy.yaml:2:1: "), "{refused}");
            assert_eq!(
                (
                    store.current().policies.len(),
                    store.current().generation,
                    store.rejected()
                ),
                (1, 0, 1)
            );

            edit(&policy("Public", "Internal"));
            let refused = hears
                .recv()
                .await
                .expect("told")
                .expect_err("a broken promise");
            assert!(refused.contains("fails its own test"), "{refused}");
            assert_eq!((store.current().generation, store.rejected()), (0, 2));

            edit(&policy("Confidential", "Restricted"));
            assert_eq!(hears.recv().await.expect("told"), Ok(1));
            while store.current().generation == 0 {
                tokio::task::yield_now().await;
            }
            let level = store.current().policies[0].default_privacy;
            assert_eq!(level, Some(mesh_core::PrivacyLevel::Confidential));
            stop.cancel();
        };
        tokio::join!(watching, editing);
    }
}
