//! One question of DNS over UDP, to see whether somebody answers: networks that close TCP and forget UDP let data out
//! in questions. Strangers are asked for the servers of the root, which says nothing of anybody; the pod's own resolver for
//! the API server, which it knows by itself. Refuses to read the answer: that there is one is all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;

use super::Answer;

/// It is asked so often: packets get lost.
const TIMES: u32 = 2;
/// Where a pod reads whom it may ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bit of an answer in the third byte.
const ANSWER: u8 = 0x80;
/// The name of the root.
pub(super) const ROOT: &str = "";

/// How a place answers a question about a name in all within this time.
pub(super) async fn ask(place: SocketAddr, name: &str, patience: Duration) -> Answer {
    let question = question(name);
    let asked = asked(place, &question, patience).await;
    asked.unwrap_or_else(|error| {
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            Answer::Refused
        } else {
            Answer::Silent
        }
    })
}

async fn asked(place: SocketAddr, question: &[u8], patience: Duration) -> std::io::Result<Answer> {
    let any: IpAddr = match place {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only what comes from there is received.
    socket.connect(place).await?;
    for _ in 0..TIMES {
        socket.send(question).await?;
        let heard = tokio::time::timeout(patience / TIMES, heard(&socket, question));
        if let Ok(done) = heard.await {
            return done.map(|()| Answer::Open);
        }
    }
    Ok(Answer::Silent)
}

/// Until something comes that answers the question.
async fn heard(socket: &UdpSocket, question: &[u8]) -> std::io::Result<()> {
    let mut bytes = [0; 512];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if answers(&bytes[..length], question) {
            return Ok(());
        }
    }
}

fn answers(bytes: &[u8], question: &[u8]) -> bool {
    let says = bytes.get(2).is_some_and(|flags| flags & ANSWER != 0);
    bytes.len() >= 12 && bytes[..2] == question[..2] && says
}

fn question(name: &str) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let [.., high, low] = now.map_or(0, |now| now.subsec_micros()).to_be_bytes();
    // Recursion is desired; one question.
    let mut bytes = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        // The file system's owner wrote it; what is too long for DNS is cut, and nobody answers.
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label);
    }
    let servers = u8::from(name == ROOT);
    // NS or A; IN.
    bytes.extend([0, 0, 1 + servers, 0, 1]);
    bytes
}

/// Whom this pod asks for names by itself, at this port, and a name that it knows.
pub(super) async fn own(port: u16) -> (Vec<SocketAddr>, String) {
    let text = tokio::fs::read_to_string(RESOLV_CONF).await;
    let text = text.unwrap_or_default();
    (servers(&text, port), known(&text))
}

/// The API server's, by the domain of the cluster's services.
fn known(text: &str) -> String {
    let search = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search "));
    let mut domains = search.flat_map(str::split_whitespace);
    let services = domains.find(|domain| domain.starts_with("svc."));
    services.map_or_else(
        || ROOT.to_owned(),
        |domain| format!("kubernetes.default.{domain}"),
    )
}

fn servers(text: &str, port: u16) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("nameserver");
        let address: IpAddr = words.next().filter(|_| named)?.parse().ok()?;
        Some(SocketAddr::new(address, port))
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UdpSocket;

    use super::{ROOT, ask, known, question, servers};
    use crate::canary::Answer;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn who_answers_is_told_from_who_is_silent_and_from_nobody() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let place = server.local_addr().expect("an address");
        let answering = async {
            let mut bytes = [0; 64];
            // The first packet is lost, and what comes then is no answer at first.
            let _lost = server.recv_from(&mut bytes).await.expect("a question");
            let (length, from) = server.recv_from(&mut bytes).await.expect("a question");
            server.send_to(&bytes[..length], from).await.expect("sent");
            server.send_to(b"noise", from).await.expect("sent");
            bytes[2] |= 0x80;
            server.send_to(&bytes[..length], from).await.expect("sent");
        };
        let (answer, ()) = tokio::join!(ask(place, ROOT, SOON / 5), answering);
        assert_eq!(answer, Answer::Open);
        assert_eq!(ask(place, ROOT, SOON / 100).await, Answer::Silent);
        drop(server);
        assert_eq!(ask(place, ROOT, SOON).await, Answer::Refused);
    }

    #[test]
    fn a_question_is_well_formed() {
        let head = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let root = question(ROOT);
        assert_eq!(
            (&root[2..12], &root[12..]),
            (&head[..], &[0, 0, 2, 0, 1][..])
        );
        let named = question("a.bc");
        let tail = [&[1, b'a', 2, b'b', b'c'][..], &[0, 0, 1, 0, 1]].concat();
        assert_eq!((&named[2..12], &named[12..]), (&head[..], &tail[..]));
    }

    #[test]
    fn whom_a_pod_asks_is_read_from_its_file() {
        let text = "search team.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.79.0.10\nnameserver fd00::10\nnameserver x\noptions ndots:5\n";
        let read: Vec<String> = servers(text, 53).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["10.79.0.10:53", "[fd00::10]:53"]);
        assert_eq!(known(text), "kubernetes.default.svc.cluster.local");
        assert_eq!(known("nameserver 10.0.0.1\n"), ROOT);
    }
}
