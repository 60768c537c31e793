//! `MeshCertificateExpiring` by making it happen: nobody is there any more who signs. Certificates live shorter here, and
//! the limit of the rule with them; what is asked, of which numbers, is the chart's.

use std::time::{Duration, Instant};

use mesh_e2e::prometheus::{Prometheus, rules};
use serde_json::{Value, json};

use super::{LONG, World};

const ALERT: &str = "MeshCertificateExpiring";
/// Seconds that a certificate lives; renewed when twenty are left.
const LIFE: &str = "60";
/// In the place of four hours of a day.
const SHORTER: [(&str, &str); 2] = [("< 4 * 3600", "< 13"), ("interval: 1m", "interval: 1s")];
const LEFT: &str = "mesh_gateway_certificate_expiry_seconds{name=\"member\"}";

pub(super) fn fires(world: &World) {
    let stage = &world.stage;
    let operator = world.operator("alert", &[("MESH_CERTIFICATE_SECONDS", LIFE)]);
    let gateway = world.gateway(&operator, "alert", &[]);
    let address = gateway.part.admin.trim_start_matches("http://");
    let labels = json!({"namespace": "mesh-system", "pod": "gateway"});
    let folder = world.folder.path().join("prometheus");
    let prometheus =
        Prometheus::start(&folder, &rules(&SHORTER).unwrap(), &[(address, labels)]).unwrap();
    let meant = |one: &Value| {
        one["alertname"] == ALERT && one["pod"] == "gateway" && one["name"] == "member"
    };
    let firing = || Ok::<bool, anyhow::Error>(prometheus.firing()?.iter().any(meant));
    let left = || Ok::<f64, anyhow::Error>(gateway.part.metric(LEFT)?.unwrap_or(-1.0));
    stage
        .until("it is scraped", LONG, || {
            Ok(prometheus.number(LEFT)?.filter(|left| *left > 0.0))
        })
        .unwrap();
    // A certificate comes to the time when it is renewed, and is.
    let mut lowest = f64::MAX;
    stage
        .until("it is renewed", LONG, || {
            let now = left()?;
            let renewed = now > lowest + 10.0;
            lowest = lowest.min(now);
            Ok(renewed.then_some(()))
        })
        .unwrap();
    assert!(
        !firing().unwrap(),
        "silent while it is renewed; {lowest} s were left"
    );
    operator.kill();
    let since = Instant::now();
    stage
        .until("it fires", LONG, || Ok(firing()?.then_some(())))
        .unwrap();
    let then = left().unwrap();
    println!(
        "  {ALERT} fires {:.0} s after nobody signed any more, with {then:.0} s left",
        since.elapsed().as_secs_f32()
    );
    assert!(then > 0.0, "before it ends");
    stage
        .until("it has ended", LONG, || Ok((left()? < 0.5).then_some(())))
        .unwrap();
    // Two rounds of scraping and of the rules.
    let ended = Instant::now();
    while ended.elapsed() < Duration::from_secs(4) {
        assert!(
            firing().unwrap(),
            "it must not fall silent because there is nothing left"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let operator = world.operator("again", &[]);
    drop(gateway);
    assert!(operator.terminate().unwrap().success());
}
