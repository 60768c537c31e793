//! The mesh's certificate authority in its Secret: made by the leader, followed by every replica, replaced
//! with an overlap in which both are trusted. Rotation itself is pure.
//!
//! ```text
//!   next made ──(an hour: everybody has heard)──► next signs ──(a leaf's life)──► previous forgotten
//!   both trusted ─────────────────────────────────────────────────────────────►
//! ```
//!
//! Where somebody deleted the Secret the same goes in minutes: members have their certificates signed anew as soon as
//! they hear who signs. What a step waits for begins when members are told of the step before, not when that was kept:
//! in between an operator may end, and be away for long.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use mesh_identity::{Authority, AuthorityError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Name of the Secret.
pub(crate) const SECRET: &str = "mesh-ca";
/// A new authority is trusted for this long before it signs: longer than kubelets take to tell their pods.
const OVERLAP: Duration = Duration::from_hours(1);
/// The same where somebody has asked for a new one by deleting the Secret: kubelets take up to two minutes.
const SOON: Duration = Duration::from_mins(5);
/// Clocks, and replicas that have not heard yet.
const MARGIN: Duration = Duration::from_hours(1);

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// When the next one was made, in seconds since 1970.
const NEXT_SINCE: &str = "next.since";
/// Somebody has asked for the replacement.
const ASKED: &str = "asked";
const PREVIOUS: &str = "previous.crt";
/// When the previous one is forgotten, in seconds since 1970.
const UNTIL: &str = "previous.until";

/// How long things live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) authority: Duration,
    pub(crate) certificate: Duration,
}

impl Lifetimes {
    fn overlap(self) -> Duration {
        OVERLAP.min(self.authority / 10)
    }

    /// How long a replacement that was asked for waits.
    pub(crate) fn soon(self) -> Duration {
        SOON.min(self.authority / 100)
    }
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    certificate: String,
    key: String,
}

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    current: Pair,
    /// And when it was made.
    next: Option<(Pair, SystemTime)>,
    previous: Option<(String, SystemTime)>,
    /// Somebody has asked for the replacement that is under way.
    asked: bool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("next", &self.next.is_some())
            .field("previous", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

impl Pair {
    fn new(now: SystemTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        let made = Authority::generate(now, lifetime)?;
        Ok(Self {
            certificate: made.certificate().to_owned(),
            key: made.key(),
        })
    }

    fn validity(&self) -> Result<(SystemTime, SystemTime), AuthorityError> {
        let unusable = AuthorityError::Unusable("its certificate cannot be read");
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|_| unusable.clone())?;
        mesh_identity::validity(&der).map_err(|_| unusable)
    }
}

impl Kept {
    /// From a Secret.
    ///
    /// # Errors
    /// If it does not hold an authority. It is then not replaced by itself: whoever has trusted the old one
    /// would be cut off without anybody having wanted it.
    pub(crate) fn read(secret: &Secret) -> Result<Self, AuthorityError> {
        let text = |key: &str| -> Option<String> {
            let value = secret.data.as_ref()?.get(key)?;
            String::from_utf8(value.0.clone()).ok()
        };
        let pair = |certificate: &str, key: &str| {
            Some(Pair {
                certificate: text(certificate)?,
                key: text(key)?,
            })
        };
        let current = pair(CERTIFICATE, KEY).ok_or(AuthorityError::Unusable(
            "its Secret has no ca.crt or ca.key",
        ))?;
        let time = |key: &str| {
            let seconds = text(key)?.parse::<u64>().ok()?;
            Some(UNIX_EPOCH + Duration::from_secs(seconds))
        };
        let next = match pair(NEXT_CERTIFICATE, NEXT_KEY) {
            Some(next) => {
                // Those of former versions do not say when they were made.
                let since = time(NEXT_SINCE).map_or_else(|| Ok(next.validity()?.0), Ok)?;
                Some((next, since))
            }
            None => None,
        };
        let kept = Self {
            current,
            next,
            previous: text(PREVIOUS).zip(time(UNTIL)),
            asked: text(ASKED).is_some(),
        };
        kept.signer()?;
        Ok(kept)
    }

    /// For a Secret.
    pub(crate) fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
        };
        put(CERTIFICATE, &self.current.certificate);
        put(KEY, &self.current.key);
        let seconds = |time: &SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_secs().to_string()
        };
        if let Some((next, since)) = &self.next {
            put(NEXT_CERTIFICATE, &next.certificate);
            put(NEXT_KEY, &next.key);
            put(NEXT_SINCE, &seconds(since));
        }
        if let Some((previous, until)) = &self.previous {
            put(PREVIOUS, previous);
            put(UNTIL, &seconds(until));
        }
        if self.asked {
            put(ASKED, "true");
        }
        data
    }

    /// Who signs now.
    pub(crate) fn signer(&self) -> Result<Authority, AuthorityError> {
        Authority::load(&self.current.certificate, &self.current.key)
    }

    /// True while it is being replaced.
    pub(crate) fn moving(&self) -> bool {
        self.next.is_some() || self.previous.is_some()
    }

    /// How long a new one is trusted before it signs.
    fn overlap(&self, lives: Lifetimes) -> Duration {
        if self.asked {
            lives.soon()
        } else {
            lives.overlap()
        }
    }

    /// How long the one before is trusted after that.
    fn rest(&self, lives: Lifetimes) -> Duration {
        if self.asked {
            // Members hear of it as they heard of the next one, and are quick.
            2 * lives.soon()
        } else {
            // What it has signed lives on for a certificate's life.
            lives.certificate + MARGIN
        }
    }

    /// Everybody who is trusted now, PEM: first who signs, which members go by.
    pub(crate) fn trusted(&self) -> String {
        let next = self.next.as_ref();
        let next = next.map(|(next, _)| next.certificate.as_str());
        let previous = self
            .previous
            .as_ref()
            .map(|(previous, _)| previous.as_str());
        let all = [Some(self.current.certificate.as_str()), next, previous];
        let all: Vec<&str> = all.into_iter().flatten().map(str::trim).collect();
        all.join("\n") + "\n"
    }
}

/// In whole seconds, as it is kept.
fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn made(now: SystemTime, lives: Lifetimes) -> Result<(Pair, SystemTime), AuthorityError> {
    Ok((Pair::new(now, lives.authority)?, whole(now)))
}

/// What must be kept next; none if that is what is there.
pub(crate) fn advance(
    kept: Option<&Kept>,
    now: SystemTime,
    lives: Lifetimes,
) -> Result<Option<Kept>, AuthorityError> {
    let Some(kept) = kept else {
        return Ok(Some(Kept {
            current: Pair::new(now, lives.authority)?,
            next: None,
            previous: None,
            asked: false,
        }));
    };
    let mut wanted = kept.clone();
    let old = |(_, until): &(String, SystemTime)| *until <= now;
    if wanted.previous.as_ref().is_some_and(old) {
        wanted.previous = None;
        // Over, unless it was asked for again meanwhile.
        wanted.asked &= wanted.next.is_some();
    }
    if let Some((next, since)) = &kept.next {
        if now.duration_since(*since).unwrap_or_default() >= kept.overlap(lives) {
            let until = whole(now + kept.rest(lives));
            wanted.previous = Some((kept.current.certificate.clone(), until));
            wanted.current = next.clone();
            wanted.next = None;
        }
    } else {
        let (from, until) = kept.current.validity()?;
        let life = until.duration_since(from).unwrap_or_default();
        if now >= from + life * 2 / 3 {
            wanted.next = Some(made(now, lives)?);
        }
    }
    Ok((&wanted != kept).then_some(wanted))
}

/// What must be kept while members are not told of the last step yet: its time begins anew; none if it has just begun.
pub(crate) fn delayed(kept: &Kept, now: SystemTime, lives: Lifetimes) -> Option<Kept> {
    let (mut wanted, overlap, rest) = (kept.clone(), kept.overlap(lives), kept.rest(lives));
    if let Some((_, since)) = &mut wanted.next
        && now.duration_since(*since).unwrap_or_default() >= overlap / 10
    {
        *since = whole(now);
    }
    if let Some((_, until)) = &mut wanted.previous
        && until.duration_since(now).unwrap_or_default() < rest * 9 / 10
    {
        *until = whole(now + rest);
    }
    (&wanted != kept).then_some(wanted)
}

/// What takes the place of a Secret that somebody deleted: another authority, which signs as soon as everybody has heard
/// of it. Whoever has a certificate of the one before is not cut off meanwhile.
pub(crate) fn replaced(
    lost: &Kept,
    now: SystemTime,
    lives: Lifetimes,
) -> Result<Kept, AuthorityError> {
    Ok(Kept {
        // Also instead of a next one that was there: its key was in the same Secret.
        next: Some(made(now, lives)?),
        asked: true,
        ..lost.clone()
    })
}

#[cfg(test)]
mod tests;
