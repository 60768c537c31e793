//! The keeper of the audit, where it is asked for: one, with a volume that nobody deletes, and gateways alone reach it.

use serde_json::{Value, json};

use super::render::{DIGEST, of};

/// Values that have all of it.
pub(super) fn values() -> String {
    String::from(
        "  enabled: true
  persistence: {storageClassName: fast, size: 20Gi}
  retention: {days: 30, percent: 70, mebibytes: 18000}
  resources: {requests: {cpu: 10m, memory: 32Mi}}
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: dedicated, operator: Equal, value: mesh, effect: NoSchedule}]
  affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}
  priorityClassName: system-cluster-critical
  hostUsers: false
  podLabels: {pod: ours}
  podAnnotations: {note: ours}
  extraEnv: [{name: HTTPS_PROXY, value: \"http://proxy:3128\"}]
  extraVolumes: [{name: more, emptyDir: {}}]
  extraVolumeMounts: [{name: more, mountPath: /more}]
  log: debug
",
    )
}

/// It is there exactly where it is asked for, and those who need to know are told where.
pub(super) fn kept(set: &str, objects: &[Value]) {
    let asked = ["everything", "audited", "profile ha"].contains(&set);
    for kind in ["StatefulSet", "Service", "ServiceAccount"] {
        let found = of(objects, kind, "mesh-ledger");
        assert_eq!(found.is_some(), asked, "{set}: {kind}");
    }
    for name in ["mesh-gateway", "mesh-operator"] {
        let deployment = of(objects, "Deployment", name).unwrap();
        let told = variable(&deployment["spec"]["template"]["spec"], "MESH_LEDGER");
        let expected = if asked {
            json!("mesh-ledger.mesh-system.svc:8443")
        } else {
            Value::Null
        };
        assert_eq!(told, expected, "{set}: {name}");
    }
    let guard = of(objects, "NetworkPolicy", "mesh-ledger");
    assert_eq!(guard.is_some(), asked, "{set}");
    let gateway = of(objects, "NetworkPolicy", "mesh-gateway");
    let ways = gateway
        .map(|policy| policy["spec"]["egress"].to_string())
        .unwrap_or_default();
    let narrow = asked && set == "everything";
    assert_eq!(ways.contains("ledger-tls"), narrow, "{set}: {ways}");
    if let (Some(keeper), Some(guard)) = (of(objects, "StatefulSet", "mesh-ledger"), guard) {
        one(set, &keeper["spec"]);
        reached_by_gateways(set, &guard["spec"]);
    }
    if set == "everything" {
        as_the_values_say(&of(objects, "StatefulSet", "mesh-ledger").unwrap()["spec"]);
    }
}

fn variable(pod: &Value, name: &str) -> Value {
    let all = pod["containers"][0]["env"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.map_or(Value::Null, |one| one["value"].clone())
}

fn one(set: &str, spec: &Value) {
    assert_eq!(spec["replicas"], 1, "{set}");
    assert_eq!(spec["podManagementPolicy"], "Parallel", "{set}");
    let stays = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], stays, "{set}");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false, "{set}");
    assert_eq!(pod["securityContext"]["fsGroup"], 65532, "{set}");
    assert_eq!(pod["containers"][0]["args"], json!(["ledger"]), "{set}");
    let claim = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "log");
    let named = claim.map(|volume| volume["persistentVolumeClaim"]["claimName"].clone());
    let templates = spec["volumeClaimTemplates"].as_array().map_or(0, Vec::len);
    if set == "audited" {
        assert_eq!((named, templates), (Some(json!("mine")), 0), "{set}");
    } else {
        assert_eq!((named, templates), (None, 1), "{set}");
    }
}

fn reached_by_gateways(set: &str, spec: &Value) {
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]), "{set}");
    let ingress = spec["ingress"].as_array().unwrap();
    let log = ingress
        .iter()
        .filter(|way| way["ports"].to_string().contains("ledger-tls"));
    let from: Vec<&Value> = log.map(|way| &way["from"]).collect();
    assert_eq!(from.len(), 1, "{set}");
    let component = &from[0][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"];
    assert_eq!(component, "gateway", "{set}");
}

fn as_the_values_say(spec: &Value) {
    let pod = &spec["template"]["spec"];
    let image = &pod["containers"][0]["image"];
    assert_eq!(*image, format!("registry.example/own@{DIGEST}"));
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert_eq!(pod["hostUsers"], false);
    assert_eq!(variable(pod, "MESH_LEDGER_KEEP_DAYS"), "30");
    assert_eq!(variable(pod, "MESH_LEDGER_MOST_MIB"), "18000");
    assert_eq!(variable(pod, "MESH_LEDGER_MOST_PERCENT"), "70");
    assert_eq!(variable(pod, "HTTPS_PROXY"), "http://proxy:3128");
    let claim = &spec["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["storageClassName"], "fast");
    assert_eq!(claim["resources"]["requests"]["storage"], "20Gi");
    assert_eq!(spec["template"]["metadata"]["labels"]["pod"], "ours");
    assert_eq!(spec["template"]["metadata"]["annotations"]["note"], "ours");
}
