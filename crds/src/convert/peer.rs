//! `spec.peer` to what the data plane knows of another mesh. Looks up no name: nothing is sent there.

use mesh_core as core;

use super::endpoint::own_host;
use super::{World, value, warning};
use crate::parse::Document;
use crate::peer::{Peer, Trust};
use crate::problem::{Problem, ProblemKind};

pub(super) fn convert(
    world: &World<'_>,
    document: &Document,
    spec: &Peer,
    problems: &mut Vec<Problem>,
) -> Option<core::Peer> {
    let field = "spec.peer.address";
    let (host, port) = value(document, field, spec.address.read(), problems)?;
    if world.input.pods.is_some() && own_host(&host) {
        let message = "not in a cluster: loopback and link-local addresses are the gateway's own";
        problems.push(document.problem(ProblemKind::NotInCluster, field, message));
        return None;
    }
    let later = format!(
        "{}; this backend is judged and shown, never asked",
        core::Peer::UNSERVED
    );
    let kind = ProblemKind::NotSupportedYet;
    problems.push(warning(document, kind, "spec.peer", later));
    let trust = match spec.trust {
        Trust::Invited => core::Trust::Invited,
        Trust::Open => core::Trust::Open,
    };
    let home = world.input.mesh_namespace;
    if trust == core::Trust::Invited && world.namespace(document) != home {
        let message = format!(
            "only those who write to namespace {home} invite others: it counts as Open here"
        );
        let kind = ProblemKind::Ignored;
        problems.push(warning(document, kind, "spec.peer.trust", message));
    }
    Some(core::Peer {
        host,
        port,
        identity: spec.identity.0.clone(),
        trust,
    })
}
