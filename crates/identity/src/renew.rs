//! Keeps the certificate of this process fresh: loaded from the pod's own folder when the container
//! starts again, signed by the operator when two thirds of its life are over or when what is trusted no
//! longer vouches for it, or soon will not. While the operator is away the old one stays in use.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use tokio::time::Instant;

use crate::{CertificateError, EndpointError, Member, Request, Trust, sign};

/// Certificate and key in one file, so that they can only change together.
const FILE: &str = "identity.pem";
const PART: &str = ".identity.pem.part";
/// First wait after a failure; it doubles.
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// After a certificate was signed by an authority that another has taken the place of: not every replica of the operator
/// has heard yet.
const HEARSAY: Duration = Duration::from_secs(15);
/// How often it is asked whether there is something to do.
const LOOK: Duration = Duration::from_secs(5);

/// Where a member finds what it needs.
#[derive(Debug, Clone)]
pub struct Enrollment {
    /// The signing endpoint, `https://host:port`.
    pub url: String,
    /// Folder with `ca.crt`, `jwks.json` and `issuer`.
    pub trust: PathBuf,
    /// File with the ServiceAccount token; read anew for every request, since the kubelet renews it.
    pub token: PathBuf,
    /// Folder of the pod in which key and certificate outlive the container.
    pub folder: PathBuf,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// Nobody is trusted yet.
    #[error("it is not known yet whom to trust")]
    Trust,
    /// The token cannot be read.
    #[error("the token cannot be read: {0}")]
    Token(ErrorKind),
    /// No certificate, or not a usable one.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The endpoint gave none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl Enrollment {
    /// Keeps `member` and `trust` until dropped.
    pub async fn keep(&self, member: &Arc<Member>, trust: &Arc<Trust>) {
        tokio::join!(trust.keep(self.trust.clone()), self.renewals(member, trust));
    }

    async fn renewals(&self, member: &Arc<Member>, trust: &Arc<Trust>) {
        self.load(member).await;
        let (mut wait, mut last) = (RETRY, None::<Instant>);
        loop {
            let moved = trust.superseded(&member.chain(), UnixTime::now())
                && last.is_none_or(|last| last.elapsed() >= HEARSAY);
            if !moved && !due(member, trust) {
                let next = member.renew_in(SystemTime::now());
                tokio::time::sleep(LOOK.min(next.max(Duration::from_millis(10)))).await;
                continue;
            }
            last = Some(Instant::now());
            match self.renew(member, trust).await {
                Ok(()) => {
                    wait = RETRY;
                    let seconds = member.left(SystemTime::now()).as_secs();
                    tracing::info!(seconds, "the certificate is new");
                }
                Err(error) => {
                    // Whom to trust comes within moments of the start.
                    if !matches!(error, RenewError::Trust) {
                        tracing::warn!(%error, "no certificate could be had; trying again");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Has one certificate signed and takes it into use.
    ///
    /// # Errors
    /// If there is none to be had; then the old one stays.
    pub async fn renew(&self, member: &Member, trust: &Arc<Trust>) -> Result<(), RenewError> {
        if !trust.ready() {
            return Err(RenewError::Trust);
        }
        let token = tokio::fs::read_to_string(&self.token)
            .await
            .map_err(|error| RenewError::Token(error.kind()))?;
        let request = Request::new()?;
        let chain = sign(&self.url, trust, &token, request.csr).await?;
        // Kept first, so that whoever sees it in use finds it there after a restart; but nothing that is
        // not usable takes the place of what is.
        Member::default().install(&chain, &request.key)?;
        if let Err(error) = save(&self.folder, &format!("{chain}\n{}", request.key)).await {
            tracing::warn!(folder = %self.folder.display(), %error, "could not keep the certificate; a container that starts again needs the operator");
        }
        Ok(member.install(&chain, &request.key)?)
    }

    /// What an earlier container of this pod left.
    async fn load(&self, member: &Member) {
        match tokio::fs::read_to_string(self.folder.join(FILE)).await {
            Ok(both) => match member.install(&both, &both) {
                Ok(()) => tracing::info!("the certificate of this pod is still there"),
                Err(error) => tracing::warn!(%error, "the kept certificate is not usable"),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the kept certificate could not be read"),
        }
    }
}

/// Two thirds of its life are over, or nobody who is trusted vouches for it.
fn due(member: &Member, trust: &Trust) -> bool {
    member.renew_in(SystemTime::now()).is_zero()
        || (trust.ready() && !trust.vouches_for(&member.chain(), UnixTime::now()))
}

/// Whole or not at all, and for nobody else to read.
async fn save(folder: &Path, text: &str) -> std::io::Result<()> {
    let part = folder.join(PART);
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&part).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, text.as_bytes()).await?;
    file.sync_all().await?;
    tokio::fs::rename(part, folder.join(FILE)).await
}
