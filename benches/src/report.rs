//! The table of results, in Markdown.

use std::io::Write;

use anyhow::{Context, Result};

struct Row {
    what: String,
    result: String,
    beside: String,
    target: String,
}

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a result, with what it is to be read beside: a baseline, or counts of the same run.
    pub(crate) fn add(&mut self, what: &str, result: String, beside: String) {
        self.add_row(what, result, beside, String::new());
    }

    /// Adds a result that has an upper limit.
    pub(crate) fn add_at_most(&mut self, what: &str, value: f64, unit: &str, limit: f64, beside: String) {
        let verdict = if value <= limit { "met" } else { "missed" };
        self.add_row(
            what,
            with_unit(value, unit),
            beside,
            format!("<= {}: {verdict}", with_unit(limit, unit)),
        );
    }

    /// Adds a result that has a lower limit.
    pub(crate) fn add_at_least(&mut self, what: &str, value: f64, unit: &str, limit: f64, beside: String) {
        let verdict = if value >= limit { "met" } else { "missed" };
        self.add_row(
            what,
            with_unit(value, unit),
            beside,
            format!(">= {}: {verdict}", with_unit(limit, unit)),
        );
    }

    fn add_row(&mut self, what: &str, result: String, beside: String, target: String) {
        // A run takes minutes: show what is known already.
        let _ = writeln!(std::io::stderr(), "{what}: {result} ({beside}) {target}");
        self.rows.push(Row { what: what.into(), result, beside, target });
    }

    /// Prints the table.
    pub(crate) fn print(&self) -> Result<()> {
        let mut table = String::from("| what | result | beside it | target |\n|---|---|---|---|\n");
        for Row { what, result, beside, target } in &self.rows {
            table += &format!("| {what} | {result} | {beside} | {target} |\n");
        }
        std::io::stdout().write_all(table.as_bytes()).context("printing the table")
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    if value >= 10_000.0 { format!("{} {unit}", thousands(value)) } else { format!("{value:.2} {unit}") }
}

/// A large number, as `1,000,000`.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
