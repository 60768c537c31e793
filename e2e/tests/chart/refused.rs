//! Values that the chart does not take.

use super::render::{HOME, KUBERNETES};
use super::world::World;

/// Values, and a word of why not.
const NONSENSE: &[(&str, &str)] = &[
    ("gateway: {replica: 3}\n", "replica"),
    ("scope: everywhere\n", "scope"),
    ("operator: {digest: latest}\n", "digest"),
    ("operator: {drainDelaySeconds: -1}\n", "drainDelaySeconds"),
    ("worker: {drainDelaySeconds: 1}\n", "drainDelaySeconds"),
    ("confine: {hostPaths: [/]}\n", "hostPaths"),
    ("confine: {hostPaths: [/usr/../var]}\n", "hostPaths"),
    ("confine: {hostPaths: [\"/usr'\"]}\n", "hostPaths"),
    (
        "confine: {canary: {forbidden: [\"db.example:0\"]}}\n",
        "forbidden",
    ),
    (
        "confine: {canary: {forbidden: [\"db.example:65536\"]}}\n",
        "forbidden",
    ),
    (
        "confine: {canary: {forbidden: [\"udp://db.example:53\"]}}\n",
        "forbidden",
    ),
    ("gateway: {replicas: 0}\n", "replicas"),
    (
        "gateway: {autoscaling: {enabled: true, minReplicas: 4, maxReplicas: 3}}\n",
        "maxReplicas 3 is less than minReplicas 4",
    ),
    ("gateway: {autoscaling: {cpu: much}}\n", "cpu"),
    // Helm names another place than this one, now and then.
    (
        "gateway: {autoscaling: {behavior: {fast: {}}}}\n",
        "invalid propertyName 'fast'",
    ),
    ("priorityClass: {value: 2000000000}\n", "value"),
    (
        "scope: namespaced\npriorityClass: {create: true}\n",
        "a PriorityClass belongs to the cluster",
    ),
    (
        "commonLabels: {app.kubernetes.io/name: mine}\n",
        "app.kubernetes.io/name",
    ),
    (
        "networkPolicy: {gateway: {egress: {cidrs: [example.com]}}}\n",
        "cidrs",
    ),
    ("floor: {kvMemory: much}\n", "kvMemory"),
    ("sidecar: {digest: latest}\n", "digest"),
    ("test: {enabled: false}\n", "enabled"),
    ("crds: {keep: maybe}\n", "keep"),
    ("injection: {enabled: maybe}\n", "enabled"),
    (
        "gateway: {podLabels: {app.kubernetes.io/name: mine}}\n",
        "app.kubernetes.io/name",
    ),
    ("gateway: {extraEnv: [{value: a}]}\n", "extraEnv"),
    ("extraObjects: [{kind: ConfigMap}]\n", "extraObjects"),
    (
        "monitoring: {prometheusRule: {maxProviderShare: 80}}\n",
        "maxProviderShare",
    ),
    ("monitoring: {podMonitor: {interval: often}}\n", "interval"),
    (
        "scope: namespaced\ngateway: {credentialNamespaces: [lab]}\n",
        "credentialNamespaces",
    ),
    ("ledger: {replicas: 2}\n", "replicas"),
    ("ledger: {retention: {days: -1}}\n", "days"),
    ("ledger: {retention: {percent: 100}}\n", "percent"),
    ("ledger: {persistence: {size: much}}\n", "size"),
    (
        "ledger: {enabled: true, persistence: {size: \"\"}}\n",
        "ledger.persistence: say a size",
    ),
    (
        "scope: namespaced\ngateway: {tokenReview: {enabled: true}}\n",
        "a TokenReview belongs to the cluster",
    ),
    (
        "gateway: {tokenReview: {maxAgeSeconds: 0}}\n",
        "maxAgeSeconds",
    ),
    ("clusterCIDRs: [example.com]\n", "clusterCIDRs"),
    ("gateway: {secretNames: [NOT_A_NAME]}\n", "secretNames"),
];

/// Values that mean nothing are refused with words.
pub(super) fn all(world: &World) {
    for (values, words) in NONSENSE {
        let values = world.file("refused.yaml", values);
        let said = world
            .helm(
                "template",
                "mesh",
                &["-n", HOME, "-f", &values, "--kube-version", KUBERNETES],
            )
            .expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
    }
}
