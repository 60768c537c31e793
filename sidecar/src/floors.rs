//! Where to go when no gateway answers: the floors that `mesh-trust` names, and the one that the gateway
//! pushed, which wins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use mesh_core::pushed::{Floor, Floors};
use mesh_identity::{Account, Trust, TrustFiles};

use crate::peer::Peer;

/// How often the folder is looked at; the kubelet itself takes up to a minute.
const LOOK: Duration = Duration::from_secs(5);
/// The same while nothing is known.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Largest file in bytes.
const LARGEST: u64 = 1 << 20;

/// A floor and the connections to it.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) floor: Floor,
    pub(crate) peer: Peer,
}

/// What is known of floors.
pub(crate) struct Below {
    trust: Arc<Trust>,
    told: ArcSwapOption<Known>,
    pushed: ArcSwapOption<Known>,
}

impl Below {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self {
            trust,
            told: ArcSwapOption::empty(),
            pushed: ArcSwapOption::empty(),
        }
    }

    /// The floor of this pod, if one is known.
    pub(crate) fn current(&self) -> Option<Arc<Known>> {
        self.pushed.load_full().or_else(|| self.told.load_full())
    }

    /// What the gateway says. A snapshot without a floor leaves what `mesh-trust` says.
    pub(crate) fn push(&self, floor: Option<&Floor>) {
        replace(&self.pushed, floor, &self.trust);
    }

    /// Follows the folder until dropped.
    pub(crate) async fn keep(&self, folder: PathBuf) {
        let mut said = String::new();
        loop {
            match read(&folder).await {
                Ok(floors) => {
                    said.clear();
                    replace(&self.told, best(&floors), &self.trust);
                }
                Err(words) => {
                    // Once, not for every look. What was known stays.
                    if said != words {
                        tracing::warn!(cause = words, folder = %folder.display(), "cannot read where the floor is");
                        said = words;
                    }
                }
            }
            let known = self.told.load().is_some();
            tokio::time::sleep(if known { LOOK } else { LOOK_AGAIN }).await;
        }
    }
}

/// Which of several policies governs this pod, only a gateway knows; without one, the floor that may hold the
/// most sensitive requests is the right one for all.
fn best(floors: &Floors) -> Option<&Floor> {
    floors
        .floors
        .iter()
        .max_by_key(|floor| (floor.class, floor.max_privacy))
}

/// Kept connections stay as long as the floor does.
fn replace(slot: &ArcSwapOption<Known>, floor: Option<&Floor>, trust: &Arc<Trust>) {
    let now = slot.load_full();
    if now.as_ref().map(|known| &known.floor) == floor {
        return;
    }
    slot.store(floor.and_then(|floor| open(floor, trust)).map(Arc::new));
}

fn open(floor: &Floor, trust: &Arc<Trust>) -> Option<Known> {
    let account: Option<Account> = floor.account.parse().ok();
    let address: Option<Uri> = floor.url.as_str().parse().ok();
    // A floor that need not prove whose it is would be anybody's.
    let (Some(account), Some(address)) = (account, address) else {
        tracing::warn!(
            backend = floor.backend,
            "the floor's account or address is not usable"
        );
        return None;
    };
    let peer = Peer::new(&address, Some(account), trust).ok()?;
    tracing::info!(backend = floor.backend, class = %floor.class, "the floor is known");
    Some(Known {
        floor: floor.clone(),
        peer,
    })
}

async fn read(folder: &Path) -> Result<Floors, String> {
    let path = folder.join(TrustFiles::FLOOR);
    let failed = |error: std::io::Error| error.kind().to_string();
    if tokio::fs::metadata(&path).await.map_err(failed)?.len() > LARGEST {
        return Err(String::from("the file is too large"));
    }
    let text = tokio::fs::read(&path).await.map_err(failed)?;
    Floors::read(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use mesh_core::pushed::{Floor, Floors};
    use mesh_core::{PrivacyLevel, SovereigntyClass};
    use mesh_identity::Trust;

    use super::{Below, best};

    fn floor(name: &str, class: SovereigntyClass) -> Floor {
        Floor {
            backend: name.to_owned(),
            url: format!("https://{name}-worker.mesh-system.svc:8444")
                .parse()
                .expect("a URL"),
            account: format!("mesh-system/{name}-worker"),
            model: name.to_owned(),
            names: vec![name.to_owned()],
            class,
            max_privacy: PrivacyLevel::Restricted,
            trim: false,
        }
    }

    #[test]
    fn without_a_gateway_the_floor_of_the_best_class_is_taken() {
        let rented = floor("a-rented", SovereigntyClass::RentedHardware);
        let owned = floor("owned", SovereigntyClass::OwnHardware);
        let floors = Floors::new([rented, owned.clone()].into());
        assert_eq!(best(&floors), Some(&owned));
        assert_eq!(best(&Floors::new([].into())), None);
    }

    #[tokio::test]
    async fn what_the_gateway_pushed_wins_and_a_floor_without_an_account_is_none() {
        mesh_runtime::install_crypto_provider();
        let below = Below::new(Trust::new());
        let (mut told, pushed) = (
            floor("told", SovereigntyClass::OwnHardware),
            floor("pushed", SovereigntyClass::RentedHardware),
        );
        super::replace(&below.told, Some(&told), &below.trust);
        let name = || below.current().map(|known| known.floor.backend.clone());
        assert_eq!(name().as_deref(), Some("told"));
        below.push(Some(&pushed));
        assert_eq!(name().as_deref(), Some("pushed"));
        below.push(None);
        assert_eq!(name().as_deref(), Some("told"));
        told.account = String::from("anybody");
        super::replace(&below.told, Some(&told), &below.trust);
        assert_eq!(name(), None);
    }
}
