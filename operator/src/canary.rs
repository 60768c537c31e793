//! `mesh-operator canary`: what runs in a pod of a confined namespace, as an application would, and tries
//! what is forbidden and what is allowed. It has no token and no right, and writes what it found into its
//! termination log.
//!
//! A destination `dns://HOST:PORT` is asked a question over UDP, any other by a connection over TCP.
//!
//! A network may need a moment to know a new pod, so it looks again and again until all is as it should be
//! for some rounds, or its time is up. Refuses to judge: the operator does.

mod question;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Rounds in a row that must be good.
const ROUNDS: u32 = 3;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for an answer. What is forbidden is mostly dropped in silence.
const PATIENCE: Duration = Duration::from_secs(1);
/// More destinations than this would not fit into a termination message.
pub(crate) const MOST: usize = 16;
/// Before the address of who is asked over UDP.
const DNS: &str = "dns://";
/// Whom the pod itself asks for names.
const OWN_RESOLVER: &str = "resolv.conf";
/// Longest name of a destination.
const LONGEST: usize = 80;

/// Settings of `canary`.
#[derive(Debug, clap::Args)]
pub(crate) struct Canary {
    /// A destination that must not be reached, as `NAME=HOST:PORT` or `NAME=dns://HOST:PORT`. Repeated.
    #[arg(long)]
    forbidden: Vec<Target>,
    /// A destination that must be reached, in the same form. `dns://resolv.conf:53` is whom the pod itself asks. Repeated.
    #[arg(long)]
    allowed: Vec<Target>,
    /// Seconds after which it says what it has found so far.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=300))]
    limit_seconds: u64,
    /// Where to write it.
    #[arg(long, default_value = "/dev/termination-log")]
    report: PathBuf,
}

/// A destination: what it is called and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `HOST:PORT`, or `dns://HOST:PORT`.
    pub(crate) address: String,
}

impl Target {
    /// Whom the pod itself asks for names, over UDP.
    pub(crate) fn own_resolver() -> Self {
        Self {
            name: "own-dns".to_owned(),
            address: format!("{DNS}{OWN_RESOLVER}:53"),
        }
    }

    /// Over UDP; else over TCP.
    pub(crate) fn is_dns(&self) -> bool {
        self.address.starts_with(DNS)
    }

    /// `HOST:PORT`.
    pub(crate) fn place(&self) -> &str {
        self.address.strip_prefix(DNS).unwrap_or(&self.address)
    }
}

/// Why a word is no destination.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// Something is missing.
    #[error("`{0}` is not NAME=HOST:PORT or NAME=dns://HOST:PORT")]
    Form(String),
    /// Nobody listens at port 0, and there are none above 65535.
    #[error("`{0}`: a port is from 1 to 65535")]
    Port(String),
    /// The name is too long or has other characters than a word, an address and a port have.
    #[error("`{0}` is not a name for a destination")]
    Name(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let form = || TargetError::Form(text.to_owned());
        let (name, address) = text.split_once('=').ok_or_else(form)?;
        let place = address.strip_prefix(DNS).unwrap_or(address);
        let (host, port) = place.rsplit_once(':').ok_or_else(form)?;
        if host.is_empty()
            || host.contains('/')
            || port.is_empty()
            || !port.bytes().all(|one| one.is_ascii_digit())
        {
            return Err(form());
        }
        let number: u16 = port.parse().unwrap_or_default();
        if number == 0 {
            return Err(TargetError::Port(address.to_owned()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(good) {
            return Err(TargetError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            address: address.to_owned(),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

/// How a destination answered in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// A connection was made, or the question was answered.
    Open,
    /// It was refused.
    Refused,
    /// Nothing came back.
    Silent,
    /// The name is unknown.
    Unresolved,
}

/// One destination and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tried {
    pub(crate) name: String,
    pub(crate) answer: Answer,
}

/// What a canary found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Report {
    /// Version of this form.
    canary: u32,
    /// Of the last rounds: open if it was in any of them.
    pub(crate) forbidden: Vec<Tried>,
    /// Of the last round.
    pub(crate) allowed: Vec<Tried>,
    /// Milliseconds until nothing forbidden answered any more.
    pub(crate) open_millis: u64,
}

impl Report {
    /// The only form there is.
    const FORM: u32 = 1;

    /// None if these are other words, or about other destinations than were asked for.
    pub(crate) fn read(text: &str, forbidden: &[Target], allowed: &[Target]) -> Option<Self> {
        let report: Self = serde_json::from_str(text.trim()).ok()?;
        let about = |tried: &[Tried], targets: &[Target]| {
            let said: BTreeSet<&str> = tried.iter().map(|one| one.name.as_str()).collect();
            let asked: BTreeSet<&str> = targets.iter().map(|one| one.name.as_str()).collect();
            said == asked && tried.len() == targets.len()
        };
        let good = report.canary == Self::FORM
            && about(&report.forbidden, forbidden)
            && about(&report.allowed, allowed);
        good.then_some(report)
    }

    /// Forbidden destinations that were reached.
    pub(crate) fn leaks(&self) -> impl Iterator<Item = &Tried> {
        self.forbidden
            .iter()
            .filter(|one| one.answer == Answer::Open)
    }

    /// Allowed destinations that were not.
    pub(crate) fn unreached(&self) -> impl Iterator<Item = &Tried> {
        self.allowed.iter().filter(|one| one.answer != Answer::Open)
    }

    /// As if a canary had found this.
    #[cfg(test)]
    pub(crate) fn found(forbidden: &[(&str, Answer)], allowed: &[(&str, Answer)]) -> Self {
        let tried = |all: &[(&str, Answer)]| {
            let one = |(name, answer): &(&str, Answer)| Tried {
                name: (*name).to_owned(),
                answer: *answer,
            };
            all.iter().map(one).collect()
        };
        Self {
            canary: Self::FORM,
            forbidden: tried(forbidden),
            allowed: tried(allowed),
            open_millis: 0,
        }
    }
}

/// Tries, and writes down what it found.
pub(crate) async fn run(options: &Canary) -> anyhow::Result<()> {
    let all = options.forbidden.len() + options.allowed.len();
    anyhow::ensure!(
        (1..=MOST).contains(&all),
        "give 1 to {MOST} destinations by --forbidden and --allowed, not {all}"
    );
    let report = look(
        &options.forbidden,
        &options.allowed,
        Duration::from_secs(options.limit_seconds),
    )
    .await;
    let text = serde_json::to_string(&report)?;
    tracing::info!(report = text, "looked");
    tokio::fs::write(&options.report, text)
        .await
        .with_context(|| format!("could not write {}", options.report.display()))
}

async fn look(forbidden: &[Target], allowed: &[Target], limit: Duration) -> Report {
    let begun = Instant::now();
    let mut good_rounds = 0;
    let mut open_millis = 0;
    // Answers to what is forbidden in the last rounds, newest last.
    let mut rounds: Vec<Vec<Answer>> = Vec::new();
    loop {
        let (out, home) = tokio::join!(dial_all(forbidden), dial_all(allowed));
        let closed = out.iter().all(|answer| *answer != Answer::Open);
        if !closed {
            open_millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        let reached = home.iter().all(|answer| *answer == Answer::Open);
        good_rounds = if closed && reached {
            good_rounds + 1
        } else {
            0
        };
        rounds.push(out);
        if good_rounds >= ROUNDS || begun.elapsed() >= limit {
            return Report {
                canary: Report::FORM,
                forbidden: named(forbidden, &worst(&rounds)),
                allowed: named(allowed, &home),
                open_millis,
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Open where the last rounds were so in any; else as in the last.
fn worst(rounds: &[Vec<Answer>]) -> Vec<Answer> {
    let last = &rounds[rounds.len().saturating_sub(ROUNDS as usize)..];
    let Some(newest) = last.last() else {
        return Vec::new();
    };
    let open = |at: usize| {
        last.iter()
            .any(|round| round.get(at) == Some(&Answer::Open))
    };
    let one = |(at, answer): (usize, &Answer)| if open(at) { Answer::Open } else { *answer };
    newest.iter().enumerate().map(one).collect()
}

fn named(targets: &[Target], answers: &[Answer]) -> Vec<Tried> {
    let pairs = targets.iter().zip(answers);
    pairs
        .map(|(target, answer)| Tried {
            name: target.name.clone(),
            answer: *answer,
        })
        .collect()
}

async fn dial_all(targets: &[Target]) -> Vec<Answer> {
    join_all(targets.iter().map(dial)).await
}

/// How a destination answers, by the first of its addresses that does.
pub(crate) async fn dial(target: &Target) -> Answer {
    let (addresses, name) = if *target == Target::own_resolver() {
        question::own(53).await
    } else {
        (addresses(target).await, question::ROOT.to_owned())
    };
    let mut answer = Answer::Unresolved;
    for address in addresses {
        answer = if target.is_dns() {
            question::ask(address, &name, PATIENCE).await
        } else {
            connect(address).await
        };
        if answer == Answer::Open {
            break;
        }
    }
    answer
}

/// None if the name is unknown, or nobody says what it is in time.
pub(crate) async fn addresses(target: &Target) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host(target.place());
    match tokio::time::timeout(PATIENCE * 2, found).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => Vec::new(),
    }
}

async fn connect(address: SocketAddr) -> Answer {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer::Open,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Refused,
        _ => Answer::Silent,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::{Answer, Report, Target, Tried, look, worst};

    fn target(name: &str, address: &str) -> Target {
        format!("{name}={address}").parse().expect("a destination")
    }

    async fn listener() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let target = target("there", &address);
        (listener, target)
    }

    /// A port that nobody listens on.
    async fn nobody() -> Target {
        let (listener, there) = listener().await;
        drop(listener);
        target("nobody", &there.address)
    }

    fn answers(tried: &[Tried]) -> Vec<Answer> {
        tried.iter().map(|one| one.answer).collect()
    }

    #[tokio::test]
    async fn what_is_closed_and_what_is_open_are_told_apart_and_a_name_that_is_none() {
        let (_kept, there) = listener().await;
        let unknown = target("unknown", "name.invalid:80");
        let report = look(
            &[nobody().await],
            std::slice::from_ref(&there),
            Duration::from_mins(1),
        )
        .await;
        assert_eq!(answers(&report.forbidden), [Answer::Refused]);
        assert_eq!(answers(&report.allowed), [Answer::Open]);
        assert_eq!((report.leaks().count(), report.unreached().count()), (0, 0));
        let bad = look(&[there], &[unknown], Duration::from_millis(1)).await;
        assert_eq!((bad.leaks().count(), bad.unreached().count()), (1, 1));
        assert_eq!(answers(&bad.allowed), [Answer::Unresolved]);
    }

    #[tokio::test]
    async fn a_network_that_learns_late_is_waited_for() {
        let (kept, there) = listener().await;
        let closing = async {
            let _first = kept.accept().await;
            drop(kept);
        };
        let targets = [there];
        let (report, ()) = tokio::join!(look(&targets, &[], Duration::from_mins(1)), closing);
        assert_eq!(report.leaks().count(), 0, "{report:?}");
    }

    #[tokio::test]
    async fn whoever_answers_a_question_over_udp_was_reached() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
        let socket = socket.expect("a port");
        let place = socket.local_addr().expect("an address");
        let answering = async {
            let mut bytes = [0; 64];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.expect("a question");
                bytes[2] |= 0x80;
                socket.send_to(&bytes[..length], from).await.expect("sent");
            }
        };
        let there = [target("resolver", &format!("dns://{place}"))];
        let report = tokio::select! {
            report = look(&there, &there, Duration::from_millis(1)) => report,
            () = answering => unreachable!("it answers for ever"),
        };
        assert_eq!((report.leaks().count(), report.unreached().count()), (1, 0));
        // Over TCP nobody is there.
        let tcp = target("resolver", &place.to_string());
        let report = look(&[tcp], &[], Duration::from_millis(1)).await;
        assert_eq!(answers(&report.forbidden), [Answer::Refused]);
    }

    #[test]
    fn one_open_round_of_the_last_three_is_open() {
        use Answer::{Open, Silent};
        let rounds =
            |all: &[Answer]| -> Vec<Vec<Answer>> { all.iter().map(|one| vec![*one]).collect() };
        assert_eq!(worst(&rounds(&[Silent, Open, Silent])), [Open]);
        assert_eq!(worst(&rounds(&[Open, Silent, Silent, Silent])), [Silent]);
        assert_eq!(worst(&rounds(&[Silent, Open])), [Open]);
    }

    #[test]
    fn a_report_about_anything_else_than_was_asked_is_none() {
        let asked = [target("api-server", "10.0.0.1:443")];
        let home = [target("gateway", "g.svc:8443")];
        let good = Report::found(
            &[("api-server", Answer::Silent)],
            &[("gateway", Answer::Open)],
        );
        let text = serde_json::to_string(&good).expect("JSON");
        assert_eq!(Report::read(&text, &asked, &home), Some(good));
        for other in [
            Report::found(&[], &[("gateway", Answer::Open)]),
            Report::found(&[("else", Answer::Silent)], &[("gateway", Answer::Open)]),
            Report::found(
                &[
                    ("api-server", Answer::Silent),
                    ("api-server", Answer::Silent),
                ],
                &[("gateway", Answer::Open)],
            ),
        ] {
            let text = serde_json::to_string(&other).expect("JSON");
            assert_eq!(Report::read(&text, &asked, &home), None, "{text}");
        }
        let more = text.replacen('{', "{\"more\":1,", 1);
        for bad in [
            "",
            "{}",
            "panicked",
            &more,
            &text.replace("\"canary\":1", "\"canary\":2"),
        ] {
            assert_eq!(Report::read(bad, &asked, &home), None, "{bad}");
        }
    }

    #[test]
    fn a_destination_needs_a_name_a_host_and_a_port() {
        for bad in [
            "a",
            "a=b",
            "=b:1",
            "a=:1",
            "a=b:0",
            "a=b:99999",
            "a=dns://:53",
            "a=dns://b",
            "a=dns://b:0",
            "a=udp://b:53",
            "a b=c:1",
            "a\"=c:1",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        assert_eq!(target("a", "[::1]:80").to_string(), "a=[::1]:80");
        let dns = target("a", "dns://b:53");
        assert_eq!((dns.is_dns(), dns.place()), (true, "b:53"));
        assert_eq!(dns.to_string().parse::<Target>().expect("itself"), dns);
        let own = Target::own_resolver();
        assert_eq!(own.to_string().parse::<Target>().expect("itself"), own);
    }
}
