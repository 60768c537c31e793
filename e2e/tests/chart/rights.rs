//! `docs/reference/rbac.md` says what is granted: every rule of the rendered chart is a row of its table, and
//! every row a rule. Needs Helm only.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mesh_cluster::tool;

const PAGE: &str = "docs/reference/rbac.md";
const UPDATE: &str = "MESH_UPDATE";

/// One rule: component, reach, what, verbs.
type Row = [String; 4];

/// The lists of one rule as the chart writes them, and where it is.
#[derive(Default)]
struct Reader {
    rows: BTreeSet<Row>,
    kind: String,
    name: String,
    resources: String,
    names: String,
}

impl Reader {
    fn line(&mut self, line: &str) {
        let list = |start: &str| -> Option<String> {
            let rest = line.trim_start().strip_prefix(start)?.trim();
            Some(
                rest.trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned(),
            )
        };
        if line == "---" {
            *self = Self {
                rows: std::mem::take(&mut self.rows),
                ..Self::default()
            };
        } else if let Some(kind) = line.strip_prefix("kind: ") {
            kind.clone_into(&mut self.kind);
        } else if let Some(name) = line.strip_prefix("  name: ") {
            name.clone_into(&mut self.name);
        } else if line.contains("- apiGroups:") {
            (self.resources, self.names) = (String::new(), String::new());
        } else if let Some(resources) = list("resources:") {
            self.resources = resources;
        } else if let Some(names) = list("resourceNames:") {
            self.names = names;
        } else if let Some(verbs) = list("verbs:") {
            self.rule(verbs);
        }
    }

    fn rule(&mut self, verbs: String) {
        if !matches!(self.kind.as_str(), "Role" | "ClusterRole") {
            return;
        }
        let reach = if self.kind == "Role" {
            "mesh namespace"
        } else {
            "cluster"
        };
        let what = if self.names.is_empty() {
            self.resources.clone()
        } else {
            format!("{} named {}", self.resources, self.names)
        };
        let component = self.name.trim_start_matches("mesh-");
        let (component, _) = component.split_once('-').unwrap_or((component, ""));
        self.rows
            .insert([component.to_owned(), reach.to_owned(), what, verbs]);
    }
}

fn granted(scope: &str) -> Option<BTreeSet<Row>> {
    let helm = match tool::obtain("helm") {
        Ok(helm) => helm,
        Err(error) => {
            assert!(std::env::var("CI").is_err(), "{error:#}");
            println!("skipped: {error:#}");
            return None;
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let done = Command::new(helm)
        .args(["template", "mesh"])
        .arg(root.join("charts/inference-mesh"))
        .args([
            "-n",
            "mesh-system",
            "--set",
            "crds.install=false,uninstall.deleteVolumes=true",
        ])
        .args(["--set", &format!("scope={scope}")])
        // Not to be had where nothing of the cluster is granted.
        .args([
            "--set",
            &format!("gateway.tokenReview.enabled={}", scope == "cluster"),
        ])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut reader = Reader::default();
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .for_each(|line| reader.line(line));
    Some(reader.rows)
}

/// Rows of the table, with what each is for.
fn published(page: &str) -> Vec<(Row, String)> {
    page.lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| component"))
        .filter_map(|line| {
            let cells: Vec<String> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect();
            let [component, reach, what, verbs, purpose] = <[String; 5]>::try_from(cells).ok()?;
            Some(([component, reach, what, verbs], purpose))
        })
        .collect()
}

#[test]
fn the_table_of_rights_is_what_the_chart_grants() {
    let Some(granted) = granted("cluster") else {
        return;
    };
    assert!(granted.len() > 10, "{granted:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let published = published(&page);
    let purpose = |row: &Row| {
        let same = published.iter().find(|(known, _)| known == row);
        same.map_or("", |(_, purpose)| purpose.as_str())
    };
    if std::env::var_os(UPDATE).is_some() {
        let rows: Vec<String> = granted
            .iter()
            .map(|row| format!("| {} | {} |", row.join(" | "), purpose(row)))
            .collect();
        let head = "|---|---|---|---|---|\n";
        let (before, rest) = page.split_once(head).unwrap();
        let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
        std::fs::write(
            &path,
            format!("{before}{head}{}\n\n{after}", rows.join("\n")),
        )
        .unwrap();
    }
    let rows: BTreeSet<Row> = published.iter().map(|(row, _)| row.clone()).collect();
    let advice = format!("{UPDATE}=1 writes the table; then say what each is for");
    let missing: Vec<&Row> = granted.difference(&rows).collect();
    let stale: Vec<&Row> = rows.difference(&granted).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "granted and not in {PAGE}: {missing:#?}\nthere and not granted: {stale:#?}\n{advice}"
    );
    let silent: Vec<&Row> = granted
        .iter()
        .filter(|row| purpose(row).is_empty())
        .collect();
    assert!(
        silent.is_empty(),
        "nobody says what these are for: {silent:#?}"
    );
}

#[test]
fn a_release_of_one_namespace_grants_no_more_and_nothing_of_the_cluster() {
    let (Some(wide), Some(narrow)) = (granted("cluster"), granted("namespaced")) else {
        return;
    };
    for [component, reach, what, verbs] in &narrow {
        assert_eq!(reach, "mesh namespace", "{component}: {what}");
        let own = what.starts_with("namespaces named ");
        let same = |row: &&Row| &row[0] == component && &row[2] == what && &row[3] == verbs;
        assert!(
            own || wide.iter().any(|row| same(&row)),
            "{component}: {verbs} {what}"
        );
    }
    let outside = [
        "nodes",
        "namespaces,",
        "validatingadmission",
        "servicecidrs",
        "tokenreviews",
    ];
    for word in outside {
        let found = narrow.iter().find(|row| row[2].contains(word));
        assert!(found.is_none(), "{found:?}");
    }
}
