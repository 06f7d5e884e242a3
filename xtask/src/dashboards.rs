//! Writes the Grafana dashboards in dashboards/ from the compact sources in dashboards/source/.
//!
//! A source says what a person has to decide: titles, units, queries, words where the metric's own are not enough. All the rest of a
//! dashboard's JSON is the same everywhere and comes from here: places, variables, legends, descriptions. Every metric there is
//! has to be shown in at least one panel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use peer_observer_exporter::registry::Description;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::committed::Files;
use crate::metrics;

const SOURCES: &str = "dashboards/source";
const GENERATED: &str = "dashboards";
/// Not beside the dashboards: Grafana would take it for one.
const PLAYLIST: &str = "dashboards/provisioning/playlist.json";
/// Tag of all of them, which the playlist goes by.
const TAG: &str = "peer-observer";
/// Height and width of a panel in Grafana's grid, which has 24 columns.
const HEIGHT: usize = 8;
const WIDTH: usize = 12;
const STAT_WIDTH: usize = 4;
const STAT_HEIGHT: usize = 4;
/// What stands for the choice of nodes in a query, and for the labels by which nodes are told apart.
const CHOICE: (&str, &str) = ("$n", "host=~\"$host\",instance=~\"$instance\",node=~\"$node\"");
const NODES: (&str, &str) = ("$by", "host, instance, node");
/// The choice of hosts alone, for what is not of a node.
const HOSTS: (&str, &str) = ("$hosts", "host=~\"$host\"");
/// Stands for `increase(` where a series can begin with something counted, which Prometheus' own does not see; see [`with_first_values`].
const INCREASE: &str = "$increase(";
/// When the metrics tool was started, s.
const START: &str = "peerobserver_runtime_start_timestamp";

/// A dashboard's source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    /// The question that it answers.
    title: String,
    /// Who looks at it, and for what.
    about: String,
    /// More tags.
    #[serde(default)]
    tags: Vec<String>,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    /// Unit as Grafana names it.
    unit: String,
    /// `query | legend`; the legend says what is left to tell once the node is named.
    queries: Vec<String>,
    /// Words of its own; else the help of the metrics.
    about: Option<String>,
    #[serde(default)]
    kind: Kind,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Lines over time.
    #[default]
    Lines,
    /// Areas over time that add up.
    Stacked,
    /// A number.
    Stat,
    /// Rows, the largest first.
    Table,
}

/// The dashboards and the playlist.
pub(crate) fn files(root: &Path) -> Result<Files> {
    let known: Vec<Description> =
        metrics::catalogues(root)?.into_iter().flat_map(|catalogue| catalogue.metrics).collect();
    let mut shown = BTreeSet::new();
    let mut files = BTreeMap::new();
    let mut items = Vec::new();
    for (name, source) in sources(root)? {
        let dashboard: Dashboard =
            toml::from_str(&source).with_context(|| format!("reading {SOURCES}/{name}.toml"))?;
        for query in dashboard.panels.iter().flat_map(|panel| &panel.queries) {
            let found = metrics_of(query, &known);
            if let Some(metric) = without_first_values(query, &found) {
                bail!(
                    "{SOURCES}/{name}.toml: series of {metric} begin late, write {INCREASE}...[...]): {query}"
                );
            }
            if found.is_empty() && !query.contains("anomaly:") && !query.contains("ALERTS") {
                bail!("{SOURCES}/{name}.toml: no metric is in the query {query}");
            }
            shown.extend(found.into_iter().map(|metric| metric.name));
        }
        let uid = format!("peer-observer-{}", name.split_once('-').map_or(name.as_str(), |(_, rest)| rest));
        items.push(json!({ "type": "dashboard_by_uid", "value": uid, "title": dashboard.title }));
        files.insert(format!("{GENERATED}/{name}.json"), pretty(&render(&dashboard, &uid, &known)?)?);
    }
    let missing: Vec<_> =
        known.iter().map(|metric| metric.name).filter(|name| !shown.contains(name)).collect();
    if !missing.is_empty() {
        bail!("no dashboard shows {}", missing.join(", "));
    }
    let playlist = json!({ "name": "peer-observer", "interval": "1m", "items": items });
    files.insert(PLAYLIST.to_owned(), pretty(&playlist)?);
    Ok(Files { command: "dashboards", owned: Some((GENERATED, ".json")), files })
}

/// Names, without ending, and texts of the sources, in the order of the names.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    for entry in std::fs::read_dir(root.join(SOURCES)).with_context(|| format!("reading {SOURCES}"))? {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        sources.insert(name.to_owned(), text);
    }
    Ok(sources)
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The metrics that a query names.
fn metrics_of<'a>(query: &str, known: &'a [Description]) -> Vec<&'a Description> {
    let words: BTreeSet<&str> =
        query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').collect();
    let named = |metric: &&Description| {
        let ends: &[&str] = if metric.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        ends.iter().any(|end| words.contains(format!("{}{end}", metric.name).as_str()))
    };
    known.iter().filter(named).collect()
}

/// A counter with labels whose increase is asked for in a way that misses first values: its series are there once something was counted.
fn without_first_values<'a>(query: &str, found: &[&'a Description]) -> Option<&'a str> {
    let mut counters = found.iter().filter(|metric| metric.kind == "counter" && !metric.labels.is_empty());
    let plain = query.replace(INCREASE, "");
    counters.find(|metric| plain.contains(&format!("increase({}{{", metric.name))).map(|metric| metric.name)
}

/// The query with `$increase(SERIES[WINDOW])` written out: a series that was not there a window ago counts as a whole, as for Prometheus it
/// begins with its first value, which is no increase. It does not where Prometheus had not looked, but the metrics tool was running.
fn with_first_values(query: &str) -> Result<String> {
    let Some((before, rest)) = query.split_once(INCREASE) else { return Ok(query.to_owned()) };
    let (series, rest) = rest.split_once('[').with_context(|| format!("no window in {query}"))?;
    let (window, after) =
        rest.split_once("])").with_context(|| format!("no end of the window in {query}"))?;
    let unseen = format!("{START} < time() - {} unless {START} offset {window}", seconds(window)?);
    Ok(format!(
        "{before}({series} unless {series} offset {window} unless on (host, instance) ({unseen}) or increase({series}[{window}])){}",
        with_first_values(after)?
    ))
}

/// How many seconds a duration has as Prometheus writes it, with one unit.
fn seconds(duration: &str) -> Result<u32> {
    let (number, unit) = duration.split_at(duration.len().saturating_sub(1));
    let unit = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!("{duration} is no number of minutes, hours or days"),
    };
    let number: u32 = number.parse().with_context(|| format!("reading {duration}"))?;
    Ok(number * unit)
}

fn render(dashboard: &Dashboard, uid: &str, known: &[Description]) -> Result<Value> {
    let mut grid = Grid::default();
    let panels = dashboard
        .panels
        .iter()
        .enumerate()
        .map(|(i, panel)| render_panel(panel, i + 1, grid.place(panel.kind), known))
        .collect::<Result<Vec<Value>>>()?;
    let tags: Vec<&str> = [TAG].into_iter().chain(dashboard.tags.iter().map(String::as_str)).collect();
    Ok(json!({
        "annotations": { "list": [{
            "name": "Alerts",
            "datasource": datasource(),
            "enable": true,
            "expr": "ALERTS{alertstate=\"firing\",alertname=~\"PeerObserver.*\"}",
            "iconColor": "red",
            "titleFormat": "{{alertname}}",
        }] },
        "description": dashboard.about,
        "editable": true,
        "graphTooltip": 1,
        "links": [{ "type": "dashboards", "title": TAG, "tags": [TAG], "asDropdown": true, "includeVars": true, "keepTime": true }],
        "panels": panels,
        "refresh": "1m",
        "schemaVersion": 39,
        "tags": tags,
        "templating": { "list": variables() },
        "time": { "from": "now-24h", "to": "now" },
        "timezone": "utc",
        "title": dashboard.title,
        "uid": uid,
    }))
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// The choice of nodes: by the labels that scrape configurations, and `--node-label`, give them. A label that is not there is empty, and
/// what stands for all matches that.
fn variables() -> Vec<Value> {
    let choice = |name: &str, metric: &str| {
        json!({
            "name": name,
            "label": name,
            "type": "query",
            "datasource": datasource(),
            "query": { "query": format!("label_values({metric}, {name})"), "refId": name },
            "definition": format!("label_values({metric}, {name})"),
            "refresh": 2,
            "sort": 1,
            "multi": true,
            "includeAll": true,
            "allValue": ".*",
            "current": { "text": "All", "value": "$__all" },
        })
    };
    vec![
        json!({ "name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus" }),
        choice("host", "peerobserver_runtime_start_timestamp"),
        choice("instance", "peerobserver_runtime_start_timestamp"),
        choice("node", "peerobserver_conn_inbound"),
    ]
}

/// Where the next panel goes: from left to right, and then down.
#[derive(Debug, Default)]
struct Grid {
    x: usize,
    y: usize,
    height: usize,
}

impl Grid {
    fn place(&mut self, kind: Kind) -> Value {
        let (width, height) = if kind == Kind::Stat { (STAT_WIDTH, STAT_HEIGHT) } else { (WIDTH, HEIGHT) };
        if self.x + width > 24 || (self.x > 0 && self.height != height) {
            self.x = 0;
            self.y += self.height;
        }
        self.height = height;
        let place = json!({ "x": self.x, "y": self.y, "w": width, "h": height });
        self.x += width;
        place
    }
}

fn render_panel(panel: &Panel, id: usize, place: Value, known: &[Description]) -> Result<Value> {
    let about = panel.about.clone().unwrap_or_else(|| {
        let mut words: Vec<&str> = Vec::new();
        for metric in panel.queries.iter().flat_map(|query| metrics_of(query, known)) {
            if !words.contains(&metric.help) {
                words.push(metric.help);
            }
        }
        words.join("\n\n")
    });
    let targets = panel
        .queries
        .iter()
        .zip('A'..='Z')
        .map(|(query, id)| target(panel.kind, query, id))
        .collect::<Result<Vec<Value>>>()?;
    let (kind, options) = match panel.kind {
        Kind::Lines | Kind::Stacked => (
            "timeseries",
            json!({ "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] }, "tooltip": { "mode": "multi", "sort": "desc" } }),
        ),
        Kind::Stat => (
            "stat",
            json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value", "graphMode": "area" }),
        ),
        Kind::Table => ("table", json!({ "sortBy": [{ "displayName": "Value", "desc": true }] })),
    };
    let custom = match panel.kind {
        Kind::Stacked => {
            json!({ "fillOpacity": 40, "stacking": { "mode": "normal", "group": "A" }, "showPoints": "never" })
        }
        Kind::Lines => json!({ "fillOpacity": 0, "lineWidth": 1, "showPoints": "never", "spanNulls": false }),
        Kind::Stat | Kind::Table => json!({}),
    };
    Ok(json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": about,
        "datasource": datasource(),
        "gridPos": place,
        "fieldConfig": { "defaults": { "unit": panel.unit, "custom": custom }, "overrides": [] },
        "options": options,
        "targets": targets,
    }))
}

fn target(kind: Kind, query: &str, id: char) -> Result<Value> {
    let (query, legend) = query.rsplit_once(" | ").unwrap_or((query, ""));
    let query = with_first_values(query)?;
    let instant = kind == Kind::Table;
    Ok(json!({
        "refId": id.to_string(),
        "datasource": datasource(),
        "expr": query.replace(HOSTS.0, HOSTS.1).replace(NODES.0, NODES.1).replace(CHOICE.0, CHOICE.1),
        "legendFormat": format!("{{{{host}}}} {{{{node}}}} {legend}").trim_end(),
        "instant": instant,
        "range": !instant,
        "format": if instant { "table" } else { "time_series" },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_increase_with_first_values_is_written_out() {
        let query = with_first_values("sum by (x) ($increase(a{b=\"c\"}[1h])) / $increase(d[30m])").unwrap();
        let unseen = |ago: &str, window: &str| {
            format!(
                "unless on (host, instance) (peerobserver_runtime_start_timestamp < time() - {ago} unless \
                 peerobserver_runtime_start_timestamp offset {window})"
            )
        };
        let first = format!(
            "(a{{b=\"c\"}} unless a{{b=\"c\"}} offset 1h {} or increase(a{{b=\"c\"}}[1h]))",
            unseen("3600", "1h")
        );
        let second = format!("(d unless d offset 30m {} or increase(d[30m]))", unseen("1800", "30m"));
        assert_eq!(query, format!("sum by (x) ({first}) / {second}"));
        assert_eq!(with_first_values("rate(a[5m])").unwrap(), "rate(a[5m])");
        for odd in ["$increase(a)", "$increase(a[1h]", "$increase(a[1w])", "$increase(a[m])"] {
            assert!(with_first_values(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_increase_that_misses_first_values_is_refused() {
        let metric = |kind, labels| Description { name: "a", kind, labels, help: "" };
        let late = metric("counter", vec!["reason"]);
        assert_eq!(without_first_values("sum(increase(a{x=\"y\"}[1h]))", &[&late]), Some("a"));
        assert_eq!(without_first_values("$increase(a{x=\"y\"}[1h])", &[&late]), None);
        assert_eq!(without_first_values("rate(a{x=\"y\"}[1h])", &[&late]), None);
        let there = metric("counter", vec![]);
        assert_eq!(without_first_values("increase(a{x=\"y\"}[1h])", &[&there]), None);
    }
}
