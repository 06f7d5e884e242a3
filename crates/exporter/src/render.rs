//! The text that Prometheus reads: text exposition format 0.0.4, or OpenMetrics 1.0.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>. OpenMetrics wants counters to end in `_total`, so they have other
//! names there: who asks for it changes the queries of dashboards, too.

use std::fmt::Write;

use crate::labels::SEPARATOR;
use crate::registry::{Description, Edges, Family, HistogramState, Label, Registry, Values};

/// A form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text exposition format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Content type of the format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Label that says how often a value of which metric was counted as `other`.
const FOLDED: &str = "peerobserver_observer_label_values_folded";
const FOLDED_HELP: &str = "How often a label value was seen that has no series of its own in the metric: it is in the series `other`.";

/// What the family is that stands at the end of every page where a label value was counted as `other`.
pub fn describe_folded() -> Description {
    Description { name: FOLDED, kind: "counter", labels: vec!["metric"], help: FOLDED_HELP }
}

/// What stands on a page: registries of one layout, each with the node that it is of, where several nodes share a page.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Value of the label `node`; none for no such label.
    pub node: Option<&'a str>,
    /// What was counted.
    pub registry: &'a Registry,
}

/// Everything in the registry that was used, as one page.
pub fn render(registry: &Registry) -> String {
    render_groups(&[&[Part { node: None, registry }]], Format::Text)
}

/// Everything that was used, as one page. The registries of a group have the same families; a family is in one group only. Writing
/// into a `String` cannot fail.
pub fn render_groups(groups: &[&[Part<'_>]], format: Format) -> String {
    let mut out = String::with_capacity(256 * 1024);
    for group in groups {
        let families = group.first().map_or(&[][..], |part| &part.registry.families);
        for (i, family) in families.iter().enumerate() {
            let mut page = Page { out: &mut out, family, format, node: None, started: false };
            for part in *group {
                page.node = part.node;
                render_family(&mut page, part.registry, &part.registry.families[i]);
            }
        }
    }
    render_folded(&mut out, groups.iter().flat_map(|group| group.iter()), format);
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn render_family(page: &mut Page<'_>, registry: &Registry, family: &Family) {
    match &family.values {
        Values::Counters { first } => {
            let mut index = *first;
            each_child(&family.labels, |labels| {
                if let Some(value) = registry.counters[index] {
                    page.sample(Kind::Counter, "", labels, value);
                }
                index += 1;
            });
        }
        Values::Gauge(index) => page.sample(Kind::Gauge, "", &[], registry.gauges[*index]),
        Values::Float(index) => page.sample(Kind::Gauge, "", &[], Number(registry.floats[*index])),
        Values::Snapshot { snapshot, key_labels } => {
            for (key, value) in &registry.snapshots[*snapshot].values {
                page.sample(Kind::Gauge, "", &key_values(key_labels, key), Number(*value));
            }
        }
        Values::Histograms { first, edges } => {
            let mut index = *first;
            each_child(&family.labels, |labels| {
                let state = &registry.histograms[index];
                if state.used {
                    render_histogram(page, labels, *edges, state);
                }
                index += 1;
            });
        }
        Values::Table { table, first, key_labels } => {
            for (key, cells) in registry.tables[*table].rows() {
                let mut index = *first;
                each_child(&family.labels, |labels| {
                    if let Some(value) = cells[index] {
                        let mut all = key_values(key_labels, key);
                        all.extend_from_slice(labels);
                        page.sample(Kind::Counter, "", &all, value);
                    }
                    index += 1;
                });
            }
        }
    }
}

fn render_histogram(page: &mut Page<'_>, labels: &[(&str, &str)], edges: Edges, state: &HistogramState) {
    let mut with_edge: Vec<(&str, &str)> = labels.to_vec();
    with_edge.push(("le", ""));
    let last = with_edge.len() - 1;
    let mut below: u64 = 0;
    for (edge, count) in edges.upper.iter().zip(&state.buckets) {
        below = below.saturating_add(*count);
        let mut edge = in_exported_unit(*edge, edges);
        if page.format == Format::OpenMetrics && !edge.contains('.') {
            // Edges are floats there, and look so.
            edge.push_str(".0");
        }
        let mut labels = with_edge.clone();
        labels[last].1 = &edge;
        page.sample(Kind::Histogram, "_bucket", &labels, below);
    }
    let count = state.buckets.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    with_edge[last].1 = "+Inf";
    page.sample(Kind::Histogram, "_bucket", &with_edge, count);
    page.sample(Kind::Histogram, "_sum", labels, in_exported_unit(state.sum, edges));
    page.sample(Kind::Histogram, "_count", labels, count);
}

fn in_exported_unit(value: u64, edges: Edges) -> String {
    if edges.divisor == 1 {
        return value.to_string();
    }
    (value as f64 / edges.divisor as f64).to_string()
}

/// How often a value was counted as `other`, a line for each family where it happened.
fn render_folded<'a>(out: &mut String, parts: impl Iterator<Item = &'a Part<'a>>, format: Format) {
    let family =
        Family { name: FOLDED, help: FOLDED_HELP, labels: Vec::new(), values: Values::Counters { first: 0 } };
    let mut page = Page { out, family: &family, format, node: None, started: false };
    for part in parts {
        page.node = part.node;
        for bounded in &part.registry.families {
            let folded = match bounded.values {
                Values::Table { table, .. } => part.registry.tables[table].folded(),
                Values::Snapshot { snapshot, .. } => part.registry.snapshots[snapshot].folded,
                _ => continue,
            };
            if folded > 0 {
                page.sample(Kind::Counter, "", &[("metric", bounded.name)], folded);
            }
        }
        for (of, folded) in &part.registry.folded {
            page.sample(Kind::Counter, "", &[("metric", of)], folded);
        }
    }
}

/// The labels of a table's row; every row but `other` has a value for each.
fn key_values<'a>(labels: &'static [&'static str], key: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut values = key.splitn(labels.len().max(1), SEPARATOR);
    let mut last = key;
    labels
        .iter()
        .map(|label| {
            last = values.next().unwrap_or(last);
            (*label, last)
        })
        .collect()
}

/// Calls `each` with the labels of every child of a family, in the order in which their values are stored.
fn each_child(labels: &[Label], mut each: impl FnMut(&[(&str, &str)])) {
    let mut values = Vec::with_capacity(labels.len());
    for child in 0..labels.iter().map(|label| label.values.len()).product() {
        values.clear();
        let mut rest: usize = child;
        for label in labels.iter().rev() {
            let value = label.values[rest % label.values.len()];
            rest /= label.values.len();
            values.push((label.name, value));
        }
        values.reverse();
        each(&values);
    }
}

/// A number that is not whole, as both formats write it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_infinite() {
            return f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" });
        }
        write!(f, "{}", self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Writes the lines of one family; the head comes with the first sample.
struct Page<'a> {
    out: &'a mut String,
    family: &'a Family,
    format: Format,
    node: Option<&'a str>,
    started: bool,
}

impl Page<'_> {
    fn sample(&mut self, kind: Kind, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let counter = kind == Kind::Counter && self.format == Format::OpenMetrics;
        let name = self.family.name;
        let name = if counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        if !self.started {
            self.started = true;
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}", self.family.help);
        }
        self.out.push_str(name);
        self.out.push_str(if counter { "_total" } else { suffix });
        let mut before = '{';
        if let Some(node) = self.node {
            self.label(before, "node", node);
            before = ',';
        }
        for (label, value) in labels {
            self.label(before, label, value);
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    fn label(&mut self, before: char, label: &str, value: &str) {
        self.out.push(before);
        self.out.push_str(label);
        self.out.push_str("=\"");
        escape(self.out, value);
        self.out.push('"');
    }
}

/// The three characters that the format wants escaped in label values.
fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::joined;

    const COLOUR: Label = Label { name: "colour", values: &["red", "blue"] };
    const SIZE: Label = Label { name: "size", values: &["s", "l"] };

    #[test]
    fn metrics_without_labels_are_there_from_the_start_and_others_once_used() {
        let mut r = Registry::new(10);
        r.counter("a", "An a.");
        r.gauge("b", "A b.");
        let v = r.counter_vec("c", "A c.", &[COLOUR, SIZE]);
        assert_eq!(render(&r), "# HELP a An a.\n# TYPE a counter\na 0\n# HELP b A b.\n# TYPE b gauge\nb 0\n");
        r.add(v.at2(1, 0), 0);
        assert!(render(&r).ends_with("# HELP c A c.\n# TYPE c counter\nc{colour=\"blue\",size=\"s\"} 0\n"));
    }

    #[test]
    fn buckets_are_added_up_and_seconds_are_seconds() {
        let mut r = Registry::new(10);
        let plain = Edges { upper: &[0, 2], divisor: 1 };
        let h = r.histogram_vec("h", "An h.", &[COLOUR], plain);
        for value in [0, 1, 2, 3] {
            r.observe(h.at(0), value);
        }
        let ns = Edges { upper: &[100_000, 2_500_000_000], divisor: 1_000_000_000 };
        let t = r.histogram_vec("t", "A t.", &[COLOUR], ns);
        r.observe(t.at(1), 1_500_000_000);
        assert_eq!(
            render(&r),
            "# HELP h An h.\n# TYPE h histogram\n\
             h_bucket{colour=\"red\",le=\"0\"} 1\nh_bucket{colour=\"red\",le=\"2\"} 3\n\
             h_bucket{colour=\"red\",le=\"+Inf\"} 4\nh_sum{colour=\"red\"} 6\nh_count{colour=\"red\"} 4\n\
             # HELP t A t.\n# TYPE t histogram\n\
             t_bucket{colour=\"blue\",le=\"0.0001\"} 0\nt_bucket{colour=\"blue\",le=\"2.5\"} 1\n\
             t_bucket{colour=\"blue\",le=\"+Inf\"} 1\nt_sum{colour=\"blue\"} 1.5\nt_count{colour=\"blue\"} 1\n"
        );
    }

    #[test]
    fn hostile_label_values_cannot_break_out_of_their_quotes() {
        let mut r = Registry::new(10);
        let table = r.table(&[]);
        let column = r.column(table, "m", "An m.", &["id", "text"], &[]);
        let row = r.row(table, &format!("5{SEPARATOR}a\"}} 1\nevil\\ é{SEPARATOR}b"));
        r.add_cell(row, column.only(), 7);
        let line = render(&r).lines().last().map(str::to_owned);
        assert_eq!(line.as_deref(), Some("m{id=\"5\",text=\"a\\\"} 1\\nevil\\\\ é\u{1f}b\"} 7"));
    }

    #[test]
    fn what_has_no_row_is_other_in_every_label_of_the_row() {
        let mut r = Registry::new(1);
        let table = r.table(&[]);
        let column = r.column(table, "m", "An m.", &["id", "text"], &[COLOUR]);
        for key in ["1\u{1f}x", "2\u{1f}x"] {
            let row = r.row(table, key);
            r.add_cell(row, column.at(0), 1);
        }
        let page = render(&r);
        assert!(page.contains("m{id=\"other\",text=\"other\",colour=\"red\"} 1\n"), "{page}");
        assert!(page.ends_with(
            "# TYPE peerobserver_observer_label_values_folded counter\n\
             peerobserver_observer_label_values_folded{metric=\"m\"} 1\n"
        ));
    }

    #[test]
    fn a_snapshot_replaces_the_one_before_and_is_bounded() {
        let mut r = Registry::new(2);
        let ports = r.snapshot("ports", "Ports.", &["table", "port"]);
        let of = |values: &[(&str, f64)]| -> Vec<(String, f64)> {
            values.iter().map(|(port, n)| (joined(&["new", port]), *n)).collect()
        };
        r.replace(ports, of(&[("1", 7.0)]));
        r.replace(ports, of(&[("8333", 5.0), ("18333", 0.5), ("2", 1.5), ("3", 1.0)]));
        let lines = |r: &Registry| {
            render(r).lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let folded = "peerobserver_observer_label_values_folded{metric=\"ports\"} 2";
        assert_eq!(
            lines(&r),
            [
                "ports{table=\"new\",port=\"2\"} 1.5",
                "ports{table=\"new\",port=\"8333\"} 5",
                "ports{table=\"other\",port=\"other\"} 1.5",
                folded
            ]
        );
        r.expire(1);
        r.expire(1);
        assert_eq!(lines(&r), [folded]);
        r.set_in(ports, &joined(&["new", "4"]), f64::INFINITY);
        assert_eq!(lines(&r)[0], "ports{table=\"new\",port=\"4\"} +Inf");
        r.remove_in(ports, &joined(&["new", "4"]));
        assert_eq!(lines(&r), [folded]);
    }

    #[test]
    fn nodes_that_share_a_page_are_told_apart_below_one_head() {
        let mut nodes = [Registry::new(1), Registry::new(1)];
        for (i, r) in nodes.iter_mut().enumerate() {
            let n = r.counter("n", "An n.");
            let c = r.counter_vec("c", "A c.", &[COLOUR]);
            r.add(n, i as u64);
            r.inc(c.at(1));
        }
        let parts =
            [Part { node: Some("a"), registry: &nodes[0] }, Part { node: Some("\""), registry: &nodes[1] }];
        assert_eq!(
            render_groups(&[&parts], Format::Text),
            "# HELP n An n.\n# TYPE n counter\nn{node=\"a\"} 0\nn{node=\"\\\"\"} 1\n\
             # HELP c A c.\n# TYPE c counter\nc{node=\"a\",colour=\"blue\"} 1\nc{node=\"\\\"\",colour=\"blue\"} 1\n"
        );
    }

    #[test]
    fn counters_end_in_total_in_openmetrics_and_only_there() {
        let mut r = Registry::new(1);
        r.counter("a", "An a.");
        r.counter("b_total", "A b.");
        r.gauge("c_total", "A c.");
        let h = r.histogram_vec("h", "An h.", &[COLOUR], Edges { upper: &[1], divisor: 1 });
        r.observe(h.at(0), 1);
        let page = render_groups(&[&[Part { node: None, registry: &r }]], Format::OpenMetrics);
        assert_eq!(
            page,
            "# HELP a An a.\n# TYPE a counter\na_total 0\n# HELP b A b.\n# TYPE b counter\nb_total 0\n\
             # HELP c_total A c.\n# TYPE c_total gauge\nc_total 0\n\
             # HELP h An h.\n# TYPE h histogram\nh_bucket{colour=\"red\",le=\"1.0\"} 1\n\
             h_bucket{colour=\"red\",le=\"+Inf\"} 1\nh_sum{colour=\"red\"} 1\nh_count{colour=\"red\"} 1\n# EOF\n"
        );
    }
}
