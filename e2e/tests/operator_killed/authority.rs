//! The authority of the mesh in its Secret: from one near its end to another, in three steps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::lives::Act;
use mesh_e2e::operator::HOME;
use mesh_e2e::stage::Stage;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::room::Room;
use crate::{AFTER, around, settings, told, trusted};

const SECRET: &str = "mesh-ca";

/// The entries of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept(BTreeMap<String, String>);

impl Kept {
    pub(crate) fn read(stage: &Stage) -> Result<Self> {
        let secret = stage.get(&["-n", HOME, "secret", SECRET])?;
        let data: BTreeMap<String, String> = serde_json::from_value(secret["data"].clone())?;
        let text = |(key, value): (String, String)| {
            let value = String::from_utf8(STANDARD.decode(value)?)?;
            Ok((key, value))
        };
        data.into_iter().map(text).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn entries(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Everybody who is trusted, as members are told: who signs comes first.
    pub(crate) fn trusted(&self) -> String {
        let all = ["ca.crt", "next.crt", "previous.crt"];
        let all = all.iter().filter_map(|key| self.0.get(*key));
        let all: Vec<&str> = all.map(|one| one.trim()).collect();
        all.join("\n") + "\n"
    }

    /// Who signs.
    fn signs(&self) -> &str {
        self.0.get("ca.crt").map_or("", |one| one.trim())
    }
}

/// An authority of which more than two thirds are over.
pub(crate) fn old() -> (String, String) {
    let (key, now) = (KeyPair::generate().unwrap(), SystemTime::now());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - Duration::from_mins(20)).into();
    params.not_after = (now + Duration::from_mins(5)).into();
    let certificate = params.self_signed(&key).unwrap().pem();
    (certificate, key.serialize_pem())
}

/// As if somebody had deleted the Secret: then it goes in moments, not in hours.
fn ask(stage: &Stage) -> Result<()> {
    let asked = json!({"stringData": {"asked": "true"}}).to_string();
    let patch = ["patch", "secret", "-n", HOME, SECRET, "--type=merge"];
    stage
        .kubectl(&[&patch[..], &["-p", &asked]].concat())
        .map(drop)
}

/// What members in the mesh namespace are told.
fn announced(stage: &Stage) -> Result<String> {
    let found = stage.get(&["-n", HOME, "configmap", "mesh-trust"])?;
    let text = found["data"]["ca.crt"].as_str();
    text.map(str::to_owned).context("an entry ca.crt")
}

pub(crate) fn replaced(stage: &Stage) {
    around(stage);
    let (certificate, key) = old();
    let delete = ["delete", "-n", HOME, "secret/mesh-ca", "--ignore-not-found"];
    stage.kubectl(&delete).unwrap();
    stage
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": HOME, "name": SECRET},
            "stringData": {"ca.crt": certificate, "ca.key": key}}))
        .unwrap();
    let old = Kept::read(stage).unwrap();
    let act = Act {
        settings: settings(stage).env("MESH_AUTHORITY_SECONDS", "60"),
        moments: AFTER,
        aside: &[],
        stage,
    };
    // What members were told when somebody looked last.
    let heard = RefCell::new(String::new());
    let meanwhile = || {
        let now = Kept::read(stage)?;
        if now.0.contains_key("next.crt") && !now.0.contains_key("asked") {
            ask(stage)?;
        }
        let told = announced(stage).unwrap_or_default();
        // That one nobody announced.
        let first = now.signs() == old.signs();
        let said = [heard.borrow().as_str(), told.as_str()].concat();
        ensure!(
            first || said.contains(now.signs()),
            "who signs was not announced"
        );
        heard.replace(told);
        Ok(())
    };
    let done = || {
        let now = Kept::read(stage)?;
        ensure!(now.entries() == ["ca.crt", "ca.key"], "{:?}", now.entries());
        ensure!(now.signs() != old.signs(), "it is the old one");
        trusted(&Room::look(stage, HOME)?, &now)?;
        let bundles = crate::acts::known(stage)?;
        let same = bundles.iter().all(|one| *one == now.trusted());
        ensure!(same, "the API server knows the webhooks by another");
        Ok(())
    };
    let played = act.play(meanwhile, done).unwrap();
    told(&played);
    let steps = [
        "PUT:ca.crt+ca.key+next.crt+next.key+next.since secrets mesh-system/mesh-ca",
        "PUT:asked+ca.crt+ca.key+previous.crt+previous.until secrets mesh-system/mesh-ca",
        "PUT:ca.crt+ca.key secrets mesh-system/mesh-ca",
        "APPLY configmaps mesh-system/mesh-trust",
        "APPLY mutatingwebhookconfigurations /mesh-inject",
    ];
    played.ended_at(&steps).unwrap();
}
