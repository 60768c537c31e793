//! Who is who inside a mesh: ServiceAccount tokens and certificates, verified without asking anybody.
//!
//! ```text
//!  token of a ServiceAccount ──► operator's signing endpoint ──► certificate with the account's name
//!                                  (authority)                     │ a day, renewed after two thirds
//!  ca.crt, jwks.json (trust) ──► every handshake and every token ◄─┘ kept in a folder of the pod
//! ```
//!
//! Refuses: deciding what a request may do. It says who sent something, or that it does not know; and it
//! never talks plain text to a peer whose name it cannot prove.

mod account;
mod admit;
mod authority;
mod certificate;
mod endpoint;
mod member;
mod renew;
mod session;
mod signer;
mod tls;
mod token;
mod trust;

pub use account::{Account, TRUST_DOMAIN};
pub use admit::{Admission, Refusal};
pub use authority::{Authority, AuthorityError, Grant, LARGEST_REQUEST};
pub use certificate::{CertificateError, Request, account_of, validity};
pub use endpoint::{EndpointError, Peer, SIGN_PATH, sign};
pub use member::Member;
pub use renew::{Enrollment, RenewError};
pub use session::{Place, Session, words_of};
pub use signer::{SignError, Signer};
pub use tls::{client_config, server_config};
pub use token::{AUDIENCE, Error, ServiceAccount, TokenVerifier};
pub use trust::{Trust, TrustError, TrustFiles};
