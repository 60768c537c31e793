//! Arbitrary snapshots, policies and requests. Small domains on purpose: things must collide.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::policy::{
    ClaimField, Constraints, Failover, Floor, JurisdictionRule, Overflow, Ownership, Policy,
    PrivacyWeight, RetentionRule, Substitution, Weights,
};
use mesh_core::{
    Backend, BackendId, Complexity, Facts, Feature, JurisdictionSet, License, NamespaceSelector,
    Needs, Place, PolicyId, PrivacyLevel, ServedModel, SovereigntyClass, TaskQuality, TaskType,
    ToolNeed, Trust,
};
use mesh_routing::HealthView;
use mesh_routing::health::{Admission, OpenCause};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::networks::cluster_networks;
use crate::world::{
    MESH, World, claims, cloud, embedding, external, facts, in_process, peer, places, silent,
};

pub(crate) fn level() -> BoxedStrategy<PrivacyLevel> {
    // Mostly low: above, the class alone refuses nearly everything, and no other rule is tried.
    prop_oneof![2 => Just(PrivacyLevel::Public), 3 => select(&PrivacyLevel::ALL)].boxed()
}

fn class() -> BoxedStrategy<SovereigntyClass> {
    prop_oneof![
        2 => Just(SovereigntyClass::CloudRetained),
        1 => select(&SovereigntyClass::ALL)
    ]
    .boxed()
}

fn jurisdictions() -> BoxedStrategy<JurisdictionSet> {
    subsequence(vec!["DE", "FR", "US", "EU", "NO"], 0..=2)
        .prop_map(|codes| places(&codes))
        .boxed()
}

fn license() -> BoxedStrategy<License> {
    select(vec!["MIT", "mit", "Apache-2.0", "LicenseRef-x"])
        .prop_map(|id| License(id.to_owned()))
        .boxed()
}

fn namespace() -> BoxedStrategy<&'static str> {
    prop_oneof![3 => Just(MESH), 1 => Just("hr"), 1 => Just("lab")].boxed()
}

fn selector() -> BoxedStrategy<NamespaceSelector> {
    prop_oneof![
        4 => Just(NamespaceSelector::default()),
        1 => select(vec![MESH, "hr"]).prop_map(|name| NamespaceSelector {
            match_labels: BTreeMap::from([(
                String::from("kubernetes.io/metadata.name"),
                name.to_owned()
            )]),
        }),
    ]
    .boxed()
}

/// Numbers as they come from outside, strange ones included.
fn number() -> BoxedStrategy<f64> {
    prop_oneof![8 => 0.0..1.0_f64, 1 => Just(f64::NAN), 1 => Just(-3.0), 1 => Just(f64::INFINITY)]
        .boxed()
}

fn served(name: String) -> BoxedStrategy<ServedModel> {
    let features = subsequence(
        vec![Feature::Tools, Feature::JsonSchema, Feature::Vision],
        0..=3,
    );
    let spec = prop_oneof![
        5 => Just(None),
        1 => Just(Some(embedding("1", 384))),
        1 => Just(Some(embedding("2", 384)))
    ];
    let aliases = subsequence(vec!["shared", "*", "other"], 0..=2);
    (
        of(license()),
        of(prop_oneof![Just(500_u32), Just(4_000), Just(100_000)]),
        of((
            select(vec![TaskType::Chat, TaskType::Code, TaskType::Embed]),
            number(),
        )),
        of((number(), number(), select(vec!["EUR", "USD"]))),
        features,
        spec,
        aliases,
    )
        .prop_map(
            move |(license, window, task, price, features, spec, aliases)| {
                let mut model = crate::world::model(&name, 0.5);
                model.license = license;
                model.aliases = aliases.into_iter().map(str::to_owned).collect();
                model.price = price.map(|(input, output, currency)| mesh_core::Price {
                    input_per_million: input * 20.0,
                    output_per_million: output * 20.0,
                    currency: currency.to_owned(),
                });
                model.capabilities.context_tokens = window;
                model.capabilities.features = features;
                model.capabilities.embedding = spec;
                model.capabilities.tasks = task
                    .map(|(task, quality)| TaskQuality {
                        task,
                        quality,
                        source: String::new(),
                    })
                    .into_iter()
                    .collect();
                model
            },
        )
        .boxed()
}

fn place(name: &'static str) -> BoxedStrategy<Backend> {
    let addresses = subsequence(
        vec![
            "192.168.20.7",
            "192.168.30.7",
            "127.0.0.1",
            "::ffff:192.168.20.9",
        ],
        0..=2,
    );
    let expires = select(vec![
        "2026-01-01T00:00:00Z",
        "2026-11-22T12:00:00Z",
        "2027-01-01T00:00:00Z",
    ]);
    let cloudy = (
        of((jurisdictions(), jurisdictions(), jurisdictions())),
        of(0_u32..3),
        of(any::<bool>()),
        expires,
        any::<bool>(),
    )
        .prop_map(move |(codes, days, training, expires, silent)| {
            let mut backend = cloud(name, 0.5);
            let claimed = claims(&mut backend);
            if let Some((seat, centers, law)) = codes {
                (claimed.seat, claimed.data_centers, claimed.governing_law) = (seat, centers, law);
            }
            claimed.retention_days = days;
            claimed.training = training;
            claimed.expires = expires.parse().expect("an instant");
            if silent && let Place::Cloud(cloud) = &mut backend.place {
                cloud.claims = None;
            }
            backend
        });
    prop_oneof![
        2 => Just(in_process(name, "m")),
        2 => (addresses, cluster_networks()).prop_map(move |(addresses, networks)| {
            let mut backend = external(name, &addresses);
            if let Place::External(endpoint) = &mut backend.place {
                endpoint.cluster_networks = networks;
            }
            backend
        }),
        4 => cloudy,
        1 => select(vec![Trust::Invited, Trust::Open]).prop_map(move |trust| peer(name, trust)),
    ]
    .boxed()
}

pub(crate) fn backend(name: &'static str) -> BoxedStrategy<Backend> {
    let models = prop_oneof![Just(1_usize), Just(1), Just(2)].prop_flat_map(move |count| {
        (0..count)
            .map(|index| {
                let own = format!("{name}-{index}");
                let named = if index == 0 {
                    prop_oneof![Just(own), Just(String::from("shared"))].boxed()
                } else {
                    Just(own).boxed()
                };
                named.prop_flat_map(served).boxed()
            })
            .collect::<Vec<_>>()
    });
    (place(name), models, namespace(), level(), selector())
        .prop_map(
            move |(mut backend, models, namespace, max_privacy, available_to)| {
                backend.id = if namespace == MESH {
                    BackendId::home(namespace, name)
                } else {
                    BackendId::foreign(namespace, name)
                };
                backend.models = models;
                backend.max_privacy = PrivacyLevel::ALL[3 - usize::from(max_privacy.rank())];
                backend.available_to = available_to;
                backend
            },
        )
        .boxed()
}

fn constraints() -> BoxedStrategy<Constraints> {
    let rule = (
        jurisdictions(),
        of(jurisdictions()),
        subsequence(
            vec![
                ClaimField::Seat,
                ClaimField::DataCenters,
                ClaimField::GoverningLaw,
            ],
            0..=3,
        ),
    )
        .prop_map(|(deny, allow, apply_to)| JurisdictionRule {
            deny,
            allow,
            apply_to,
        });
    let retention =
        (level(), 0_u32..3, any::<bool>()).prop_map(|(from, max_days, allow_training)| {
            RetentionRule {
                from,
                max_days,
                allow_training,
            }
        });
    (
        btree_map(level(), class(), 0..3),
        of(rule),
        vec(license(), 0..=1),
        prop_oneof![4 => Just(None), 1 => vec(license(), 0..=3).prop_map(Some)],
        vec(retention, 0..=1),
    )
        .prop_map(
            |(minimum_class, jurisdictions, licenses_deny, licenses_allow, retention)| {
                Constraints {
                    minimum_class,
                    jurisdictions,
                    licenses_deny,
                    licenses_allow,
                    retention,
                }
            },
        )
        .boxed()
}

fn ownership() -> BoxedStrategy<Ownership> {
    (
        subsequence(
            vec!["192.168.0.0/16", "192.168.20.0/24", "127.0.0.0/8"],
            0..=2,
        ),
        of(select(vec!["b0", "b1"])),
        jurisdictions(),
    )
        .prop_map(|(networks, listed, home_jurisdictions)| Ownership {
            nodes: None,
            networks: networks
                .into_iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
            external: listed
                .map(|name| (MESH.to_owned(), name.to_owned()))
                .into_iter()
                .collect(),
            home_jurisdictions,
        })
        .boxed()
}

type Preferences = (
    Option<Failover>,
    Option<Floor>,
    Option<Weights>,
    Option<f64>,
);

fn preferences() -> BoxedStrategy<Preferences> {
    let failover = (0_u32..4, any::<bool>()).prop_map(|(max_attempts, never)| Failover {
        max_attempts,
        substitution: if never {
            Substitution::Never
        } else {
            Substitution::Floor
        },
        ..Failover::default()
    });
    let floor = (
        select(vec!["b0", "b1", "gone"]),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, compete, refuse)| Floor {
            drill: None,
            backend: (MESH.to_owned(), name.to_owned()),
            protect: true,
            compete,
            overflow: if refuse {
                Overflow::Refuse
            } else {
                Overflow::TrimHistory
            },
        });
    let weights = (number(), number(), number(), number(), number()).prop_map(
        |(quality, cost, latency, sovereignty, privacy)| Weights {
            quality,
            cost,
            latency,
            sovereignty,
            privacy,
        },
    );
    (of(failover), of(floor), of(weights), of(number())).boxed()
}

pub(crate) fn policy(name: &'static str) -> BoxedStrategy<Policy> {
    (
        (namespace(), selector(), any::<bool>()),
        of(ownership()),
        prop_oneof![4 => Just(Some(PrivacyLevel::Public)), 1 => of(level())],
        constraints(),
        preferences(),
        of(select(vec![PrivacyWeight::Hard, PrivacyWeight::Weighted])),
    )
        .prop_map(
            move |(
                (namespace, namespaces, accounts),
                ownership,
                default_privacy,
                constraints,
                preferences,
                privacy_weight,
            )| {
                let (failover, floor, weights, prefer_local_gap) = preferences;
                Policy {
                    id: if namespace == MESH {
                        PolicyId::home(namespace, name)
                    } else {
                        PolicyId::foreign(namespace, name)
                    },
                    namespaces,
                    service_accounts: if accounts && name != "p0" {
                        vec![String::from("bot")]
                    } else {
                        Vec::new()
                    },
                    ownership,
                    default_privacy,
                    constraints,
                    failover,
                    floor,
                    weights,
                    prefer_local_gap,
                    privacy_weight,
                    ..silent(name)
                }
            },
        )
        .boxed()
}

pub(crate) fn world() -> BoxedStrategy<World> {
    (
        (backend("b0"), backend("b1"), backend("b2"), backend("b3")),
        0_usize..=4,
        (policy("p0"), policy("p1"), policy("p2")),
        0_usize..=3,
        namespace(),
        any::<bool>(),
    )
        .prop_map(|(backends, some, policies, few, tenant, bot)| {
            let backends = <[Backend; 4]>::from(backends).into_iter().take(some);
            let policies = <[Policy; 3]>::from(policies).into_iter().take(few);
            let mut world = World::new(backends, policies).seen_from(tenant);
            world.caller.service_account = bot.then(|| String::from("bot"));
            world
        })
        .boxed()
}

fn needs() -> BoxedStrategy<Needs> {
    (
        prop_oneof![
            Just(100_u32),
            Just(499),
            Just(500),
            Just(5_000),
            Just(u32::MAX)
        ],
        of(0_u32..2_000),
        select(vec![ToolNeed::None, ToolNeed::Soft, ToolNeed::Hard]),
        (
            rarely(),
            rarely(),
            rarely(),
            rarely(),
            rarely(),
            prop::bool::weighted(0.25),
        ),
        rarely(),
        of(select(vec![384_u32, 768])),
    )
        .prop_map(
            |(prompt_tokens, max_output_tokens, tools, flags, embeddings, dimensions)| {
                let (json, vision, other_media, hosted, remote_urls, unknown) = flags;
                Needs {
                    prompt_tokens,
                    max_output_tokens,
                    tools,
                    json,
                    vision,
                    other_media,
                    embeddings,
                    dimensions,
                    stream: false,
                    hosted_tools: hosted
                        .then(|| String::from("web_search"))
                        .into_iter()
                        .collect(),
                    remote_urls,
                    unknown_fields: unknown
                        .then(|| String::from("provider"))
                        .into_iter()
                        .collect(),
                }
            },
        )
        .boxed()
}

fn rarely() -> BoxedStrategy<bool> {
    prop::bool::weighted(0.1).boxed()
}

/// Facts and the name that was asked for.
pub(crate) fn request() -> BoxedStrategy<(Facts, String)> {
    let asked = select(vec![
        "auto", "auto", "local", "shared", "b0-0", "b1-0", "b2-0", "other", "nobody",
    ]);
    (level(), needs(), 0.0..=1.0_f64, asked)
        .prop_map(|(level, needs, complexity, asked)| {
            let mut facts = facts(level);
            facts.complexity = Complexity::new(complexity);
            facts.needs = needs;
            (facts, asked.to_owned())
        })
        .boxed()
}

/// Health by backend name.
#[derive(Debug, Clone)]
pub(crate) struct Sick(BTreeMap<String, (Admission, Option<Duration>)>);

impl HealthView for Sick {
    fn admission(&self, backend: &BackendId, _: &str) -> Admission {
        self.0
            .get(&backend.name)
            .map_or(Admission::Yes, |one| one.0)
    }

    fn time_to_first_token(&self, backend: &BackendId, _: &str) -> Option<Duration> {
        self.0.get(&backend.name)?.1
    }
}

pub(crate) fn sickness() -> BoxedStrategy<Sick> {
    let no = select(vec![
        OpenCause::Failures,
        OpenCause::RateLimited,
        OpenCause::Marked(401),
    ])
    .prop_map(|cause| Admission::No {
        retry_in: Duration::from_secs(1),
        cause,
    });
    let admission = prop_oneof![2 => Just(Admission::Yes), 1 => Just(Admission::Probe), 2 => no];
    let measured = of((0_u64..20_000).prop_map(Duration::from_millis));
    btree_map(
        select(vec![
            String::from("b0"),
            String::from("b1"),
            String::from("b2"),
            String::from("b3"),
        ]),
        (admission, measured),
        0..4,
    )
    .prop_map(Sick)
    .boxed()
}
