//! Label values that peers choose, in bounded memory.
//!
//! A peer can send a million user agents, so a family of metrics cannot have a series for each. A [`Table`] has a row for the
//! most frequent values and one row, `other`, for all the rest. What has no row is watched by a sketch of candidates
//! (Misra and Gries, "Finding repeated elements", 1982: it never counts a value too high, and surely finds one that makes
//! up more than 1/(candidates + 1) of what has no row). A candidate that became more frequent than the least frequent row takes its
//! place, and starts at 0. A row that nobody uses any more goes after a while ([`Table::expire`]).
//!
//! Of a row that ends, `other` gets what was on no page yet ([`Table::mark_exported`]), and only that: what was exported under one
//! value already would be counted twice by whoever asks for a rate, and an hour of 5,000 new events would be made of old ones. So
//! `other` grows with events alone, counters never go back while they are exported, and sums of rates over a family are exact. The
//! total that a row had goes with it.

use std::collections::HashMap;

/// Label value of the row for everything that has no row of its own.
pub const OTHER: &str = "other";

/// Bytes of a label value that are kept.
pub const MAX_VALUE_BYTES: usize = 256;

/// Separates the values of a row that has more than one label.
pub const SEPARATOR: char = '\u{1f}';

const OTHER_ROW: usize = 0;
const PINNED: u64 = u64::MAX;

/// The values of several labels as one: the key of a row. Each is cut as [`bounded`] does.
pub fn joined(values: &[&str]) -> String {
    let mut key = String::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            key.push(SEPARATOR);
        }
        key.push_str(bounded(value));
    }
    key
}

/// The beginning of a label value, cut at a character.
pub fn bounded(value: &str) -> &str {
    if value.len() <= MAX_VALUE_BYTES {
        return value;
    }
    let end = (0..=MAX_VALUE_BYTES).rev().find(|&i| value.is_char_boundary(i)).unwrap_or(0);
    &value[..end]
}

#[derive(Debug)]
struct Row {
    key: Box<str>,
    /// How often the value was seen, as far as is known: at least this often.
    weight: u64,
    /// How often it was seen since it has this row.
    hits: u64,
    /// `hits` on the last page.
    exported_hits: u64,
    /// The table's tick when it was last seen.
    seen: u32,
}

impl Row {
    fn new(key: &str, weight: u64, tick: u32) -> Self {
        Row { key: key.into(), weight, hits: 0, exported_hits: 0, seen: tick }
    }
}

/// Rows of counters, one a label value.
#[derive(Debug)]
pub struct Table {
    max_rows: usize,
    /// Cells of a row. Grows while families are registered, not later.
    width: usize,
    rows: Vec<Row>,
    /// `width` cells a row. A cell without a number was never used and is not exported.
    cells: Vec<Option<u64>>,
    /// The numbers of `cells` on the last page, 0 for none.
    exported: Vec<u64>,
    index: HashMap<Box<str>, usize>,
    /// The row of the last value: the next one is often the same.
    last: usize,
    candidates: HashMap<Box<str>, u64>,
    /// No row that can be replaced is known to have a weight below this.
    floor: u64,
    /// Counts the calls of `expire`: a clock that costs nothing to read.
    tick: u32,
    /// Rows do not expire.
    is_lasting: bool,
}

impl Table {
    /// A table of at most `max_rows` values besides the pinned ones and `other`.
    pub fn new(max_rows: usize) -> Self {
        Self {
            max_rows: max_rows.max(1),
            width: 0,
            rows: vec![Row::new(OTHER, PINNED, 0)],
            cells: Vec::new(),
            exported: Vec::new(),
            index: HashMap::from([(OTHER.into(), OTHER_ROW)]),
            last: OTHER_ROW,
            candidates: HashMap::new(),
            floor: 0,
            tick: 0,
            is_lasting: false,
        }
    }

    /// A table whose rows do not expire: for few values, whose totals somebody may look for at any time.
    pub fn lasting(max_rows: usize) -> Self {
        Self { is_lasting: true, ..Self::new(max_rows) }
    }

    /// Keeps a row for this value whatever else comes. For values that are known to matter.
    pub fn pin(&mut self, value: &str) {
        if self.index.contains_key(value) {
            return;
        }
        self.push(value, PINNED);
        self.max_rows = self.max_rows.saturating_add(1);
    }

    /// Makes every row `cells` longer and returns the index of the first new cell.
    pub fn widen(&mut self, cells: usize) -> usize {
        let first = self.width;
        self.width += cells;
        self.cells = vec![None; self.rows.len() * self.width];
        self.exported = vec![0; self.cells.len()];
        first
    }

    /// The row for this value, which was seen once more.
    pub fn row(&mut self, value: &str) -> usize {
        let value = bounded(value);
        let known = if &*self.rows[self.last].key == value {
            Some(self.last)
        } else {
            self.index.get(value).copied()
        };
        let row = match known {
            Some(row) => {
                self.rows[row].weight = self.rows[row].weight.saturating_add(1);
                row
            }
            None => self.new_row(value),
        };
        let seen = &mut self.rows[row];
        seen.hits = seen.hits.saturating_add(1);
        seen.seen = self.tick;
        self.last = row;
        row
    }

    /// Adds to a cell of a row.
    pub fn add(&mut self, row: usize, cell: usize, amount: u64) {
        let value = self.cells[row * self.width + cell].get_or_insert(0);
        *value = value.saturating_add(amount);
    }

    /// Value and cells of every row, `other` last.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &[Option<u64>])> {
        let order = (OTHER_ROW + 1..self.rows.len()).chain([OTHER_ROW]);
        order.map(|row| (&*self.rows[row].key, &self.cells[row * self.width..(row + 1) * self.width]))
    }

    /// How often a value was seen that was counted in `other`.
    pub fn folded(&self) -> u64 {
        self.rows[OTHER_ROW].hits
    }

    /// Remembers that everything is on a page as it is now.
    pub fn mark_exported(&mut self) {
        for (exported, cell) in self.exported.iter_mut().zip(&self.cells) {
            *exported = cell.unwrap_or(0);
        }
        for row in &mut self.rows {
            row.exported_hits = row.hits;
        }
    }

    fn push(&mut self, value: &str, weight: u64) -> usize {
        let row = self.rows.len();
        self.rows.push(Row::new(value, weight, self.tick));
        self.cells.resize(self.rows.len() * self.width, None);
        self.exported.resize(self.cells.len(), 0);
        self.index.insert(value.into(), row);
        row
    }

    fn new_row(&mut self, value: &str) -> usize {
        // The first row is `other`.
        if self.rows.len() <= self.max_rows {
            return self.push(value, 1);
        }
        let seen = self.watch(value);
        if seen <= self.floor {
            return OTHER_ROW;
        }
        let replaceable = self.rows.iter().enumerate().filter(|(_, row)| row.weight != PINNED);
        let Some((least, weight)) = replaceable.map(|(i, row)| (i, row.weight)).min_by_key(|(_, w)| *w)
        else {
            return OTHER_ROW;
        };
        self.floor = weight;
        if seen <= weight {
            return OTHER_ROW;
        }
        self.replace(least, value, seen);
        least
    }

    /// Counts a value without a row and returns how often it was surely seen.
    fn watch(&mut self, value: &str) -> u64 {
        if let Some(seen) = self.candidates.get_mut(value) {
            *seen = seen.saturating_add(1);
            return *seen;
        }
        if self.candidates.len() < self.max_rows {
            self.candidates.insert(value.into(), 1);
            return 1;
        }
        self.candidates.retain(|_, seen| {
            *seen -= 1;
            *seen > 0
        });
        0
    }

    /// Ends a tick, and the rows that were not seen for `idle` ticks. Pinned rows stay.
    pub fn expire(&mut self, idle: u32) {
        if self.is_lasting {
            return;
        }
        self.tick = self.tick.wrapping_add(1);
        let mut row = OTHER_ROW + 1;
        while row < self.rows.len() {
            let old = &self.rows[row];
            if old.weight == PINNED || self.tick.wrapping_sub(old.seen) <= idle {
                row += 1;
                continue;
            }
            self.fold(row);
            self.remove(row);
        }
        // There may be room now.
        self.floor = 0;
        self.last = OTHER_ROW;
    }

    /// Puts the last row in the place of this one.
    fn remove(&mut self, row: usize) {
        let last = self.rows.len() - 1;
        let from = last * self.width;
        self.cells.copy_within(from..from + self.width, row * self.width);
        self.cells.truncate(from);
        self.exported.copy_within(from..from + self.width, row * self.width);
        self.exported.truncate(from);
        let old = self.rows.swap_remove(row);
        self.index.remove(&old.key);
        if let Some(moved) = self.rows.get(row) {
            self.index.insert(moved.key.clone(), row);
        }
    }

    /// Ends the counts of a row: `other` gets what nobody saw under the row's value.
    fn fold(&mut self, row: usize) {
        for cell in 0..self.width {
            let at = row * self.width + cell;
            let unseen = self.cells[at].take().unwrap_or(0).saturating_sub(self.exported[at]);
            self.exported[at] = 0;
            if unseen > 0 {
                self.add(OTHER_ROW, cell, unseen);
            }
        }
        let Row { hits, exported_hits, .. } = self.rows[row];
        let other = &mut self.rows[OTHER_ROW];
        other.hits = other.hits.saturating_add(hits.saturating_sub(exported_hits));
    }

    fn replace(&mut self, row: usize, value: &str, seen: u64) {
        self.fold(row);
        let new = Row::new(value, seen, self.tick);
        let old = std::mem::replace(&mut self.rows[row], new);
        self.index.remove(&old.key);
        self.index.insert(value.into(), row);
        self.candidates.remove(value);
        self.candidates.insert(old.key, old.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(max_rows: usize) -> Table {
        let mut table = Table::new(max_rows);
        table.widen(1);
        table
    }

    fn see(table: &mut Table, value: &str) {
        let row = table.row(value);
        table.add(row, 0, 1);
    }

    fn counts(table: &Table) -> HashMap<&str, u64> {
        table.rows().filter_map(|(key, cells)| Some((key, cells[0]?))).collect()
    }

    #[test]
    fn every_value_has_a_row_while_there_is_room() {
        let mut t = table(2);
        for value in ["a", "b", "a"] {
            see(&mut t, value);
        }
        assert_eq!(counts(&t), HashMap::from([("a", 2), ("b", 1)]));
        assert_eq!(t.folded(), 0);
    }

    #[test]
    fn a_value_that_becomes_more_frequent_takes_the_place_of_the_least_frequent() {
        let mut t = table(2);
        for value in ["a", "a", "a", "b", "c"] {
            see(&mut t, value);
        }
        assert_eq!(counts(&t), HashMap::from([("a", 3), ("b", 1), (OTHER, 1)]));
        see(&mut t, "c");
        // Two of "c" were seen: the first is in `other` and stays there, like the one of "b".
        assert_eq!(counts(&t), HashMap::from([("a", 3), ("c", 1), (OTHER, 2)]));
        assert_eq!(t.folded(), 2);
    }

    #[test]
    fn a_flood_of_values_takes_bounded_memory_and_the_sum_stays_exact() {
        let mut t = table(50);
        let mut honest = 0;
        for i in 0..200_000_u32 {
            see(&mut t, &format!("flood {i}"));
            if i % 20 == 0 {
                see(&mut t, "honest");
                honest += 1;
            }
        }
        assert!(t.rows.len() <= 51 && t.index.len() <= 51 && t.candidates.len() <= 51);
        let counts = counts(&t);
        assert_eq!(counts.values().sum::<u64>(), 200_000 + honest);
        assert!(counts["honest"] + 1 >= honest, "a frequent value has its row, but for what came before it");
    }

    #[test]
    fn a_late_frequent_value_is_found_among_a_flood() {
        let mut t = table(50);
        for i in 0..10_000_u32 {
            see(&mut t, &format!("flood {i}"));
        }
        for i in 0..2_000_u32 {
            see(&mut t, &format!("more {i}"));
            see(&mut t, "late");
        }
        assert!(counts(&t)["late"] > 1_900);
    }

    #[test]
    fn a_pinned_value_keeps_its_row() {
        let mut t = Table::new(2);
        t.pin("ping");
        t.widen(1);
        for _ in 0..3 {
            for value in ["x", "y", "z"] {
                see(&mut t, value);
            }
        }
        see(&mut t, "ping");
        assert_eq!(counts(&t)["ping"], 1);
        assert_eq!(counts(&t).values().sum::<u64>(), 10);
    }

    #[test]
    fn a_row_that_is_not_used_any_more_goes_and_other_does_not_jump() {
        let mut t = Table::new(3);
        t.pin("ping");
        t.widen(1);
        for value in ["a", "b", "b", "c", "ping"] {
            see(&mut t, value);
        }
        t.mark_exported();
        t.expire(1);
        see(&mut t, "c");
        t.expire(1);
        assert_eq!(counts(&t), HashMap::from([("ping", 1), ("c", 2)]), "no series is new");
        assert_eq!(t.folded(), 0);
        for value in ["a", "c", "x", "y"] {
            see(&mut t, value);
        }
        let with_other = HashMap::from([("ping", 1), ("a", 1), ("c", 3), ("x", 1), (OTHER, 1)]);
        assert_eq!(counts(&t), with_other, "a value that comes back starts again");
        t.mark_exported();
        t.expire(0);
        assert_eq!(counts(&t), HashMap::from([("ping", 1), (OTHER, 1)]), "no series jumps");
        assert_eq!(t.folded(), 1);
    }

    #[test]
    fn rows_of_a_lasting_table_do_not_expire() {
        let mut t = Table::lasting(3);
        t.widen(1);
        see(&mut t, "a");
        t.expire(0);
        t.expire(0);
        assert_eq!(counts(&t), HashMap::from([("a", 1)]));
    }

    #[test]
    fn of_a_row_that_ends_other_gets_what_was_on_no_page() {
        let mut t = Table::new(1);
        t.widen(3);
        let row = t.row("never exported");
        t.add(row, 0, 5);
        t.add(row, 1, 0);
        t.expire(0);
        let other = |t: &Table| t.rows().last().map(|(_, cells)| cells.to_vec());
        assert_eq!(other(&t), Some(vec![Some(5), None, None]), "and no series that says 0");
        let row = t.row("exported in part");
        t.add(row, 0, 7);
        t.mark_exported();
        let row = t.row("exported in part");
        t.add(row, 0, 2);
        t.add(row, 2, 1);
        t.expire(0);
        assert_eq!(other(&t), Some(vec![Some(7), None, Some(1)]));
        assert_eq!(t.folded(), 2);
    }

    /// What `sum(increase())` over all series finds, by what was scraped at one time and at the next.
    fn increase(before: &HashMap<String, u64>, after: &HashMap<String, u64>) -> u64 {
        let grown = |(key, now): (&String, &u64)| {
            let before = before.get(key).copied().unwrap_or(0);
            // A counter that went back began anew.
            if before > *now { *now } else { now - before }
        };
        after.iter().map(grown).sum()
    }

    #[test]
    fn rates_stay_exact_while_rows_are_replaced_and_expire() {
        let mut t = table(20);
        let mut scraped = HashMap::new();
        // Values come in waves, so that rows are replaced while they are in use, and expire.
        for wave in 0..30_u32 {
            for scrape in 0..10 {
                for i in 0..100_u32 {
                    see(&mut t, &format!("of wave {wave}: {}", i % 5));
                    see(&mut t, &format!("once: {wave} {scrape} {i}"));
                }
                let page = counts(&t).into_iter().map(|(key, n)| (key.to_owned(), n)).collect();
                t.mark_exported();
                assert_eq!(increase(&scraped, &page), 200, "wave {wave}, scrape {scrape}");
                scraped = page;
            }
            if wave % 3 == 0 {
                t.expire(1);
            }
        }
        let late = scraped.keys().filter(|key| key.starts_with("of wave 2")).count();
        assert!(late > 10, "frequent values take the rows of others: {late}");
    }

    #[test]
    fn a_value_called_other_is_not_a_second_series_of_that_name() {
        let mut t = table(1);
        for value in ["a", "b", OTHER] {
            see(&mut t, value);
        }
        assert_eq!(t.rows().filter(|(key, _)| *key == OTHER).count(), 1);
        assert_eq!(counts(&t)[OTHER], 2);
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let long = "é".repeat(200);
        assert_eq!(bounded(&long).len(), 256);
        let odd = format!("x{long}");
        assert_eq!(bounded(&odd).len(), 255);
        let mut t = table(10);
        see(&mut t, &format!("{long}1"));
        see(&mut t, &format!("{long}2"));
        assert_eq!(counts(&t).len(), 1, "values that look the same are one series");
    }
}
