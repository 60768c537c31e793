//! Whether what is wanted is there already, whatever the API server and others have added to it.

use serde_json::Value;

/// The first field of `wanted` that is not so in `live`; none if everything in it is.
pub(crate) fn differs(live: &Value, wanted: &Value) -> Option<String> {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().find_map(|(key, wanted)| {
            let empty = wanted.is_null()
                || wanted.as_object().is_some_and(serde_json::Map::is_empty)
                || wanted.as_array().is_some_and(Vec::is_empty);
            let below = match live.get(key) {
                Some(live) => differs(live, wanted)?,
                None if empty => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => {
            let mut pairs = live.iter().zip(wanted).enumerate();
            pairs.find_map(|(place, (live, wanted))| {
                Some(format!("[{place}]{}", differs(live, wanted)?))
            })
        }
        (Value::String(live), Value::String(wanted)) if same(live, wanted) => None,
        (live, wanted) => (live != wanted).then(String::new),
    }
}

/// True for two spellings of one quantity: the API server keeps `1000m` as `1`.
fn same(one: &str, other: &str) -> bool {
    matches!((quantity(one), quantity(other)), (Some(one), Some(other)) if (one - other).abs() <= one.abs() * 1e-9)
}

fn quantity(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::differs;

    fn holds(live: &Value, wanted: &Value) -> bool {
        differs(live, wanted).is_none()
    }

    #[test]
    fn what_others_added_is_left_alone_and_what_they_changed_is_seen() {
        let wanted = json!({"spec": {"replicas": 1, "ports": [{"port": 80}], "empty": {}}});
        let live = json!({"spec": {"replicas": 1, "ports": [{"port": 80, "protocol": "TCP"}], "more": true}, "status": {}});
        assert!(holds(&live, &wanted));
        for changed in [
            json!({"spec": {"replicas": 2, "ports": [{"port": 80}]}}),
            json!({"spec": {"replicas": 1, "ports": [{"port": 80}, {"port": 81}]}}),
            json!({"spec": {"replicas": 1}}),
        ] {
            assert!(!holds(&changed, &wanted), "{changed}");
        }
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let live = json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
        let wanted = json!({"spec": {"ports": [{"port": 80}, {"port": 82}]}});
        assert_eq!(differs(&live, &wanted).unwrap(), ".spec.ports[1].port");
        assert_eq!(differs(&json!({}), &wanted).unwrap(), ".spec");
    }

    #[test]
    fn one_quantity_in_two_spellings_is_the_same_and_another_is_not() {
        for (one, other) in [
            ("1", "1000m"),
            ("1Gi", "1024Mi"),
            ("1500m", "1.5"),
            ("2k", "2000"),
        ] {
            assert!(holds(&json!(one), &json!(other)), "{one} {other}");
        }
        for (one, other) in [
            ("1", "1001m"),
            ("1Gi", "1G"),
            ("a", "b"),
            ("1x", "1"),
            ("", "0"),
        ] {
            assert!(!holds(&json!(one), &json!(other)), "{one} {other}");
        }
    }
}
