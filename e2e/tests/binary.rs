//! The built `mesh` as a user meets it: starting, serving, refusing, ending. Needs `MESH_BINARY`, which
//! `cargo xtask test` sets; without it each test says that it is skipped, and fails with `CI=true`.

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::net::TcpListener;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use mesh_e2e::http::Connection;
    use mesh_e2e::mesh::{BINARY, Mesh, binary, run};
    use mesh_e2e::upstream::Upstream;
    use tempfile::TempDir;

    const FLOOR: &str = include_str!("kinds/floor.yaml");
    const CLOUD: &str = include_str!("kinds/cloud.yaml");
    const PEER: &str = include_str!("kinds/peer.yaml");
    const CHAT: &str = "/v1/chat/completions";
    const CARD: &str = "4111 1111 1111 1111";

    /// A folder of kinds and a store beside it.
    struct World {
        binary: PathBuf,
        folder: TempDir,
    }

    impl World {
        /// None where there is no binary to test.
        fn new(files: &[(&str, &str)]) -> Option<Self> {
            let Some(binary) = binary() else {
                assert!(
                    std::env::var("CI").is_err(),
                    "{BINARY} is not set, so the binary cannot be tested"
                );
                println!(
                    "skipped: {BINARY} is not set; `cargo xtask test` builds the binary and sets it"
                );
                return None;
            };
            let world = Self {
                binary,
                folder: tempfile::tempdir().unwrap(),
            };
            fs::create_dir(world.kinds()).unwrap();
            for (name, text) in files {
                fs::write(world.kinds().join(name), text).unwrap();
            }
            Some(world)
        }

        fn kinds(&self) -> PathBuf {
            self.folder.path().join("kinds")
        }

        fn store(&self) -> PathBuf {
            self.folder.path().join("store")
        }

        fn start(&self, more: &[&OsStr]) -> Mesh {
            let store = self.store();
            let args = [&["--models-dir".as_ref(), store.as_os_str()], more].concat();
            Mesh::start(&self.binary, &self.kinds(), &args).unwrap()
        }

        /// Runs a command that ends by itself.
        fn run(&self, args: &[&str]) -> (Option<i32>, String) {
            let ended = run(&self.binary, args).unwrap();
            (ended.status.code(), ended.output)
        }

        fn up(&self, dir: &Path, listen: &str) -> (Option<i32>, String) {
            let (dir, store) = (dir.to_string_lossy(), self.store());
            let store = store.to_string_lossy();
            self.run(&[
                "up",
                &dir,
                "--listen",
                listen,
                "--admin-listen",
                "127.0.0.1:0",
                "--models-dir",
                &store,
            ])
        }
    }

    fn cloud(upstream: &Upstream) -> String {
        CLOUD.replace("UPSTREAM", &upstream.url)
    }

    fn ask(mesh: &Mesh, model: &str, text: &str) -> mesh_e2e::http::Response {
        let body = serde_json::json!({
            "model": model, "max_tokens": 8, "messages": [{"role": "user", "content": text}],
        });
        Connection::open(&mesh.api)
            .unwrap()
            .post(CHAT, &[], &body.to_string())
            .unwrap()
    }

    #[test]
    fn a_card_number_stays_on_the_floor_and_no_byte_reaches_the_cloud() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&[]);
        let public = ask(&mesh, "auto", "Hello");
        assert_eq!(
            (public.status, public.header("mesh-backend")),
            (200, Some("example-cloud")),
            "{}",
            public.text()
        );
        let chats = upstream.chats();
        let private = ask(&mesh, "auto", &format!("Charge {CARD}"));
        assert_eq!(
            (private.status, private.header("mesh-backend")),
            (200, Some("floor")),
            "{}",
            private.text()
        );
        assert_eq!(private.header("mesh-privacy"), Some("restricted"));
        assert_eq!(
            private.header("mesh-degraded"),
            None,
            "it was served as planned"
        );
        let named = ask(&mesh, "big", &format!("Charge {CARD}"));
        assert_eq!(
            named.header("mesh-degraded"),
            Some("model_substituted"),
            "{}",
            named.text()
        );
        assert_eq!(upstream.chats(), chats);
        assert!(!upstream.saw("4111"));
    }

    #[test]
    fn when_the_cloud_is_gone_the_floor_answers_and_says_so() {
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let Some(world) = World::new(&[
            ("floor.yaml", FLOOR),
            ("cloud.yaml", &CLOUD.replace("UPSTREAM", &nobody)),
        ]) else {
            return;
        };
        let mesh = world.start(&[]);
        let answer = ask(&mesh, "auto", "Hello");
        assert_eq!(
            (answer.status, answer.header("mesh-backend")),
            (200, Some("floor")),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("mesh-degraded"), Some("floor_only"));
    }

    #[test]
    fn what_a_caller_writes_appears_in_no_log_and_no_metric() {
        let canary = "canary-7f3a91";
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&["--log".as_ref(), "trace".as_ref()]);
        let mut connection = Connection::open(&mesh.api).unwrap();
        let key = format!("Bearer {canary}");
        let headers = [
            ("authorization", key.as_str()),
            ("user-agent", canary),
            ("x-custom", canary),
        ];
        for model in ["auto", "local", "big", "smollm2"] {
            let body = serde_json::json!({
                "model": model, "max_tokens": 4, "user": canary, "metadata": {canary: canary},
                "messages": [{"role": "system", "content": canary}, {"role": "user", "content": canary, "name": canary}],
            });
            connection.post(CHAT, &headers, &body.to_string()).unwrap();
            connection
                .post("/mesh/v1/explain", &headers, &body.to_string())
                .unwrap();
        }
        let broken = format!("{{\"messages\": \"{canary}\", \"{canary}\": }}");
        connection.post(CHAT, &headers, &broken).unwrap();
        connection
            .post(
                CHAT,
                &headers,
                &format!("{{\"model\": \"auto\", \"messages\": \"{canary}\"}}"),
            )
            .unwrap();
        let backends = connection
            .send("GET", "/mesh/v1/backends", &[], b"")
            .unwrap();
        let metrics = Connection::open(&mesh.admin)
            .unwrap()
            .send("GET", "/metrics", &[], b"")
            .unwrap();
        assert_eq!((backends.status, metrics.status), (200, 200));
        assert!(
            metrics.text().contains("decisions_total"),
            "{}",
            metrics.text()
        );
        assert!(!metrics.text().contains(canary) && !backends.text().contains(canary));
        let written = mesh.interrupt().unwrap().output;
        let line = written.lines().find(|line| line.contains(canary));
        assert_eq!(line, None);
    }

    #[test]
    fn a_foreign_page_and_a_foreign_name_are_refused() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&[]);
        let body = r#"{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}"#;
        let before = upstream.chats();
        let send = |headers: &[(&str, &str)]| {
            Connection::open(&mesh.api)
                .unwrap()
                .send("POST", CHAT, headers, body.as_bytes())
        };
        let json = ("content-type", "application/json");
        assert_eq!(
            send(&[json, ("origin", "https://evil.example")])
                .unwrap()
                .status,
            403
        );
        let plain = send(&[("content-type", "text/plain")]).unwrap().status;
        assert!((400..500).contains(&plain), "{plain}");
        let mut foreign = Connection::open(&mesh.api).unwrap();
        foreign.call_it("evil.example");
        let status = foreign.post(CHAT, &[], body).unwrap().status;
        assert!((400..500).contains(&status), "{status}");
        assert_eq!(upstream.chats(), before);
    }

    #[test]
    fn ctrl_c_ends_it_well() {
        let Some(world) = World::new(&[("floor.yaml", FLOOR)]) else {
            return;
        };
        let ended = world.start(&[]).interrupt().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.output);
    }

    #[test]
    fn a_port_in_use_is_said_in_one_clear_message() {
        let Some(world) = World::new(&[("floor.yaml", FLOOR)]) else {
            return;
        };
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (code, said) = world.up(&world.kinds(), &address);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&address), "{said}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let Some(world) = World::new(&[]) else { return };
        let (code, said) = world.up(Path::new("no-such-folder"), "127.0.0.1:0");
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("no-such-folder"), "{said}");
    }

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_field() {
        let wrong = FLOOR.replace("protect: true", "protekt: true");
        let Some(world) = World::new(&[("floor.yaml", &wrong)]) else {
            return;
        };
        let dir = world.kinds();
        let (code, said) = world.run(&["policy", "check", &dir.to_string_lossy()]);
        assert_eq!(code, Some(1), "{said}");
        let line = wrong
            .lines()
            .position(|line| line.contains("protekt"))
            .unwrap()
            + 1;
        for part in ["floor.yaml", "protekt", &line.to_string()] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }

    #[test]
    fn a_bad_edit_keeps_what_works() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&[]);
        assert_eq!(ask(&mesh, "auto", "Hello").status, 200);
        fs::write(world.kinds().join("cloud.yaml"), "kind: [").unwrap();
        mesh.wait_for("cloud.yaml", Duration::from_secs(30))
            .unwrap();
        let answer = ask(&mesh, "auto", "Hello");
        assert_eq!(
            (answer.status, answer.header("mesh-backend")),
            (200, Some("example-cloud")),
            "{}",
            answer.text()
        );
    }

    #[test]
    fn without_the_model_file_the_mesh_runs_with_what_it_has() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let absent = FLOOR.replace("~/.cache/inference-mesh/models", "no-such-folder");
        let Some(world) = World::new(&[("floor.yaml", &absent), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&[]);
        assert_eq!(
            ask(&mesh, "auto", "Hello").header("mesh-backend"),
            Some("example-cloud")
        );
        let answer = ask(&mesh, "auto", &format!("Charge {CARD}"));
        assert!(
            answer.status == 503 || answer.status == 403,
            "{} {}",
            answer.status,
            answer.text()
        );
        assert!(
            mesh.written().contains("SmolLM2-135M-Instruct.Q4_1.gguf"),
            "{}",
            mesh.written()
        );
        assert!(!upstream.saw("4111"));
    }

    #[test]
    fn a_model_that_an_edit_breaks_does_not_stop_the_loaded_one() {
        let Some(world) = World::new(&[("floor.yaml", FLOOR)]) else {
            return;
        };
        let mesh = world.start(&[]);
        assert_eq!(ask(&mesh, "auto", "Hello").status, 200);
        fs::write(
            world.kinds().join("floor.yaml"),
            FLOOR.replace("sha256: b179", "sha256: a179"),
        )
        .unwrap();
        mesh.wait_for("the model is not loaded", Duration::from_mins(1))
            .unwrap();
        let answer = ask(&mesh, "auto", "Hello");
        assert_eq!(
            (answer.status, answer.header("mesh-backend")),
            (200, Some("floor")),
            "{}",
            answer.text()
        );
    }

    #[test]
    fn a_damaged_model_file_is_said_and_others_go_on() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let sha256 = FLOOR
            .lines()
            .find(|line| line.trim_start().starts_with("sha256:"))
            .unwrap();
        let damaged = FLOOR
            .replace(sha256, "")
            .replace("~/.cache/inference-mesh/models", "models");
        let Some(world) =
            World::new(&[("floor.yaml", &damaged), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        fs::create_dir(world.kinds().join("models")).unwrap();
        let file = world.kinds().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
        fs::write(
            file,
            b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\x01\0\0\0\0\0\0\0",
        )
        .unwrap();
        let mesh = world.start(&[]);
        mesh.wait_for("missing  floor", Duration::from_mins(1))
            .unwrap();
        assert_eq!(
            ask(&mesh, "auto", "Hello").header("mesh-backend"),
            Some("example-cloud")
        );
    }

    #[test]
    fn why_says_what_serving_does_and_from_files_too() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("cloud.yaml", &cloud(&upstream))])
        else {
            return;
        };
        let mesh = world.start(&[]);
        let kinds = world.kinds();
        let text = format!("Charge {CARD}");
        let why = |more: &[&str]| {
            let (code, out) =
                world.run(&[&["why", "--output", "json"], more, &[text.as_str()]].concat());
            let decision: serde_json::Value =
                serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
            assert_eq!(code, Some(0), "{out}");
            assert!(!out.contains("4111"), "{out}");
            ["privacy", "plan", "verdict"].map(|field| decision[field].clone())
        };
        let asked = why(&["--url", &mesh.api]);
        assert_eq!(asked, why(&["--dir", &kinds.to_string_lossy()]));
        let served = ask(&mesh, "auto", &text);
        assert_eq!(
            served.header("mesh-backend"),
            asked[1][0]["backend"].as_str()
        );
        assert_eq!(served.header("mesh-privacy"), asked[0].as_str());
        assert!(!upstream.saw("4111"));
    }

    #[test]
    fn ask_says_whether_what_came_back_was_expected() {
        let Some(world) = World::new(&[("floor.yaml", FLOOR)]) else {
            return;
        };
        let mesh = world.start(&[]);
        let ask = |more: &[&str]| world.run(&[&["ask", "--url", &mesh.api], more].concat());
        let (code, said) = ask(&["Hello"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("by floor, OwnHardware"), "{said}");
        let (either, refused) = ("status=200,class=OwnHardware", "status=400");
        let card = format!("Charge {CARD}");
        let (code, said) = ask(&[&card, "--expect", refused, "--expect", either]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("restricted"), "{said}");
        // A definite answer that was not expected is not asked for again.
        let (code, said) = ask(&["Hello", "--expect", refused, "--patience", "600"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("expected status=400"), "{said}");
        let unknown = ["Hello", "--privacy", "secret", "--expect", refused];
        assert_eq!(ask(&unknown).0, Some(0));
        assert_eq!(ask(&["Hello", "--expect", "color=red"]).0, Some(2));
        let nobody = [
            "ask",
            "Hello",
            "--url",
            "http://127.0.0.1:9",
            "--patience",
            "1",
        ];
        let (code, said) = world.run(&nobody);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("no mesh answers"), "{said}");
        let (code, said) = ask(&["Hello", "--key-file", "no-such-file"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("no-such-file"), "{said}");
    }

    #[test]
    fn another_mesh_is_told_of_and_shown_and_nobody_connects_to_it() {
        let partner = TcpListener::bind("127.0.0.1:0").unwrap();
        partner.set_nonblocking(true).unwrap();
        let peer = PEER.replace("ADDRESS", &partner.local_addr().unwrap().to_string());
        let Some(world) = World::new(&[("floor.yaml", FLOOR), ("peer.yaml", &peer)]) else {
            return;
        };
        let (code, said) = world.run(&["policy", "check", &world.kinds().to_string_lossy()]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning: spec.peer: not supported yet"));
        let mesh = world.start(&[]);
        let answer = ask(&mesh, "theirs", "Hello");
        assert_eq!(answer.header("mesh-degraded"), Some("model_substituted"));
        let shown = world.run(&["status", "--output", "json", "--url", &mesh.api]);
        let why = world.run(&["why", "--output", "json", "--url", &mesh.api, "Hello"]);
        for (said, word) in [(&shown.1, "TrustedSwarm"), (&why.1, "peer_traffic")] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(partner.accept().is_err(), "somebody connected");
    }

    #[test]
    fn wrong_use_ends_with_2() {
        let Some(world) = World::new(&[]) else { return };
        assert_eq!(world.run(&["no-such-command"]).0, Some(2));
        assert_eq!(world.run(&["up", "--listen", "everywhere"]).0, Some(2));
    }
}
