//! Where to go when no gateway answers: the floors that `mesh-trust` names, and the one that the gateway
//! pushed, which wins. Of its class the lower word counts: without gateways `mesh-trust` may be the newer one.

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
    /// All that `mesh-trust` names.
    listed: ArcSwapOption<Floors>,
    told: ArcSwapOption<Known>,
    pushed: ArcSwapOption<Known>,
}

impl Below {
    pub(crate) fn new(trust: Arc<Trust>) -> Self {
        Self {
            trust,
            listed: ArcSwapOption::empty(),
            told: ArcSwapOption::empty(),
            pushed: ArcSwapOption::empty(),
        }
    }

    /// The floor of this pod, if one is known.
    pub(crate) fn current(&self) -> Option<Arc<Known>> {
        let Some(pushed) = self.pushed.load_full() else {
            return self.told.load_full();
        };
        let listed = self.listed.load();
        let mut floors = listed.iter().flat_map(|listed| &listed.floors);
        let same = floors.find(|one| one.account == pushed.floor.account);
        let (class, level) = (pushed.floor.class, pushed.floor.max_privacy);
        let lower = same.map(|one| (class.min(one.class), level.min(one.max_privacy)));
        match lower {
            Some(lower) if lower != (class, level) => {
                let mut known = (*pushed).clone();
                (known.floor.class, known.floor.max_privacy) = lower;
                Some(Arc::new(known))
            }
            _ => Some(pushed),
        }
    }

    /// What the gateway says. A snapshot without a floor leaves what `mesh-trust` says.
    pub(crate) fn push(&self, floor: Option<&Floor>) {
        replace(&self.pushed, floor, &self.trust);
    }

    /// What `mesh-trust` says.
    fn tell(&self, floors: Floors) {
        replace(&self.told, best(&floors), &self.trust);
        self.listed.store(Some(Arc::new(floors)));
    }

    /// Follows the folder until dropped.
    pub(crate) async fn keep(&self, folder: PathBuf) {
        let mut said = String::new();
        loop {
            match read(&folder).await {
                Ok(floors) => {
                    said.clear();
                    self.tell(floors);
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
    async fn of_the_class_of_a_floor_the_lower_word_counts_whoever_says_it() {
        use SovereigntyClass::{OwnHardware, RentedHardware};
        mesh_runtime::install_crypto_provider();
        let below = Below::new(Trust::new());
        let seen = |below: &Below| {
            let known = below.current().expect("a floor");
            (known.floor.class, known.floor.max_privacy)
        };
        let (restricted, internal) = (PrivacyLevel::Restricted, PrivacyLevel::Internal);
        for (pushed, told, class) in [
            (OwnHardware, OwnHardware, OwnHardware),
            (OwnHardware, RentedHardware, RentedHardware),
            (RentedHardware, OwnHardware, RentedHardware),
        ] {
            below.push(Some(&floor("floor", pushed)));
            below.tell(Floors::new([floor("floor", told)].into()));
            assert_eq!(seen(&below), (class, restricted), "{pushed} {told}");
        }
        let mut lower = floor("floor", OwnHardware);
        lower.max_privacy = internal;
        below.push(Some(&floor("floor", OwnHardware)));
        below.tell(Floors::new([lower].into()));
        assert_eq!(seen(&below), (OwnHardware, internal));
        // One of its own namespace, which only the gateway names.
        below.push(Some(&floor("own", OwnHardware)));
        assert_eq!(seen(&below), (OwnHardware, restricted));
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
