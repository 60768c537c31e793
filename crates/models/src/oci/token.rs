//! How a registry is entered: not at all, with user and password, or with a token that its token server
//! gives for one repository. Passwords go to the registry or to the token server it names, never along a
//! redirect. Refuses token servers without https, and ones on this machine that a registry elsewhere names.

use mesh_core::Sensitive;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use url::Url;

use crate::access::secret;
use crate::error::{SourceError, Stop};
use crate::http::{Asker, Start, judge_status};
use crate::place::{checked, loopback, refused, shown};

/// Longest answer of a token server.
const LONGEST: u64 = 256 * 1024;

/// How the registry is entered, as far as it has said.
pub(crate) struct Login {
    basic: Option<HeaderValue>,
    demands: Demands,
}

/// What the registry demands.
enum Demands {
    Nothing,
    Basic,
    Token(Url),
}

/// With these credentials, or anonymously.
pub(crate) fn login(pair: Option<(String, Sensitive<String>)>) -> Result<Login, SourceError> {
    let basic = pair
        .map(|(user, password)| {
            let text = base64(format!("{user}:{}", password.expose()).as_bytes());
            secret(&format!("Basic {text}"))
        })
        .transpose()?;
    Ok(Login {
        basic,
        demands: Demands::Nothing,
    })
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
}

impl Login {
    /// What goes with the next request.
    pub(crate) async fn authorization(
        &self,
        asker: &Asker<'_>,
    ) -> Result<Option<HeaderValue>, Stop> {
        let realm = match &self.demands {
            Demands::Nothing => return Ok(None),
            Demands::Basic => return Ok(self.basic.clone()),
            Demands::Token(realm) => realm,
        };
        let start = Start {
            url: realm.clone(),
            authorization: self.basic.clone(),
        };
        let response = asker.get(&start, &HeaderMap::new()).await?.response;
        judge_status(realm, response.status())?;
        let bytes = asker.small(response, realm, LONGEST).await?;
        let nothing = || refused(format!("{} gave no token", shown(realm)));
        let given: Given = serde_json::from_slice(&bytes).map_err(|_| nothing())?;
        let token = given
            .token
            .or(given.access_token)
            .filter(|token| !token.is_empty());
        let token = token.ok_or_else(nothing)?;
        Ok(Some(secret(&format!("Bearer {token}"))?))
    }

    /// Learns from a 401 what is demanded; false if that was tried already or cannot be given.
    pub(super) fn challenged(
        &mut self,
        headers: &HeaderMap,
        registry: &Url,
        repository: &str,
    ) -> Result<bool, SourceError> {
        if !matches!(self.demands, Demands::Nothing) {
            return Ok(false);
        }
        let offers = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        for offer in offers {
            let (scheme, parameters) = offer.split_once(' ').unwrap_or((offer, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let realm = realm(parameters, registry, repository)?;
                self.demands = Demands::Token(realm);
                return Ok(true);
            }
            if scheme.eq_ignore_ascii_case("basic") && self.basic.is_some() {
                self.demands = Demands::Basic;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The token server's URL for pulling one repository.
fn realm(parameters: &str, registry: &Url, repository: &str) -> Result<Url, SourceError> {
    let parameters = split(parameters);
    let find = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    };
    let realm = find("realm").ok_or_else(|| refused("the registry names no token server"))?;
    let mut url = checked(realm)?;
    if loopback(&url) && !loopback(registry) {
        return Err(refused("the registry names a token server on this machine"));
    }
    let pull = format!("repository:{repository}:pull");
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = find("service") {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &pull);
    }
    Ok(url)
}

/// `a="b, c",d=e` as pairs.
fn split(parameters: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = parameters;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let key = key.trim_matches(|c: char| c == ',' || c.is_whitespace());
        pairs.push((key.to_owned(), value.trim().to_owned()));
        rest = left;
    }
    pairs
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_the_token_server_and_only_pulling_is_asked_for() {
        let registry = Url::parse("https://r.example/").unwrap();
        let found = realm(
            r#"realm="https://auth.example/token?x=1",service="r, s",scope="repository:a:pull,push""#,
            &registry,
            "a/b",
        );
        assert_eq!(
            found.unwrap().as_str(),
            "https://auth.example/token?x=1&service=r%2C+s&scope=repository%3Aa%2Fb%3Apull"
        );
        for bad in [
            "",
            r#"service="x""#,
            r#"realm="http://auth.example/""#,
            r#"realm="https://127.0.0.1/""#,
            r#"realm="file:///etc/passwd""#,
            "realm=",
        ] {
            assert!(realm(bad, &registry, "a").is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_split_at_commas_outside_of_quotes() {
        assert_eq!(
            split(r#"a="b, c",d=e, f="""#),
            [("a", "b, c"), ("d", "e"), ("f", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert!(split("nothing").is_empty());
    }
}
