//! The chart's README: what it is, and a table of all values from the comments of `values.yaml`. What a value may be
//! is the schema's business, whether it is used the check's.

/// Values that are Kubernetes' own, shown in one cell.
const OPAQUE: &str = "resources";

const HEAD: &str = "# Inference Mesh

Access to AI that nobody can take away: gateway, operator and a floor that always answers. Written by `cargo xtask gen`.

```sh
helm install mesh charts/inference-mesh --namespace mesh-system --create-namespace --wait
```

[Quickstart](../../docs/quickstart/cluster.md), [installing](../../docs/operations/install.md), [monitoring](../../docs/operations/monitoring.md),
[without a way out](../../docs/operations/airgap.md), [upgrading and uninstalling](../../docs/operations/upgrade-uninstall.md). Values for usual
installations are in [`ci`](ci). A key that the chart does not have is refused.

| value | default | meaning |
|---|---|---|
";

/// The page.
pub(crate) fn page(values: &str) -> String {
    let rows = rows(values);
    let cells = rows.iter().map(|row| {
        let default = if row.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", row.default)
        };
        let text = row.text.replace('|', "\\|");
        format!("| `{}` | {default} | {text} |\n", row.path)
    });
    HEAD.to_owned() + &cells.collect::<String>()
}

struct Row {
    path: String,
    default: String,
    text: String,
}

fn rows(values: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut told: Vec<&str> = Vec::new();
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            told.push(words.trim());
            continue;
        }
        let Some((key, value)) = text.split_once(':') else {
            told.clear();
            continue;
        };
        above.retain(|(level, _)| *level < indent);
        if above.last().is_some_and(|(_, key)| key == OPAQUE) {
            // Belongs to the row before.
            if let Some(row) = rows.last_mut() {
                let separator = if row.default.is_empty() { "" } else { ", " };
                row.default.push_str(separator);
                row.default.push_str(text);
            }
            continue;
        }
        above.push((indent, key.to_owned()));
        if !told.is_empty() {
            let path: Vec<&str> = above.iter().map(|(_, key)| key.as_str()).collect();
            rows.push(Row {
                path: path.join("."),
                default: value.trim().to_owned(),
                text: told.join(" "),
            });
        }
        told.clear();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_values_and_what_is_kubernetes_own_become_rows() {
        let values = "# A group\n# of two.\na:\n  # One | two.\n  b: 1\n  # What it gets.\n  resources:\n    requests: {cpu: 1}\n    limits: {cpu: 2}\n";
        let page = page(values);
        for row in [
            "| `a` |  | A group of two. |",
            "| `a.b` | `1` | One \\| two. |",
            "| `a.resources` | `requests: {cpu: 1}, limits: {cpu: 2}` | What it gets. |",
        ] {
            assert!(page.contains(row), "{row} in {page}");
        }
        assert_eq!(page.matches("\n| `").count(), 3);
    }
}
