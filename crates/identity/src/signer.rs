//! What the operator's signing endpoint decides: whose token it is, whether too many were asked for, and
//! what the certificate may say. Without HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::StatusCode;

use crate::{Account, Authority, AuthorityError, Grant, ServiceAccount, Trust};

/// Certificates that one pod may have at once; a pod needs one a day, and one for every restart.
const BURST: f64 = 10.0;
/// Then one in this many seconds.
const REFILL: f64 = 6.0;
/// Certificates for everybody together, at once and then in a second.
const ALL: f64 = 200.0;
/// Callers remembered before those that asked long ago are forgotten.
const REMEMBERED: usize = 4096;

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The authority or the keys of the API server are not known yet.
    #[error("this replica of the operator has no authority yet")]
    NotReady,
    /// No token, or not a valid one.
    #[error("show a ServiceAccount token of audience inferencemesh.dev")]
    Token,
    /// Too many.
    #[error("too many certificates were asked for")]
    TooMany,
    /// The request.
    #[error(transparent)]
    Request(#[from] AuthorityError),
}

impl SignError {
    /// The reason in PascalCase.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::Token => "TokenInvalid",
            Self::TooMany => "TooMany",
            Self::Request(error) => error.reason(),
        }
    }

    /// As HTTP says it.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Request(AuthorityError::Request(_) | AuthorityError::Algorithm) => {
                StatusCode::BAD_REQUEST
            }
            Self::Request(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Signs for whoever proves to be somebody.
#[derive(Debug)]
pub struct Signer {
    /// Who signs; replaced when it rotates.
    pub authority: ArcSwapOption<Authority>,
    /// What tokens are verified with.
    pub trust: Arc<Trust>,
    hosts: HashMap<Account, Vec<String>>,
    lifetime: Duration,
    asked: Mutex<Asked>,
}

impl Signer {
    /// Nothing is signed before an authority is set. `hosts`: accounts whose certificates name hosts.
    pub fn new(
        trust: Arc<Trust>,
        hosts: HashMap<Account, Vec<String>>,
        lifetime: Duration,
    ) -> Self {
        Self {
            authority: ArcSwapOption::empty(),
            trust,
            hosts,
            lifetime,
            asked: Mutex::default(),
        }
    }

    /// Signs a request for the account whose token this is; gives both.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(
        &self,
        bearer: Option<&[u8]>,
        csr: &str,
        now: SystemTime,
    ) -> Result<(Account, String), SignError> {
        let authority = self.authority.load_full().ok_or(SignError::NotReady)?;
        if !self.trust.ready() {
            return Err(SignError::NotReady);
        }
        let token = bearer.ok_or(SignError::Token)?;
        let found = self.trust.verify_token(token);
        let caller = found.map_err(|_| SignError::Token)?;
        let account = caller.account();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.allow(caller, now) {
            return Err(SignError::TooMany);
        }
        drop(asked);
        let hosts = self.hosts.get(&account).map(Vec::as_slice);
        let grant = Grant {
            account: &account,
            hosts: hosts.unwrap_or_default(),
            lifetime: self.lifetime,
        };
        let signed = authority.sign(csr, &grant, now)?;
        Ok((account, signed))
    }

    /// A certificate and key for the operator itself, which needs no token of its own.
    ///
    /// # Errors
    /// If there is no authority yet, or no randomness.
    pub fn own(
        &self,
        account: &Account,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<(String, String), SignError> {
        let authority = self.authority.load_full().ok_or(SignError::NotReady)?;
        let request = crate::Request::new().map_err(|_| AuthorityError::Sign)?;
        let grant = Grant {
            account,
            hosts,
            lifetime: self.lifetime,
        };
        let signed = authority.sign(&request.csr, &grant, now)?;
        Ok((signed, request.key))
    }
}

/// Token buckets: one for all, one for each pod (or account, where a token is bound to none).
#[derive(Debug, Default)]
struct Asked {
    all: Option<Bucket>,
    each: HashMap<ServiceAccount, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: SystemTime,
}

impl Bucket {
    /// Takes one if there is one. A clock that goes back refills nothing.
    fn take(old: Option<Self>, most: f64, per_second: f64, now: SystemTime) -> (Self, bool) {
        let left = old.map_or(most, |old| {
            let passed = now.duration_since(old.at).unwrap_or_default();
            (old.left + passed.as_secs_f64() * per_second).min(most)
        });
        let good = left >= 1.0;
        let left = if good { left - 1.0 } else { left };
        (Self { left, at: now }, good)
    }
}

impl Asked {
    fn allow(&mut self, caller: ServiceAccount, now: SystemTime) -> bool {
        if self.each.len() >= REMEMBERED {
            let full = Duration::from_secs_f64(BURST * REFILL);
            self.each
                .retain(|_, bucket| now.duration_since(bucket.at).is_ok_and(|age| age < full));
        }
        if self.each.len() >= REMEMBERED && !self.each.contains_key(&caller) {
            return false;
        }
        let (bucket, good) =
            Bucket::take(self.each.get(&caller).copied(), BURST, REFILL.recip(), now);
        self.each.insert(caller, bucket);
        if !good {
            return false;
        }
        let (all, good) = Bucket::take(self.all, ALL, ALL, now);
        self.all = Some(all);
        good
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::Asked;
    use crate::ServiceAccount;

    fn pod(number: usize) -> ServiceAccount {
        ServiceAccount {
            namespace: String::from("team"),
            name: String::from("app"),
            pod: Some(format!("app-{number}")),
        }
    }

    #[test]
    fn a_pod_that_asks_without_pause_is_told_to_wait_and_the_others_are_not() {
        let (mut asked, now) = (Asked::default(), SystemTime::now());
        let given = (0..50).filter(|_| asked.allow(pod(1), now)).count();
        assert_eq!(given, 10);
        assert!(asked.allow(pod(2), now));
        assert!(!asked.allow(pod(1), now + Duration::from_secs(5)));
        assert!(asked.allow(pod(1), now + Duration::from_secs(12)));
    }

    #[test]
    fn all_together_are_bounded_and_so_is_what_is_remembered_of_them() {
        let (mut asked, now) = (Asked::default(), SystemTime::now());
        let given = (0..10_000)
            .filter(|number| asked.allow(pod(*number), now))
            .count();
        assert_eq!(given, 200);
        assert!(asked.each.len() <= super::REMEMBERED);
        let later = now + Duration::from_mins(2);
        assert!(asked.allow(pod(20_000), later));
        assert!(asked.each.len() < 10);
    }
}
