//! What the API server itself refuses by the chart's admission policies, also while no part of the mesh runs.

#[cfg(test)]
mod admission {
    mod canaries;
    mod escape;

    use mesh_cluster::Tier;
    use mesh_e2e::api_server::{ApiServer, until};
    use serde_json::{Value, json};

    const HOME: &str = "mesh-system";
    const TEAM: &str = "team";
    const OPERATOR: &str = "system:serviceaccount:mesh-system:mesh-operator";
    const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";

    /// kubectl as somebody else, with every right: only admission can refuse.
    fn as_user<'a>(user: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--as", user, "--as-group", "system:masters"]].concat()
    }

    struct World(ApiServer);

    impl World {
        fn good(&self, line: &str) {
            self.0.kubectl(&words(line)).unwrap();
        }

        /// Refused, and by us: gives what was said.
        fn refused(&self, line: &str, by: &str) {
            let said = self.0.run(&words(line)).unwrap();
            assert!(!said.good, "{line} was let through: {}", said.out);
            assert!(said.err.contains(by), "{line}: {}", said.err);
        }

        fn apply(&self, object: &Value) {
            self.0.apply(object, "e2e").unwrap();
        }

        /// The words of a refusal to take an object, in a dry run; `None` if it is taken.
        fn refusal(&self, object: &Value, user: &str) -> Option<String> {
            let file = self.0.file("object.json", &object.to_string()).unwrap();
            let args = [
                "apply",
                "--dry-run=server",
                "--server-side",
                "--force-conflicts",
                "-f",
                &file,
            ];
            let said = self.0.run(&as_user(user, &args)).unwrap();
            (!said.good).then_some(said.err)
        }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split(' ').collect()
    }

    fn kind(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
    }

    fn pods() -> Value {
        json!({"inCluster": {"modelRef": {"name": "m"}}, "models": [{"name": "x"}]})
    }

    fn floor(backend: &Value, protect: bool) -> Value {
        json!({"floor": {"backendRef": backend, "protect": protect}})
    }

    fn start() -> Option<World> {
        let server = ApiServer::start("admission", Tier::ControlPlane).unwrap()?;
        let rendered = server.rendered("admission.yaml", &["confine.hostPaths={/usr/share/data}"]);
        let rendered = match rendered {
            Ok(rendered) => rendered,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "{error:#}");
                return None;
            }
        };
        let file = server.file("admission.yaml", &rendered).unwrap();
        server
            .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])
            .unwrap();
        for name in [HOME, TEAM, "doomed"] {
            server.kubectl(&["create", "namespace", name]).unwrap();
        }
        Some(World(server))
    }

    #[test]
    fn the_api_server_keeps_what_the_mesh_promises() {
        let Some(world) = start() else {
            return;
        };
        last_floor(&world);
        floors_of_others(&world);
        leaving(&world);
        fields(&world);
        invitations(&world);
        accepted(&world);
        confined(&world);
    }

    /// The floor of an installation, while nothing of the mesh runs.
    fn last_floor(world: &World) {
        world.apply(&kind("InferenceBackend", HOME, "floor", &pods()));
        world.apply(&kind(
            "SovereigntyPolicy",
            HOME,
            "default",
            &floor(&json!({"name": "floor"}), true),
        ));
        let last = "is the last that answers";
        until("the policy is in force", || {
            let tried = ["delete", "ib", "floor", "-n", HOME, "--dry-run=server"];
            let said = world.0.run(&tried).unwrap();
            (!said.good && said.err.contains(last)).then_some(())
        })
        .unwrap();
        for line in [
            "delete ib floor -n mesh-system --wait=false",
            "delete ib --all -n mesh-system --wait=false",
            "delete ib --all -A --wait=false",
            "delete --raw /apis/inferencemesh.dev/v1alpha1/namespaces/mesh-system/inferencebackends",
            "scale ib floor -n mesh-system --replicas=0",
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":{"replicas":0}}}"#,
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":null,"cloud":{"provider":"p","url":"https://a.example"}}}"#,
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":null,"external":{"url":"https://a.example"}}}"#,
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":null,"peer":{"address":"a.example:8444","identity":"MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=","trust":"Open"}}}"#,
        ] {
            world.refused(line, last);
        }
        for line in [
            "label ib floor -n mesh-system a=b",
            "scale ib floor -n mesh-system --replicas=3",
            "scale ib floor -n mesh-system --replicas=1",
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":{"contextTokens":1024}}}"#,
            r#"patch ib floor -n mesh-system --subresource=status --type=merge -p {"status":{"observedGeneration":1}}"#,
            r#"patch ib floor -n mesh-system --type=merge -p {"spec":{"inCluster":{"replicas":null}}}"#,
        ] {
            world.good(line);
        }
        assert!(
            world.0.get(&["ib", "floor", "-n", HOME]).unwrap()["metadata"]["deletionTimestamp"]
                .is_null()
        );
    }

    /// Whom a policy of another namespace may lock: nobody.
    fn floors_of_others(world: &World) {
        world.apply(&kind("InferenceBackend", HOME, "other", &pods()));
        world.apply(&kind("InferenceBackend", TEAM, "own", &pods()));
        let foreign = floor(&json!({"name": "other", "namespace": HOME}), true);
        world.apply(&kind("SovereigntyPolicy", TEAM, "locks", &foreign));
        world.apply(&kind(
            "SovereigntyPolicy",
            TEAM,
            "own",
            &floor(&json!({"name": "own"}), true),
        ));
        until("the team's own floor is protected", || {
            let tried = ["delete", "ib", "own", "-n", TEAM, "--dry-run=server"];
            (!world.0.run(&tried).unwrap().good).then_some(())
        })
        .unwrap();
        world.good("delete ib other -n mesh-system");
        // Once nobody protects it any more it goes.
        world.apply(&kind(
            "SovereigntyPolicy",
            TEAM,
            "own",
            &floor(&json!({"name": "own"}), false),
        ));
        until("the team's floor may go", || {
            let tried = ["delete", "ib", "own", "-n", TEAM];
            world.0.run(&tried).unwrap().good.then_some(())
        })
        .unwrap();
        // An owned server may move, and neither become a cloud nor go behind a proxy, where nothing is owned.
        let external = json!({"external": {"url": "https://a.example"}, "models": [{"name": "x"}]});
        world.apply(&kind("InferenceBackend", TEAM, "server", &external));
        world.apply(&kind(
            "SovereigntyPolicy",
            TEAM,
            "own",
            &floor(&json!({"name": "server"}), true),
        ));
        let cloud = r#"patch ib server -n team --dry-run=server --type=merge -p {"spec":{"external":null,"cloud":{"provider":"p","url":"https://a.example"}}}"#;
        until("the team's server is protected", || {
            (!world.0.run(&words(cloud)).unwrap().good).then_some(())
        })
        .unwrap();
        world.refused(cloud, "is the last that answers");
        let proxied = r#"patch ib server -n team --dry-run=server --type=merge -p {"spec":{"external":{"proxy":{"url":"http://p.example:3128"}}}}"#;
        world.refused(proxied, "is the last that answers");
        world.good(r#"patch ib server -n team --type=merge -p {"spec":{"external":{"url":"https://b.example"}}}"#);
    }

    /// The namespace is being deleted: everything in it may go.
    fn leaving(world: &World) {
        world.apply(&kind("InferenceBackend", "doomed", "b", &pods()));
        world.apply(&kind(
            "SovereigntyPolicy",
            "doomed",
            "p",
            &floor(&json!({"name": "b"}), true),
        ));
        let delete = ["delete", "ib", "b", "-n", "doomed"];
        until("the floor is protected", || {
            (!world.0.run(&delete).unwrap().good).then_some(())
        })
        .unwrap();
        world.good("delete namespace doomed --wait=false");
        until("the floor goes with its namespace", || {
            world.0.run(&delete).unwrap().good.then_some(())
        })
        .unwrap();
    }

    /// What only policies of the mesh namespace may say.
    fn fields(world: &World) {
        let reserved = [
            (
                "concentration",
                json!({"concentration": {"maxShare": "0.5"}}),
            ),
            (
                "ownership",
                json!({"ownership": {"homeJurisdictions": ["DE"]}}),
            ),
            (
                "overrides",
                json!({"overrides": [{"subjects": [{"serviceAccount": {"namespace": "a", "name": "b"}}], "mayLowerTo": "Public", "reason": "r", "expires": "2031-01-01"}]}),
            ),
            (
                "classification.lowering",
                json!({"classification": {"lowering": [{"when": {"detectorsSilent": true}, "to": "Public"}]}}),
            ),
            (
                "egress.allow",
                json!({"egress": {"allow": [{"cidr": "198.51.100.0/24"}]}}),
            ),
            (
                "egress.dns",
                json!({"egress": {"dns": {"nodeLocal": true}}}),
            ),
            (
                "failover.safetyRefusals",
                json!({"failover": {"safetyRefusals": "FailOver"}}),
            ),
        ];
        for (field, spec) in &reserved {
            let refusal = world.refusal(&kind("SovereigntyPolicy", TEAM, "f", spec), "tenant");
            let refusal = refusal.unwrap_or_else(|| panic!("{field} was let through"));
            assert!(refusal.contains(field), "{field}: {refusal}");
            let home = world.refusal(&kind("SovereigntyPolicy", HOME, "f", spec), "owner");
            assert_eq!(home, None, "{field}");
        }
        let elsewhere = floor(&json!({"name": "x", "namespace": "third"}), true);
        let refusal = world.refusal(&kind("SovereigntyPolicy", TEAM, "f", &elsewhere), "tenant");
        assert!(
            refusal
                .expect("a refusal")
                .contains("floor.backendRef.namespace")
        );
        let fine = json!({"egress": {"confine": true, "allow": []}, "overrides": [], "failover": {"safetyRefusals": "Keep"},
            "constraints": {"minimumClass": {"public": "OwnHardware"}}, "classification": {"incompleteLevel": "Restricted", "lowering": []}});
        assert_eq!(
            world.refusal(&kind("SovereigntyPolicy", TEAM, "f", &fine), "tenant"),
            None
        );
        // Also by a change.
        world.apply(&kind("SovereigntyPolicy", TEAM, "f", &fine));
        let patch = r#"patch sp f -n team --type=merge -p {"spec":{"ownership":{"networks":["10.0.0.0/8"]}}}"#;
        world.refused(patch, "ownership");
    }

    fn peer(namespace: &str, trust: &str) -> Value {
        let key = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
        let peer = json!({"address": "mesh.partner.example:8444", "identity": key, "trust": trust});
        let spec = json!({"peer": peer, "models": [{"name": "theirs"}]});
        kind("InferenceBackend", namespace, "partner", &spec)
    }

    /// Who may call another mesh trusted.
    fn invitations(world: &World) {
        let only = "only those who write to namespace mesh-system invite other meshes";
        let refusal = world.refusal(&peer(TEAM, "Invited"), "tenant");
        assert!(refusal.expect("a refusal").contains(only));
        assert_eq!(world.refusal(&peer(HOME, "Invited"), "owner"), None);
        assert_eq!(world.refusal(&peer(TEAM, "Open"), "tenant"), None);
        // Also by a change, and a change of something else is nobody's invitation.
        world.apply(&peer(TEAM, "Open"));
        let invite =
            r#"patch ib partner -n team --type=merge -p {"spec":{"peer":{"trust":"Invited"}}}"#;
        world.refused(invite, only);
        world.good("label ib partner -n team a=b");
        world.good("delete ib partner -n team");
    }

    fn revision(name: &str, labels: &Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"namespace": TEAM, "name": name, "labels": labels},
            "revision": 1, "data": {"spec": {}}})
    }

    /// Accepted policies are the operator's alone.
    fn accepted(world: &World) {
        let ours = json!({"inferencemesh.dev/policy": "p"});
        let alone = "accepted policies are written and deleted by the operator only";
        let forged = world.refusal(&revision("r", &ours), "tenant");
        assert!(forged.expect("a refusal").contains(alone));
        let file = world
            .0
            .file("revision.json", &revision("r", &ours).to_string())
            .unwrap();
        world
            .0
            .kubectl(&as_user(OPERATOR, &["create", "-f", &file]))
            .unwrap();
        for line in [
            "delete controllerrevision r -n team",
            "delete controllerrevisions --all -n team",
            "label controllerrevision r -n team inferencemesh.dev/policy-",
            r#"patch controllerrevision r -n team --type=merge -p {"revision":2}"#,
        ] {
            world.refused(line, alone);
        }
        world.apply(&revision("other", &json!({"app": "other"})));
        world.refused(
            "label controllerrevision other -n team inferencemesh.dev/policy=p",
            alone,
        );
        world.good("delete controllerrevision other -n team");
        let by = |user: &str, line: &str| world.0.run(&as_user(user, &words(line))).unwrap().good;
        assert!(!by(
            COLLECTOR,
            r#"patch controllerrevision r -n team --type=merge -p {"data":{"spec":{"defaults":{"privacy":"Public"}}}}"#
        ));
        assert!(!by(
            "system:serviceaccount:kube-system:other",
            "delete controllerrevision r -n team"
        ));
        assert!(by(COLLECTOR, "delete controllerrevision r -n team"));
        let file = world
            .0
            .file("revision.json", &revision("r2", &ours).to_string())
            .unwrap();
        world
            .0
            .kubectl(&as_user(OPERATOR, &["create", "-f", &file]))
            .unwrap();
        assert!(by(OPERATOR, "delete controllerrevision r2 -n team"));
    }

    fn network(namespace: &str, name: &str, spec: &Value) -> Value {
        // As the operator labels its own.
        let labels = (name == "mesh-confine")
            .then(|| json!({"app.kubernetes.io/managed-by": "mesh-operator"}));
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name, "labels": labels}, "spec": spec})
    }

    fn pod(namespace: &str, host: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "p"},
            "spec": {"hostNetwork": host, "containers": [{"name": "c", "image": "i"}]}})
    }

    /// Nobody opens a confined namespace, and nobody takes the operator's NetworkPolicy away.
    fn confined(world: &World) {
        let name = "closed";
        world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"inferencemesh.dev/confine": "enabled"}}}));
        for namespace in [name, TEAM] {
            world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "default"}}));
        }
        let open = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
        world.apply(&network(name, "before", &open));
        // Labeled alone it is not confined: a policy must say so, and the operator act.
        assert_eq!(
            world.refusal(&network(name, "theirs", &open), "tenant"),
            None
        );
        let ours = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53}]}]});
        let file = world
            .0
            .file(
                "ours.json",
                &network(name, "mesh-confine", &ours).to_string(),
            )
            .unwrap();
        world
            .0
            .kubectl(&as_user(OPERATOR, &["create", "-f", &file]))
            .unwrap();
        let refusal = until("the namespace is confined", || {
            world.refusal(&network(name, "theirs", &open), "tenant")
        });
        let refusal = refusal.unwrap();
        assert!(
            refusal.contains("egress.allow") && !refusal.contains("there before"),
            "{refusal}"
        );
        from_before(world, name);
        kept_closed(world, name, &open, &ours);
    }

    /// One that was there before may say less, but not otherwise, and is told what to do.
    fn from_before(world: &World, name: &str) {
        let spec = |egress: &Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
        let narrower = spec(&json!([{"ports": [{"port": 53}]}]));
        let said = world.refusal(&network(name, "before", &narrower), "tenant");
        let said = said.expect("a refusal");
        let todo = "this one was there before: take all its egress rules away, or delete it";
        assert!(
            said.contains(todo) && said.contains("egress.allow"),
            "{said}"
        );
        world.good("label networkpolicy before -n closed a=b");
        let closed = network(name, "before", &spec(&json!([])));
        assert_eq!(world.refusal(&closed, "tenant"), None);
        world.good("delete networkpolicy before -n closed");
    }

    fn kept_closed(world: &World, name: &str, open: &Value, ours: &Value) {
        let implied = json!({"podSelector": {}, "egress": [{}]});
        assert!(
            world
                .refusal(&network(name, "theirs", &implied), "tenant")
                .is_some()
        );
        for narrower in [
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}),
        ] {
            assert_eq!(
                world.refusal(&network(name, "theirs", &narrower), "tenant"),
                None
            );
        }
        let host = world.refusal(&pod(name, true), "tenant");
        assert!(host.expect("a refusal").contains("would escape"));
        escape::refused(world, name);
        canaries::kept(world, name);
        assert_eq!(world.refusal(&pod(name, false), "tenant"), None);
        for line in [
            "delete networkpolicy mesh-confine -n closed",
            "delete networkpolicies --all -n closed",
            "delete --raw /apis/networking.k8s.io/v1/namespaces/closed/networkpolicies",
            "label networkpolicy mesh-confine -n closed a=b",
        ] {
            world.refused(line, "is the operator's");
        }
        assert!(
            world
                .refusal(&network(name, "mesh-confine", open), "tenant")
                .is_some()
        );
        assert_eq!(
            world.refusal(&network(name, "mesh-confine", ours), OPERATOR),
            None
        );
        // Others are as free as before.
        assert_eq!(
            world.refusal(&network(TEAM, "theirs", open), "tenant"),
            None
        );
        assert_eq!(world.refusal(&pod(TEAM, true), "tenant"), None);
        let delete = ["delete", "networkpolicy", "mesh-confine", "-n", name];
        assert!(world.0.run(&as_user(COLLECTOR, &delete)).unwrap().good);
    }
}
