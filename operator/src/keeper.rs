//! Keeps the certificate authority: every replica follows its Secret, signs for members and serves with a
//! certificate of its own; the leader makes it and rotates it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use mesh_crds::label;
use mesh_identity::{Account, AuthorityError, Member, SignError, Signer, TrustError};
use mesh_watch::issuer;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use crate::apply::MANAGER;
use crate::authority::{Kept, Lifetimes, SECRET, advance, delayed, replaced};
use crate::metrics::Metrics;
use crate::trust::Announced;
use crate::world::MANAGED;

/// How often the Secret is looked at, and what there is to do.
const LOOK: Duration = Duration::from_secs(30);
/// The same while the authority is being replaced: members go by who signs.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// The same as long as there is no authority.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Longest answer of the API server.
const LIMIT: Duration = Duration::from_secs(10);

/// What members are told: the entries of `mesh-trust` that are the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) authorities: String,
    pub(crate) keys: String,
    pub(crate) issuer: String,
}

/// Why there is no authority, or not yet the newest.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server does not answer")]
    Late,
    #[error("could not ask the API server: {0}")]
    Ask(#[from] kube::Error),
    #[error("Secret {SECRET}: {0}")]
    Authority(#[from] AuthorityError),
    #[error("could not read the keys of the API server: {0}")]
    Issuer(#[from] issuer::Error),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("could not use its own certificate: {0}")]
    Certificate(#[from] mesh_identity::CertificateError),
}

/// The authority as this replica knows it.
pub(crate) struct Keeper {
    client: Client,
    secrets: Api<Secret>,
    lives: Lifetimes,
    /// Signs for members.
    pub(crate) signer: Arc<Signer>,
    /// Who this replica is, for its endpoint.
    pub(crate) serving: Arc<Member>,
    account: Account,
    hosts: Vec<String>,
    kept: ArcSwapOption<Kept>,
    proof: watch::Sender<Option<Proof>>,
    metrics: Metrics,
}

/// Host names of a Service of the mesh.
pub(crate) fn hosts(service: &str, namespace: &str) -> Vec<String> {
    ["", ".svc", ".svc.cluster.local"]
        .iter()
        .map(|end| format!("{service}.{namespace}{end}"))
        .chain([service.to_owned()])
        .collect()
}

impl Keeper {
    pub(crate) fn new(
        client: Client,
        mesh_namespace: &str,
        lives: Lifetimes,
        signer: Arc<Signer>,
        (further, metrics): (&[String], Metrics),
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), mesh_namespace),
            client,
            lives,
            signer,
            serving: Member::new(),
            account: Account::new(mesh_namespace, "mesh-operator"),
            hosts: [hosts("mesh-operator", mesh_namespace), further.to_vec()].concat(),
            kept: ArcSwapOption::empty(),
            proof: watch::channel(None).0,
            metrics,
        }
    }

    /// What members are told, as soon as that is known.
    pub(crate) fn proof(&self) -> watch::Receiver<Option<Proof>> {
        self.proof.subscribe()
    }

    /// What is missing for the endpoint, in words.
    pub(crate) fn missing(&self) -> Option<String> {
        let missing = self.serving.ready(SystemTime::now());
        missing
            .err()
            .map(|_| String::from("the certificate authority of the mesh is not known yet"))
    }

    /// Time left of the authority.
    pub(crate) fn left(&self) -> Option<Duration> {
        let authority = self.signer.authority.load();
        let expires = authority.as_ref()?.expires();
        Some(
            expires
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        )
    }

    /// Follows the Secret and the keys of the API server, until dropped. What was known stays in use.
    pub(crate) async fn follow(&self) {
        loop {
            if let Err(error) = within(self.look()).await {
                tracing::warn!(%error, "the certificate authority was not looked at");
            }
            tokio::time::sleep(self.rest()).await;
        }
    }

    /// Makes and rotates it, until dropped. Only the leader does.
    pub(crate) async fn lead(&self, announced: &Announced) {
        loop {
            match within(self.advance(announced)).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("the certificate authority has moved on");
                    if let Err(error) = within(self.look()).await {
                        tracing::warn!(%error, "the certificate authority was not looked at");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate authority could not be kept");
                }
            }
            tokio::time::sleep(self.rest()).await;
        }
    }

    fn rest(&self) -> Duration {
        if self.kept.load().as_ref().is_some_and(|kept| kept.moving()) {
            LOOK_SOON.min(self.lives.soon())
        } else if self.proof.borrow().is_some() {
            LOOK
        } else {
            LOOK_AGAIN
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let Some(secret) = self.secrets.get_opt(SECRET).await? else {
            // Somebody wants a new one; the leader makes it. The one that was goes on signing until then.
            return Ok(());
        };
        let kept = Kept::read(&secret)?;
        if self.kept.load().as_deref() != Some(&kept) {
            let signer = kept.signer()?;
            self.signer.authority.store(Some(Arc::new(signer)));
            self.kept.store(Some(Arc::new(kept.clone())));
        }
        let issuer = issuer::read(&self.client).await?;
        let proof = Proof {
            authorities: kept.trusted(),
            keys: issuer.keys,
            issuer: issuer.name,
        };
        self.signer
            .trust
            .set(&proof.authorities, &proof.keys, &proof.issuer)?;
        self.serve()?;
        self.proof.send_if_modified(|told| {
            let new = told.as_ref() != Some(&proof);
            if new {
                *told = Some(proof);
            }
            new
        });
        Ok(())
    }

    /// A certificate of its own, in time.
    fn serve(&self) -> Result<(), Error> {
        let now = SystemTime::now();
        let trust = &self.signer.trust;
        let (chain, at) = (self.serving.chain(), UnixTime::now());
        let good = trust.vouches_for(&chain, at) && !trust.superseded(&chain, at);
        if good && !self.serving.renew_in(now).is_zero() {
            return Ok(());
        }
        let (chain, key) = self.signer.own(&self.account, &self.hosts, now)?;
        Ok(self.serving.install(&chain, &key)?)
    }

    /// True if it changed anything.
    async fn advance(&self, announced: &Announced) -> Result<bool, Error> {
        let there = self.secrets.get_opt(SECRET).await?;
        let kept = there.as_ref().map(Kept::read).transpose()?;
        let (now, known) = (SystemTime::now(), self.kept.load_full());
        let wanted = match (&kept, known) {
            (None, Some(lost)) => Some(replaced(&lost, now, self.lives)?),
            (Some(kept), _) if kept.moving() => match announced.says(&kept.trusted()) {
                Some(true) => advance(Some(kept), now, self.lives)?,
                Some(false) => delayed(kept, now, self.lives),
                None => None,
            },
            _ => advance(kept.as_ref(), now, self.lives)?,
        };
        let Some(wanted) = wanted else {
            return Ok(false);
        };
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.metrics.wrote("Secret");
        let written = match there {
            None => self.secrets.create(&params, &secret(&wanted)).await,
            Some(mut there) => {
                there.data = Some(wanted.data());
                there.metadata.managed_fields = None;
                self.secrets.replace(SECRET, &params, &there).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was faster: looked at again soon.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or(Err(Error::Late))
}

fn secret(kept: &Kept) -> Secret {
    let mut secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(kept.data()),
        type_: Some(String::from("Opaque")),
        ..Secret::default()
    };
    let labels = secret.labels_mut();
    labels.insert(MANAGED.0.to_owned(), MANAGED.1.to_owned());
    labels.insert(
        String::from("app.kubernetes.io/part-of"),
        String::from("inference-mesh"),
    );
    labels.insert(
        String::from("app.kubernetes.io/component"),
        format!("{}-authority", label::GROUP),
    );
    secret
}
