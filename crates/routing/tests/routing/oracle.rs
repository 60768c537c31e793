//! The hard rules once more, written from the text and without the crate's own admission: what a
//! property test compares with.

use std::net::IpAddr;

use mesh_core::policy::{ClaimField, Policy};
use mesh_core::{
    Backend, Claims, Facts, Feature, Place, PrivacyLevel, ServedModel, SovereigntyClass, ToolNeed,
    Trust,
};

use crate::world::{MESH, World, now};

/// Policies that select the caller.
pub(crate) fn governing(world: &World) -> Vec<&Policy> {
    let caller = &world.caller;
    world
        .snapshot
        .policies
        .iter()
        .map(AsRef::as_ref)
        .filter(|policy| {
            let reach = [MESH, caller.tenant.as_str()].contains(&policy.id.namespace.as_str());
            let account = policy.service_accounts.is_empty()
                || policy
                    .service_accounts
                    .iter()
                    .any(|name| Some(name) == caller.service_account.as_ref());
            reach && account && policy.namespaces.matches(caller)
        })
        .collect()
}

fn mesh(policy: &Policy) -> bool {
    policy.id.namespace == MESH
}

fn claims(backend: &Backend) -> Option<&Claims> {
    let Place::Cloud(cloud) = &backend.place else {
        return None;
    };
    cloud
        .claims
        .as_ref()
        .filter(|claims| claims.expires > now())
}

/// True if every policy that says what is owned says it of `fact`, and there is one.
fn all_owners_say(world: &World, fact: impl Fn(&mesh_core::policy::Ownership) -> bool) -> bool {
    let mut owners = governing(world)
        .into_iter()
        .filter(|policy| {
            mesh(policy)
                && policy.namespaces.match_labels.is_empty()
                && policy.service_accounts.is_empty()
        })
        .filter_map(|policy| policy.ownership.as_ref())
        .peekable();
    owners.peek().is_some() && owners.all(fact)
}

fn v4(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The class of a backend.
pub(crate) fn class(world: &World, backend: &Backend) -> SovereigntyClass {
    match &backend.place {
        Place::InProcess { .. } => SovereigntyClass::OwnHardware,
        Place::Pods(_) => unreachable!("the generator makes none; classes.rs tests them"),
        Place::Peer(peer) if peer.trust == Trust::Invited && backend.id.namespace == MESH => {
            SovereigntyClass::TrustedSwarm
        }
        Place::Peer(_) => SovereigntyClass::OpenSwarm,
        Place::External(endpoint) => {
            let own = (backend.id.namespace.clone(), backend.id.name.clone());
            let listed = all_owners_say(world, |owner| owner.external.contains(&own));
            let addressed = backend.id.namespace == MESH
                && !endpoint.resolved.is_empty()
                && endpoint.resolved.iter().all(|address| {
                    all_owners_say(world, |owner| {
                        owner.networks.iter().any(|net| net.contains(&v4(*address)))
                    }) && !endpoint
                        .cluster_networks
                        .iter()
                        .any(|net| net.contains(&v4(*address)))
                });
            if listed || addressed {
                SovereigntyClass::OwnHardware
            } else {
                SovereigntyClass::CloudRetained
            }
        }
        Place::Cloud(_) => {
            let Some(claims) = claims(backend) else {
                return SovereigntyClass::CloudRetained;
            };
            if (claims.retention_days, claims.training) != (Some(0), Some(false)) {
                return SovereigntyClass::CloudRetained;
            }
            let home = [&claims.seat, &claims.data_centers, &claims.governing_law]
                .into_iter()
                .all(|set| {
                    !set.0.is_empty()
                        && set.0.iter().all(|place| {
                            all_owners_say(world, |owner| owner.home_jurisdictions.covers(place))
                        })
                });
            if home {
                SovereigntyClass::CloudDomestic
            } else {
                SovereigntyClass::CloudForeign
            }
        }
    }
}

/// The lowest class that may serve `level`.
fn minimum(world: &World, level: PrivacyLevel) -> SovereigntyClass {
    use SovereigntyClass::{CloudDomestic, CloudRetained, OwnHardware, RentedHardware};
    let policies = governing(world);
    let built_in = [CloudRetained, CloudDomestic, RentedHardware, OwnHardware];
    PrivacyLevel::ALL
        .into_iter()
        .filter(|lower| *lower <= level)
        .map(|lower| {
            let said = |home: bool| {
                policies
                    .iter()
                    .filter(|policy| mesh(policy) == home)
                    .filter_map(|policy| policy.constraints.minimum_class.get(&lower))
                    .max()
                    .copied()
            };
            let base = if policies.iter().any(|policy| mesh(policy)) {
                said(true).unwrap_or_else(|| built_in[usize::from(lower.rank())])
            } else {
                OwnHardware
            };
            said(false).map_or(base, |team| team.max(base))
        })
        .max()
        .unwrap_or(OwnHardware)
}

/// The rule that forbids this backend and model for this request, if one does. `level` is that of
/// the decision.
pub(crate) fn forbidden(
    world: &World,
    facts: &Facts,
    level: PrivacyLevel,
    local: bool,
    backend: &Backend,
    model: &ServedModel,
) -> Option<&'static str> {
    let class = class(world, backend);
    let owned = class == SovereigntyClass::OwnHardware;
    let reach = if backend.id.namespace == MESH {
        backend.available_to.matches(&world.caller)
    } else {
        backend.id.namespace == world.caller.tenant
    };
    [
        (!reach, "reach"),
        (local && !owned, "local"),
        (class < minimum(world, level), "class"),
        (backend.max_privacy < level, "ceiling"),
        (!owned && abroad(world, backend), "jurisdiction"),
        (!owned && kept(world, backend, level), "retention"),
        (unlicensed(world, model), "license"),
        (
            !facts.needs.hosted_tools.is_empty() || facts.needs.remote_urls,
            "hosted",
        ),
        (
            !facts.needs.unknown_fields.is_empty() && !owned && level != PrivacyLevel::Public,
            "fields",
        ),
        (unable(facts, model), "feature"),
        (matches!(backend.place, Place::Peer(_)), "peer"),
    ]
    .into_iter()
    .find_map(|(broken, rule)| broken.then_some(rule))
}

/// True if the prompt and one token do not fit.
pub(crate) fn too_long(facts: &Facts, model: &ServedModel) -> bool {
    let wanted = u64::from(facts.needs.prompt_tokens) + u64::from(!facts.needs.embeddings);
    model
        .capabilities
        .context_tokens
        .is_some_and(|window| u64::from(window) < wanted)
}

fn abroad(world: &World, backend: &Backend) -> bool {
    let claims = claims(backend);
    governing(world)
        .iter()
        .filter_map(|policy| policy.constraints.jurisdictions.as_ref())
        .filter(|rule| rule.allow.is_some() || !rule.deny.0.is_empty())
        .any(|rule| {
            let Some(claims) = claims else { return true };
            [
                (ClaimField::Seat, &claims.seat),
                (ClaimField::DataCenters, &claims.data_centers),
                (ClaimField::GoverningLaw, &claims.governing_law),
            ]
            .into_iter()
            .filter(|(field, _)| rule.apply_to.is_empty() || rule.apply_to.contains(field))
            .any(|(_, set)| {
                set.0.is_empty()
                    || set.0.iter().any(|place| {
                        rule.deny.0.iter().any(|denied| denied.overlaps(place))
                            || rule.allow.as_ref().is_some_and(|allowed| {
                                !allowed.0.iter().any(|one| place.within(one))
                            })
                    })
            })
        })
}

fn kept(world: &World, backend: &Backend, level: PrivacyLevel) -> bool {
    governing(world)
        .iter()
        .flat_map(|policy| &policy.constraints.retention)
        .filter(|rule| level >= rule.from)
        .any(|rule| {
            let shown = claims(backend).is_some_and(|claims| {
                claims
                    .retention_days
                    .is_some_and(|days| days <= rule.max_days)
                    && (rule.allow_training || claims.training == Some(false))
            });
            !shown
        })
}

fn unlicensed(world: &World, model: &ServedModel) -> bool {
    let license = model
        .license
        .as_ref()
        .map(|license| license.0.to_lowercase());
    let is = |other: &mesh_core::License| Some(other.0.to_lowercase()) == license;
    governing(world).iter().any(|policy| {
        let rules = &policy.constraints;
        rules.licenses_deny.iter().any(is)
            || rules
                .licenses_allow
                .as_ref()
                .is_some_and(|allowed| !allowed.iter().any(is))
    })
}

fn unable(facts: &Facts, model: &ServedModel) -> bool {
    let needs = &facts.needs;
    let lacks = |feature| !model.capabilities.features.contains(&feature);
    let declared = model.capabilities.embedding.as_ref();
    needs.other_media
        || needs.vision && lacks(Feature::Vision)
        || needs.json && lacks(Feature::JsonSchema)
        || needs.tools == ToolNeed::Hard && lacks(Feature::Tools)
        || needs.embeddings
            && declared.is_none_or(|spec| needs.dimensions.is_some_and(|n| n != spec.dimensions))
}
