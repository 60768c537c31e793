//! Grafana's dashboards, written as what they show. Knows how Grafana wants it said: variables, places, units, ids
//! that stay. Refuses nothing itself; `e2e/tests/monitoring/dashboards.rs` asks Prometheus and the metrics' pages.

mod backends;
mod operator;
mod sovereignty;
mod traffic;

use anyhow::Result;
use serde_json::{Value, json};

/// How a panel shows numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One number now, with a color by whether it should be high, low or neither.
    Number(Good),
    /// Lines over time.
    Lines,
    /// Areas on each other over time.
    Stack,
}

/// Which values are good ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    Any,
    /// At least this many thousandths.
    From(u32),
    /// At most this many.
    Upto(u32),
    /// Nothing but zero.
    Zero,
}

/// One picture.
struct Panel {
    title: &'static str,
    description: &'static str,
    /// Grafana's name of the unit.
    unit: &'static str,
    shape: Shape,
    /// Expressions and what their lines are called.
    queries: Vec<(String, &'static str)>,
}

/// Panels under a heading.
struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

/// One page.
struct Dashboard {
    uid: &'static str,
    title: &'static str,
    description: &'static str,
    rows: Vec<Row>,
}

fn panel(
    (title, unit): (&'static str, &'static str),
    shape: Shape,
    description: &'static str,
    queries: &[(&str, &'static str)],
) -> Panel {
    // `$ns` is short for the choice that every query makes; sidecars are in other namespaces than what they belong to.
    let query = |(expression, legend): &(&str, &'static str)| {
        let expression = expression.replace("$ns", "namespace=~\"$namespace\"");
        let expression = expression.replace("$beside", "mesh_namespace=~\"$namespace\"");
        (expression, *legend)
    };
    Panel {
        title,
        description,
        unit,
        shape,
        queries: queries.iter().map(query).collect(),
    }
}

/// Rises of tokens: those that gateways counted, and of sidecars those of the floor's own answers, which pass no gateway
/// and are counted nowhere else. The namespace is that of the installation for both. `more` selects among them.
fn tokens(rise: &str, more: &str, time: &str) -> String {
    format!(
        "({rise}(mesh_gateway_tokens_total{{$ns{more}}}[{time}]) or label_replace({rise}(mesh_sidecar_tokens_total{{$beside{more}}}[{time}]), \"namespace\", \"$1\", \"mesh_namespace\", \"(.+)\"))"
    )
}

/// Tokens per second.
fn token_rate(more: &str) -> String {
    tokens("rate", more, "$__rate_interval")
}

/// What a counter rose by in the chosen time. A series that was born in it rose from zero, which `increase` does not see:
/// without its first value one single token in the wrong place would not be shown.
fn rise(by: &str, series: &str) -> String {
    let rises = format!("sum {by} (increase({series}[$__range]))");
    let began = format!(
        "sum {by} (min_over_time({series}[$__range]) unless min_over_time({series}[$__rate_interval] offset $__range))"
    );
    if by.is_empty() {
        return format!("({rises} or vector(0)) + ({began} or vector(0))");
    }
    format!("({rises} + {began}) or {rises}")
}

/// Names of files and their text.
pub(crate) fn files() -> Result<Vec<(String, String)>> {
    let all = [
        sovereignty::dashboard(),
        traffic::dashboard(),
        backends::dashboard(),
        operator::dashboard(),
    ];
    all.iter()
        .map(|dashboard| {
            let text = serde_json::to_string_pretty(&page(dashboard))? + "\n";
            Ok((format!("{}.json", dashboard.uid), text))
        })
        .collect()
}

/// What stands beside each other: up to four numbers, or two pictures.
fn lines(panels: &[Panel]) -> Vec<&[Panel]> {
    let number = |panel: &Panel| matches!(panel.shape, Shape::Number(_));
    let alike = panels.chunk_by(|one, next| number(one) == number(next));
    alike
        .flat_map(|run| run.chunks(if number(&run[0]) { 4 } else { 2 }))
        .collect()
}

fn page(dashboard: &Dashboard) -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in &dashboard.rows {
        let id = panels.len() + 1;
        let place = json!({"h": 1, "w": 24, "x": 0, "y": y});
        panels.push(json!({"id": id, "type": "row", "title": row.title, "collapsed": false, "gridPos": place, "panels": []}));
        y += 1;
        for line in lines(&row.panels) {
            let numbers = matches!(line[0].shape, Shape::Number(_));
            let (width, height) = (24 / line.len().max(1), if numbers { 4 } else { 8 });
            for (at, one) in line.iter().enumerate() {
                let place = json!({"h": height, "w": width, "x": at * width, "y": y});
                panels.push(picture(one, panels.len() + 1, &place));
            }
            y += height;
        }
    }
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["inference-mesh"],
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["inference-mesh"], "title": "Inference Mesh", "asDropdown": true, "includeVars": true, "keepTime": true}],
        "templating": {"list": variables()},
        "panels": panels,
    })
}

/// Which Prometheus, and which installations.
fn variables() -> Value {
    let query =
        "label_values({__name__=~\"mesh_gateway_floor_ready|mesh_operator_leader\"}, namespace)";
    json!([
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0},
        {
            "name": "namespace", "label": "Namespace", "type": "query", "refresh": 2, "sort": 1, "hide": 0,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "definition": query, "query": {"query": query, "refId": "namespace"},
            "includeAll": true, "multi": true, "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ])
}

fn picture(panel: &Panel, id: usize, place: &Value) -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let number = matches!(panel.shape, Shape::Number(_));
    let targets: Vec<Value> = panel
        .queries
        .iter()
        .zip('A'..='Z')
        .map(|((expression, legend), letter)| {
            json!({
                "refId": letter.to_string(), "datasource": source, "expr": expression, "legendFormat": legend,
                "instant": number, "range": !number, "editorMode": "code",
            })
        })
        .collect();
    let mut defaults = json!({"unit": panel.unit, "noValue": "nothing yet"});
    if number && panel.unit == "short" {
        // Rises are estimated between scrapes; what is counted is whole.
        defaults["decimals"] = json!(0);
    }
    let (kind, options) = match panel.shape {
        Shape::Number(good) => {
            let (steps, color) = steps(good);
            defaults["thresholds"] = json!({"mode": "absolute", "steps": steps});
            defaults["color"] = json!({"mode": "thresholds"});
            let calculation = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
            (
                "stat",
                json!({"reduceOptions": calculation, "colorMode": color, "graphMode": "none"}),
            )
        }
        Shape::Lines | Shape::Stack => {
            let stacked = panel.shape == Shape::Stack;
            defaults["custom"] = json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": if stacked { 30 } else { 5 }, "showPoints": "never",
                "stacking": {"mode": if stacked { "normal" } else { "none" }},
            });
            defaults["min"] = json!(0);
            let legend = json!({"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]});
            (
                "timeseries",
                json!({"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}),
            )
        }
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.description, "gridPos": place,
        "datasource": source, "targets": targets, "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    })
}

/// Colors by value, and what is colored.
fn steps(good: Good) -> (Value, &'static str) {
    match good {
        Good::Any => (json!([{"color": "text", "value": null}]), "none"),
        Good::From(thousandths) => {
            let from = f64::from(thousandths) / 1000.0;
            (
                json!([{"color": "red", "value": null}, {"color": "green", "value": from}]),
                "value",
            )
        }
        Good::Upto(most) => (
            json!([{"color": "green", "value": null}, {"color": "red", "value": most}]),
            "value",
        ),
        Good::Zero => (
            json!([{"color": "green", "value": null}, {"color": "red", "value": 0.000_001}]),
            "value",
        ),
    }
}
