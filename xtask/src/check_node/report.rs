//! What was checked, for docs/checked-against.md.

use std::fmt::Write;

/// Checks and their results, in order.
#[derive(Debug, Default)]
pub(super) struct Report {
    version: String,
    checks: Vec<Check>,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Check {
    what: String,
    seen: String,
    differences: Vec<String>,
}

/// Numbers that belong together.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) header: &'static [&'static str],
    pub(super) rows: Vec<Vec<String>>,
}

impl Report {
    /// A report on a node of this version.
    pub(super) fn new(version: String) -> Self {
        Report { version, ..Report::default() }
    }

    /// Notes what was compared, what was seen, and what is not as it should be.
    pub(super) fn check(
        &mut self,
        what: impl Into<String>,
        seen: impl Into<String>,
        differences: Vec<String>,
    ) {
        let check = Check { what: what.into(), seen: seen.into(), differences };
        let verdict = if check.differences.is_empty() { "ok" } else { "DIFFERS" };
        eprintln!("{verdict}: {}: {}", check.what, check.seen);
        for difference in &check.differences {
            eprintln!("  {difference}");
        }
        self.checks.push(check);
    }

    /// Notes numbers.
    pub(super) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Checks that did not hold.
    pub(super) fn failed(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|check| !check.differences.is_empty());
        failed.map(|check| check.what.as_str()).collect()
    }

    /// The report as Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# Checked against a real node\n\n\
             `sudo cargo xtask check-node` starts nodes of an installed Bitcoin Core on regtest, gives them peers, transactions \
             and blocks, kills, restarts and upgrades them, and compares what `peer-observer extract ebpf` published over NATS \
             with what the nodes say over RPC. Then `peer-observer run` looks through all windows into a node that is restarted and \
             whose log is rotated meanwhile (`--minutes`), with RPC intervals of 2 and 10 s; where there is a `bitcoin-node`, that is the \
             node, with `-ipcbind=unix`. It wrote this file.\n\nNode: {}\n\n\
             | what was compared | seen | differences |\n|---|---|---|\n",
            self.version
        );
        for check in &self.checks {
            let differences = match &check.differences[..] {
                [] => "none".to_owned(),
                differences => differences.join("<br>"),
            };
            // Writing to a text cannot fail.
            let _ = writeln!(text, "| {} | {} | {differences} |", check.what, check.seen);
        }
        for table in &self.tables {
            let _ = write!(
                text,
                "\n## {}\n\n| {} |\n|{}\n",
                table.title,
                table.header.join(" | "),
                "---|".repeat(table.header.len())
            );
            for row in &table.rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        text.push_str(NOTES);
        text
    }
}

const NOTES: &str = "
## What the node counts and no tracepoint sees

- A message with a wrong checksum, or a type with characters that are not allowed, is refused before it is a message: the node
  adds its bytes to `*other*` of `bytesrecv_per_msg`, and `net:inbound_message` is not hit. The check sends such messages and
  expects just these bytes.
- Keys, garbage and the version packet of the v2 handshake (BIP 324) are in `bytessent` and `bytesrecv`, and in no message type.
- A peer that leaves takes its numbers out of getpeerinfo, so only peers that are connected are compared.
- The node counts what it sent when the socket took it, and the tracepoint is hit when the message is queued: the two are the
  same at a quiet point only.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_differs_fails_and_is_written_down() {
        let mut report = Report::new("v1".into());
        report.check("bytes", "3 sums", vec![]);
        report.check("blocks", "2 blocks", vec!["height 1 is missing".into()]);
        report.table(Table { title: "Books", header: &["a", "b"], rows: vec![vec!["1".into(), "2".into()]] });
        assert_eq!(report.failed(), ["blocks"]);
        let text = report.markdown();
        for line in [
            "Node: v1",
            "| bytes | 3 sums | none |",
            "| blocks | 2 blocks | height 1 is missing |",
            "| a | b |",
            "|---|---|",
            "| 1 | 2 |",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
