//! `mesh ask`: one chat request to a running mesh, and whether the answer, or the refusal, is the one that was
//! expected. What `helm test` runs. Tries again only while nobody can answer yet: a definite answer that was not
//! expected stands, whatever would come after it.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use mesh_backends::control::{Control, Error, Reply};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::args::{Ask, Output};
use crate::{Answer, output, remote};

/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of an answer, in the names that `--expect` takes.
const KEYS: [&str; 5] = ["status", "reason", "backend", "class", "privacy"];

/// What an answer must be: all of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected(Vec<(&'static str, String)>);

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
            let known = KEYS.into_iter().find(|known| *known == key);
            let key = known.ok_or_else(|| format!("`{key}` is none of {}", KEYS.join(", ")))?;
            Ok((key, value.to_owned()))
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        formatter.write_str(&parts.join(","))
    }
}

impl Expected {
    fn met(&self, said: &Said) -> bool {
        let has = |(key, value): &(&'static str, String)| said.field(key) == *value;
        self.0.iter().all(has)
    }
}

/// An answer or a refusal.
#[derive(Debug, Clone, Serialize)]
struct Said {
    status: u16,
    reason: String,
    backend: String,
    class: String,
    privacy: String,
    degraded: String,
    text: String,
    message: String,
}

impl Said {
    fn read(reply: &Reply) -> Self {
        let header = |name: &str| reply.header(name).unwrap_or_default().to_owned();
        let word = |pointer: &str| {
            let found = reply.body.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        Self {
            status: reply.status.as_u16(),
            reason: header("mesh-reason"),
            backend: header("mesh-backend"),
            class: header("mesh-sovereignty-class"),
            privacy: header("mesh-privacy"),
            degraded: header("mesh-degraded"),
            text: word("/choices/0/message/content"),
            message: word("/error/message"),
        }
    }

    fn field(&self, key: &str) -> String {
        match key {
            "status" => self.status.to_string(),
            "reason" => self.reason.clone(),
            "backend" => self.backend.clone(),
            "class" => self.class.clone(),
            "privacy" => self.privacy.clone(),
            _ => String::new(),
        }
    }

    /// A completion has words.
    fn answered(&self) -> bool {
        self.status == 200 && !self.text.is_empty()
    }

    /// True if somebody else may be able to answer in a while.
    fn may_pass(&self) -> bool {
        matches!(self.status, 429 | 502 | 503 | 504)
    }

    /// Whether it is what was wanted; without any expectation that is a completion. Status 200 is expected of a
    /// completion only.
    fn wanted(&self, expected: &[Expected]) -> bool {
        if self.status == 200 && !self.answered() {
            return false;
        }
        match expected {
            [] => self.answered(),
            several => several.iter().any(|one| one.met(self)),
        }
    }
}

pub(crate) async fn run(options: Ask, format: Output) -> anyhow::Result<Answer> {
    let reached = remote::connect(&options.remote).await?;
    let said = patiently(reached.control(), &options).await?;
    output::result(format, &said, |out| show(out, &said))?;
    if said.wanted(&options.expect) {
        return Ok(Answer::Yes);
    }
    if !options.expect.is_empty() {
        let words: Vec<String> = options.expect.iter().map(ToString::to_string).collect();
        tracing::error!("expected {}", words.join(" or "));
    }
    Ok(Answer::No)
}

/// Asks until somebody gives a definite answer, or the patience is over.
async fn patiently(control: &Control, options: &Ask) -> anyhow::Result<Said> {
    let deadline = Instant::now() + Duration::from_secs(options.patience);
    loop {
        let tried = once(control, options).await;
        let passing = match &tried {
            Ok(said) => !said.wanted(&options.expect) && said.may_pass(),
            Err(error) => matches!(error, Error::Unreachable { .. }),
        };
        if !passing || Instant::now() + PAUSE > deadline {
            return Ok(tried?);
        }
        sleep(PAUSE).await;
    }
}

async fn once(control: &Control, options: &Ask) -> Result<Said, Error> {
    let body = json!({
        "model": options.model, "max_tokens": options.max_tokens,
        "messages": [{"role": "user", "content": options.text}],
    });
    let privacy = options.privacy.as_deref();
    let headers: Vec<(&str, &str)> = privacy
        .map(|level| ("mesh-privacy", level))
        .into_iter()
        .collect();
    let reply = control
        .exchange("/v1/chat/completions", &body, &headers)
        .await?;
    Ok(Said::read(&reply))
}

fn show(out: &mut dyn Write, said: &Said) -> std::io::Result<()> {
    if said.status != 200 {
        return writeln!(
            out,
            "refused ({} {}): {}",
            said.status, said.reason, said.message
        );
    }
    writeln!(out, "{}\n", said.text.trim())?;
    write!(out, "by {}, {}, {}", said.backend, said.class, said.privacy)?;
    if !said.degraded.is_empty() {
        write!(out, ", degraded: {}", said.degraded)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, reason: &str, class: &str, text: &str) -> Said {
        let [reason, class, text] = [reason, class, text].map(str::to_owned);
        let (backend, privacy, degraded, message) = Default::default();
        Said {
            status,
            reason,
            backend,
            class,
            privacy,
            degraded,
            text,
            message,
        }
    }

    fn expected(texts: &[&str]) -> Vec<Expected> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn any_of_several_expectations_is_enough_and_all_parts_of_one_are_needed() {
        let either = expected(&[
            "status=200,class=OwnHardware",
            "status=403,reason=policy_denied",
        ]);
        assert!(said(200, "", "OwnHardware", "Yes.").wanted(&either));
        assert!(said(403, "policy_denied", "", "").wanted(&either));
        assert!(!said(200, "", "CloudForeign", "Yes.").wanted(&either));
        assert!(!said(403, "other", "", "").wanted(&either));
    }

    #[test]
    fn a_completion_has_words() {
        assert!(said(200, "", "OwnHardware", "Yes.").wanted(&[]));
        assert!(!said(200, "", "OwnHardware", "").wanted(&[]));
        assert!(!said(200, "", "OwnHardware", "").wanted(&expected(&["status=200"])));
        assert!(!said(401, "invalid_api_key", "", "").wanted(&[]));
    }

    #[test]
    fn what_cannot_be_expected_is_refused() {
        for (text, words) in [
            ("status", "is not KEY=VALUE"),
            ("color=red", "is none of status"),
        ] {
            let said = text.parse::<Expected>().unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
