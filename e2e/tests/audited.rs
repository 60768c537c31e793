//! The durable audit of one machine as a user meets it: the built `mesh` writes before it sends, is killed without a
//! warning, goes on, and what was answered is there and holds. Needs `MESH_BINARY`, which `cargo xtask test` sets;
//! without it each test says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use mesh_e2e::http::{Connection, Response};
    use mesh_e2e::mesh::{BINARY, Mesh, binary, run};
    use mesh_e2e::upstream::Upstream;
    use serde_json::{Value, json};

    const CLOUD: &str = include_str!("kinds/cloud.yaml");
    const FLOOR: &str = include_str!("kinds/floor.yaml");
    const TEXT: &str = "A harbor at night, and nobody's business.";

    fn tested() -> Option<PathBuf> {
        let found = binary();
        if found.is_none() {
            assert!(
                std::env::var("CI").is_err(),
                "{BINARY} is not set, so the binary cannot be tested"
            );
            println!(
                "skipped: {BINARY} is not set; `cargo xtask test` builds the binary and sets it"
            );
        }
        found
    }

    /// A cloud and a floor, and a policy that wants everything recorded.
    fn kinds(folder: &Path, upstream: &Upstream) -> PathBuf {
        let kinds = folder.join("kinds");
        fs::create_dir(&kinds).unwrap();
        let cloud = CLOUD.replace("UPSTREAM", &upstream.url);
        fs::write(kinds.join("cloud.yaml"), cloud).unwrap();
        let asks = format!("{}\n  audit: {{durableFrom: Public}}\n", FLOOR.trim_end());
        fs::write(kinds.join("floor.yaml"), asks).unwrap();
        kinds
    }

    fn ask(mesh: &Mesh) -> Response {
        let body = json!({"model": "auto", "max_tokens": 8, "messages": [{"role": "user", "content": TEXT}]});
        let mut connection = Connection::open(&mesh.api).unwrap();
        let answer = connection.post("/v1/chat/completions", &[], &body.to_string());
        answer.unwrap()
    }

    #[test]
    fn what_was_sent_was_written_before_and_outlives_a_kill() {
        let Some(binary) = tested() else { return };
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let kinds = kinds(folder.path(), &upstream);
        let (store, audit) = (folder.path().join("store"), folder.path().join("audit"));
        let args: [&OsStr; 4] = [
            "--models-dir".as_ref(),
            store.as_ref(),
            "--audit-dir".as_ref(),
            audit.as_ref(),
        ];
        let mut sent = Vec::new();
        for _ in 0..2 {
            let mesh = Mesh::start(&binary, &kinds, &args).unwrap();
            assert!(mesh.written().contains("audit in "), "{}", mesh.written());
            for _ in 0..3 {
                let answer = ask(&mesh);
                assert_eq!(answer.header("mesh-backend"), Some("example-cloud"));
                sent.push(answer.header("mesh-decision").unwrap().to_owned());
            }
            mesh.kill().unwrap();
        }
        assert_eq!(upstream.chats(), 6);

        let place = audit.to_string_lossy();
        let of = |command: &str, more: &[&str]| {
            let args = [&["audit", command, &place, "--output=json"], more].concat();
            let ended = run(&binary, &args).unwrap();
            assert!(ended.status.success(), "{}", ended.output);
            let said: Value = serde_json::from_str(&ended.output).unwrap();
            said
        };
        assert_eq!(of("verify", &[])["holds"], true);
        let entries = of("show", &["--limit=0"])["entries"].clone();
        let entries = entries.as_array().unwrap();
        for decision in sent {
            let about = |event: &str| {
                let mut all = entries.iter().map(|one| &one["entry"]);
                all.any(|one| {
                    let id = match event {
                        "decided" => &one["decision"]["decision"],
                        _ => &one["decision"],
                    };
                    one["event"] == event && *id == *decision
                })
            };
            assert!(about("decided") && about("sending"), "{decision}");
        }
        for file in fs::read_dir(&audit).unwrap() {
            let text = fs::read(file.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("harbor"));
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_ends_the_start_and_is_named() {
        let Some(binary) = tested() else { return };
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let kinds = kinds(folder.path(), &upstream);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let (kinds, file) = (kinds.to_string_lossy(), file.to_string_lossy());
        let ports = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let args = [&["up", &kinds, "--audit-dir", &file], &ports[..]].concat();
        let ended = run(&binary, &args).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
        for words in ["spec.audit", "--audit-dir", &*file] {
            assert!(ended.output.contains(words), "{words}: {}", ended.output);
        }
    }
}
