//! Members of the mesh as processes beside a real API server: the operator, gateways and the guard of a model server, who
//! prove to each other who they are. What happens to them when tokens and authorities are taken away. No node is needed;
//! the guard listens on this machine's own address, since a gateway connects to no pod on loopback.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program of its own: a chapter that cannot go on ends by a panic, and measured numbers are told"
)]

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_cluster::Tier;
use mesh_e2e::http::{Connection, Response};
use mesh_e2e::operator::{self, HOME, Operator};
use mesh_e2e::part::{self, Part, Trust, token};
use mesh_e2e::stage::{Stage, namespace};
use mesh_e2e::{rights, story};
use serde_json::json;

#[path = "members/alert.rs"]
mod alert;
#[path = "members/authority.rs"]
mod authority;
#[path = "members/networks.rs"]
mod networks;
#[path = "members/review.rs"]
mod review;

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_mins(2);
/// The namespace of applications.
const TEAM: &str = "team";

const CHAPTERS: &[story::Chapter<World>] = &[
    (
        "an_address_of_a_pod_or_a_service_is_never_an_owned_server",
        networks::are_nobodys,
    ),
    (
        "a_token_that_was_taken_back_is_refused_where_the_api_server_is_asked",
        review::taken_back,
    ),
    // An API server that has just started refuses what it has not read yet.
    ("no_right_was_missing_for_any_of_this", |world| {
        assert_eq!(world.stage.refused().unwrap(), Vec::<String>::new());
        // Whoever knows what the operator asked knows this, too.
        let asked = rights::asked_by(&world.stage.cluster, GATEWAY).unwrap();
        let forbidden: Vec<_> = asked
            .iter()
            .filter(|event| event["annotations"]["authorization.k8s.io/decision"] == "forbid")
            .collect();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
        let reviews = asked
            .iter()
            .any(|event| event["objectRef"]["resource"] == "tokenreviews");
        assert!(reviews, "the right to ask for tokens is used");
    }),
    (
        "while_the_api_server_is_away_only_who_need_not_be_asked_for_is_served",
        review::outage,
    ),
    (
        "an_authority_whose_secret_is_deleted_is_replaced_and_no_request_fails",
        authority::deleted,
    ),
    (
        "a_certificate_that_cannot_be_renewed_is_told_before_it_ends_and_after",
        alert::fires,
    ),
];

/// Whose rights the gateways have.
const GATEWAY: &str = "system:serviceaccount:mesh-system:mesh-gateway";

fn main() -> ExitCode {
    story::run(World::start, CHAPTERS, |world| world.stage.diagnosis())
}

struct World {
    stage: Arc<Stage>,
    gateway: PathBuf,
    worker: PathBuf,
    trust: Trust,
    folder: tempfile::TempDir,
    /// Of this machine, and not loopback.
    address: IpAddr,
}

impl World {
    fn start() -> Result<Self> {
        let (gateway, worker) = (part::binary(part::GATEWAY)?, part::binary(part::WORKER)?);
        let address = own_address()?;
        let stage = Arc::new(Stage::start("members", Tier::ControlPlane)?);
        let values = ["gateway.tokenReview.enabled=true"];
        let rules = operator::rendered_with(&stage.cluster, "templates/rbac.yaml", &values)?;
        let file = stage.cluster.folder().join("with-reviews.yaml");
        std::fs::write(&file, rules)?;
        stage.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()])?;
        stage.apply(&namespace(TEAM))?;
        for (namespace, name) in [(HOME, "mesh-gateway"), (TEAM, "other"), (TEAM, "app")] {
            account(&stage, namespace, name)?;
        }
        let folder = tempfile::tempdir()?;
        let trust = Trust::mirror(&stage, &folder.path().join("trust"))?;
        Ok(Self {
            stage,
            gateway,
            worker,
            trust,
            folder,
            address,
        })
    }

    /// An operator that leads and signs at an address where members can know it.
    fn operator(&self, identity: &str, more: &[(&str, &str)]) -> Operator {
        let mut settings = self.stage.settings(identity).unwrap();
        settings = settings.env("MESH_SIGN_HOSTS", "localhost");
        for (name, value) in more {
            settings = settings.env(name, value);
        }
        let operator = self.stage.begin(&settings).unwrap();
        operator.leads(SOON).unwrap();
        operator
    }

    /// What a pod of this account has, as variables.
    fn member(
        &self,
        operator: &Operator,
        account: &str,
        name: &str,
    ) -> Vec<(&'static str, String)> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("token");
        std::fs::write(&file, token(&self.stage, HOME, account, None).unwrap()).unwrap();
        let show = |path: &std::path::Path| path.display().to_string();
        vec![
            ("MESH_SIGN_URL", operator.signs("localhost").unwrap()),
            ("MESH_TRUST", show(&self.trust.folder)),
            ("MESH_TOKEN_FILE", show(&file)),
            ("MESH_IDENTITY", show(&folder)),
        ]
    }

    /// A gateway with the rights of the chart, and where its API is.
    fn gateway(&self, operator: &Operator, name: &str, more: &[(&str, &str)]) -> Gateway {
        let cluster = &self.stage.cluster;
        let config = cluster.user_kubeconfig(GATEWAY, Some("system:serviceaccounts"));
        let config = config.unwrap().display().to_string();
        let member = self.member(operator, "mesh-gateway", name);
        let mut env: Vec<(&str, &str)> = member
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        env.extend([
            ("KUBECONFIG", config.as_str()),
            ("MESH_NAMESPACE", HOME),
            ("MESH_LISTEN", "127.0.0.1:0"),
            ("MESH_TLS_LISTEN", "127.0.0.1:0"),
        ]);
        env.extend_from_slice(more);
        let part = Part::start(&self.gateway, &[], &env).unwrap();
        let api = format!("http://{}", part.said("serving", "address").unwrap());
        part.ready(LONG).unwrap();
        Gateway { part, api }
    }
}

/// A running gateway.
struct Gateway {
    part: Part,
    api: String,
}

impl Gateway {
    /// What it tells whoever has this token about models.
    fn models(&self, token: &str) -> Result<Response> {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        Connection::open(&self.api)?.send("GET", "/v1/models", &headers, b"")
    }

    /// Waits until its answer has this status.
    fn answers(&self, world: &World, token: &str, status: u16, limit: Duration) {
        let what = format!("{status} of {}", self.api);
        let found = world.stage.until(&what, limit, || {
            let answer = self.models(token)?;
            ensure!(
                answer.status == status,
                "{} {}",
                answer.status,
                answer.text()
            );
            Ok(Some(()))
        });
        found.with_context(|| self.part.written()).unwrap();
    }
}

fn account(stage: &Stage, namespace: &str, name: &str) -> Result<()> {
    stage.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}))
}

/// The address by which this machine would reach others; nothing is sent.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let found = socket
        .connect("203.0.113.1:9")
        .and_then(|()| socket.local_addr());
    let address = found
        .context("this machine has no address but loopback")?
        .ip();
    ensure!(
        !address.is_loopback() && !address.is_unspecified(),
        "this machine has no address but loopback"
    );
    Ok(address)
}
