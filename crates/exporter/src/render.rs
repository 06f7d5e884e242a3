//! The text that Prometheus reads: text exposition format 0.0.4.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write;

use crate::labels::SEPARATOR;
use crate::registry::{Edges, Family, HistogramState, Label, Registry, Values};

/// Content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Label that says how often a value of which metric was counted as `other`.
const FOLDED: &str = "peerobserver_observer_label_values_folded";

/// Everything in the registry that was used, as one page. Writing into a `String` cannot fail.
pub fn render(registry: &Registry) -> String {
    let mut out = String::with_capacity(64 * 1024);
    for family in &registry.families {
        render_family(&mut out, registry, family);
    }
    render_folded(&mut out, registry);
    out
}

fn render_family(out: &mut String, registry: &Registry, family: &Family) {
    let mut page = Page { out, family, started: false };
    match &family.values {
        Values::Counters { first } => {
            let mut index = *first;
            each_child(&family.labels, |labels| {
                if let Some(value) = registry.counters[index] {
                    page.sample("counter", "", labels, value);
                }
                index += 1;
            });
        }
        Values::Gauge(index) => page.sample("gauge", "", &[], registry.gauges[*index]),
        Values::Histograms { first, edges } => {
            let mut index = *first;
            each_child(&family.labels, |labels| {
                let state = &registry.histograms[index];
                if state.used {
                    render_histogram(&mut page, labels, *edges, state);
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
                        page.sample("counter", "", &all, value);
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
        let edge = in_exported_unit(*edge, edges);
        let mut labels = with_edge.clone();
        labels[last].1 = &edge;
        page.sample("histogram", "_bucket", &labels, below);
    }
    let count = state.buckets.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    with_edge[last].1 = "+Inf";
    page.sample("histogram", "_bucket", &with_edge, count);
    page.sample("histogram", "_sum", labels, in_exported_unit(state.sum, edges));
    page.sample("histogram", "_count", labels, count);
}

fn in_exported_unit(value: u64, edges: Edges) -> String {
    if edges.divisor == 1 {
        return value.to_string();
    }
    (value as f64 / edges.divisor as f64).to_string()
}

/// How often a value was counted as `other`, a line for each family where it happened.
fn render_folded(out: &mut String, registry: &Registry) {
    let family = Family {
        name: FOLDED,
        help: "How often a label value was seen that is counted in the series `other` of the metric.",
        labels: Vec::new(),
        values: Values::Counters { first: 0 },
    };
    let mut page = Page { out, family: &family, started: false };
    for bounded in &registry.families {
        let Values::Table { table, .. } = bounded.values else { continue };
        let folded = registry.tables[table].folded();
        if folded > 0 {
            page.sample("counter", "", &[("metric", bounded.name)], folded);
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
    match labels {
        [] => each(&[]),
        [label] => label.values.iter().for_each(|value| each(&[(label.name, value)])),
        [outer, inner, ..] => {
            for a in outer.values {
                for b in inner.values {
                    each(&[(outer.name, a), (inner.name, b)]);
                }
            }
        }
    }
}

/// Writes the lines of one family; the head comes with the first sample.
struct Page<'a> {
    out: &'a mut String,
    family: &'a Family,
    started: bool,
}

impl Page<'_> {
    fn sample(&mut self, kind: &str, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let name = self.family.name;
        if !self.started {
            self.started = true;
            let _ = writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}", self.family.help);
        }
        self.out.push_str(name);
        self.out.push_str(suffix);
        for (i, (label, value)) in labels.iter().enumerate() {
            self.out.push(if i == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            escape(self.out, value);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
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
}
