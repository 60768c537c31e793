//! Quantities as the API server writes them back: `1000m` becomes `1`, `1024Mi` becomes `1Gi`. What is
//! applied in that form is found again as it was applied, so nothing is written twice. Refuses to guess:
//! what it cannot read it leaves as it is, and the API server decides.

use mesh_crds::value::Quantity;

/// Suffixes and what they stand for: a power of 1024 or of 10, and which.
const BINARY: [(&str, u32); 6] = [
    ("Ki", 1),
    ("Mi", 2),
    ("Gi", 3),
    ("Ti", 4),
    ("Pi", 5),
    ("Ei", 6),
];
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
/// Kubernetes keeps nine digits after the point.
const SCALE: u32 = 9;

/// The same amount in Kubernetes' canonical form.
pub(crate) fn canonical(quantity: &Quantity) -> String {
    let text = match quantity {
        Quantity::Number(number) => number.to_string(),
        Quantity::Text(text) => text.clone(),
    };
    read(&text).map_or(text, |amount| amount.written())
}

/// An amount in billionths.
struct Amount {
    nanos: i128,
    binary: bool,
}

fn read(text: &str) -> Option<Amount> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() > 15 || fraction.len() > 9 || whole.is_empty() {
        return None;
    }
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    // In billionths of billionths first: what is smaller than one billionth is rounded up.
    let fine = number.checked_mul(10_i128.checked_pow(2 * SCALE - places)?)?;
    let (scaled, binary) = if let Some((_, power)) = BINARY.iter().find(|one| one.0 == suffix) {
        (fine.checked_mul(1024_i128.checked_pow(*power)?)?, true)
    } else {
        let (_, power) = DECIMAL.iter().find(|one| one.0 == suffix)?;
        let factor = 10_i128.checked_pow(power.unsigned_abs())?;
        let scaled = if *power < 0 {
            up(fine, factor)
        } else {
            fine.checked_mul(factor)?
        };
        (scaled, false)
    };
    Some(Amount {
        nanos: up(scaled, 10_i128.pow(SCALE)),
        binary,
    })
}

/// Divides, and rounds up.
const fn up(amount: i128, by: i128) -> i128 {
    amount / by + (amount % by != 0) as i128
}

impl Amount {
    fn written(&self) -> String {
        let one = 10_i128.pow(SCALE);
        if self.nanos == 0 {
            return String::from("0");
        }
        // Small or broken amounts read better in tens.
        if self.binary && self.nanos >= 1024 * one && self.nanos % one == 0 {
            return binary(self.nanos / one);
        }
        decimal(self.nanos)
    }
}

fn binary(mut number: i128) -> String {
    let mut suffix = "";
    for (name, _) in BINARY {
        if number % 1024 != 0 {
            break;
        }
        number /= 1024;
        suffix = name;
    }
    format!("{number}{suffix}")
}

/// The largest suffix that leaves a whole number.
fn decimal(nanos: i128) -> String {
    let fitting = DECIMAL.iter().rev().find_map(|(name, power)| {
        let factor = 10_i128.checked_pow(u32::try_from(power + 9).ok()?)?;
        (nanos % factor == 0).then(|| format!("{}{name}", nanos / factor))
    });
    fitting.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use mesh_crds::value::Quantity;

    use super::canonical;

    #[test]
    fn quantities_are_written_as_the_api_server_writes_them_back() {
        for (given, kept) in [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1500000", "1500k"),
            ("2048", "2048"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("250m", "250m"),
            ("100u", "100u"),
            ("1.0000000001", "1.0000000001"),
            ("0.1n", "1n"),
            ("1024Pi", "1Ei"),
            ("1000P", "1E"),
            ("0", "0"),
            ("0Mi", "0"),
            ("007", "7"),
            ("80Gi", "80Gi"),
            ("1100m", "1100m"),
        ] {
            let found = canonical(&Quantity::Text(given.to_owned()));
            assert_eq!(found, kept, "{given}");
            let again = canonical(&Quantity::Text(found));
            assert_eq!(again, kept, "{given} twice");
        }
        assert_eq!(canonical(&Quantity::Number(1000)), "1k");
        assert_eq!(canonical(&Quantity::Number(8)), "8");
    }
}
