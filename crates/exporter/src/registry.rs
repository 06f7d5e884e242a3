//! Metrics and their values: one writer, no locks, no allocation when something is counted.
//!
//! Each family of metrics is registered once, with name, help and labels; what comes back is a small handle that says where the
//! value is. Counting is then an addition in a list. Children of a family appear in the output once they were used;
//! metrics without labels are there from the start.

use std::collections::BTreeMap;

use crate::labels::{OTHER, Table};

/// The most that one event can add to a counter: numbers that others choose must not bring a
/// counter to its limit, where it would stay.
pub const MAX_AMOUNT: u64 = 1 << 40;

/// The largest value that is observed, in the unit of the histogram's edges: five hours in ns.
pub const MAX_OBSERVED: u64 = 1 << 44;

/// A label and all values it can have.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Name of the label.
    pub name: &'static str,
    /// Its values; a child's index is a position in here.
    pub values: &'static [&'static str],
}

/// A counter.
#[derive(Debug, Clone, Copy)]
pub struct Counter(usize);

/// Counters with one or two labels of known values.
#[derive(Debug, Clone, Copy)]
pub struct CounterVec {
    first: usize,
    inner: usize,
}

impl CounterVec {
    /// The child of a family with one label.
    pub fn at(self, value: usize) -> Counter {
        Counter(self.first + value)
    }

    /// The child of a family with two labels.
    pub fn at2(self, outer: usize, inner: usize) -> Counter {
        Counter(self.first + outer * self.inner + inner)
    }
}

/// An integer that goes up and down.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(usize);

/// A number that goes up and down and is not whole.
#[derive(Debug, Clone, Copy)]
pub struct FloatGauge(usize);

/// Gauges with label values that come with what is measured: what a poll found, which the next one replaces.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot(usize);

/// A histogram.
#[derive(Debug, Clone, Copy)]
pub struct Histogram {
    index: usize,
    edges: Edges,
}

/// Histograms with labels of known values.
#[derive(Debug, Clone, Copy)]
pub struct HistogramVec {
    first: usize,
    inner: usize,
    edges: Edges,
}

impl HistogramVec {
    /// The child of a family with one label; of one with more, the child whose [`position`] this is.
    pub fn at(self, value: usize) -> Histogram {
        Histogram { index: self.first + value, edges: self.edges }
    }

    /// The child of a family with two labels.
    pub fn at2(self, outer: usize, inner: usize) -> Histogram {
        Histogram { index: self.first + outer * self.inner + inner, edges: self.edges }
    }
}

/// A table of counters with label values that peers choose; see [`crate::labels`].
#[derive(Debug, Clone, Copy)]
pub struct TableId(usize);

/// The row of a value. Good until the next row of the same table is asked for.
#[derive(Debug, Clone, Copy)]
pub struct RowId {
    table: usize,
    row: usize,
}

/// A family in a table: the label of the table, and up to two labels of known values.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    first: usize,
    inner: usize,
}

/// A cell in every row of a table.
#[derive(Debug, Clone, Copy)]
pub struct Cell(usize);

impl Column {
    /// The cell of a family that has no labels besides the table's.
    pub fn only(self) -> Cell {
        Cell(self.first)
    }

    /// The cell of a family with one more label.
    pub fn at(self, value: usize) -> Cell {
        Cell(self.first + value)
    }

    /// The cell of a family with two more labels.
    pub fn at2(self, outer: usize, inner: usize) -> Cell {
        Cell(self.first + outer * self.inner + inner)
    }
}

/// Upper edges of a histogram's buckets, ascending, and how many of their unit make one of the exported unit.
#[derive(Debug, Clone, Copy)]
pub struct Edges {
    /// The edges; what is above the last is counted too.
    pub upper: &'static [u64],
    /// 1, or 1,000,000,000 for ns that are exported as seconds.
    pub divisor: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct HistogramState {
    /// Observations a bucket, not added up; the last is for what is above all edges.
    pub(crate) buckets: Vec<u64>,
    /// In the unit of the edges.
    pub(crate) sum: u64,
    pub(crate) used: bool,
}

/// Values of a [`Snapshot`] by the joined values of its labels.
#[derive(Debug, Default)]
pub(crate) struct SnapshotState {
    pub(crate) values: BTreeMap<Box<str>, f64>,
    /// How many values found no place, over all snapshots.
    pub(crate) folded: u64,
    /// Ticks since the last one.
    idle: u32,
}

#[derive(Debug)]
pub(crate) enum Values {
    Counters { first: usize },
    Gauge(usize),
    Float(usize),
    Snapshot { snapshot: usize, key_labels: &'static [&'static str] },
    Histograms { first: usize, edges: Edges },
    Table { table: usize, first: usize, key_labels: &'static [&'static str] },
}

#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: Vec<Label>,
    pub(crate) values: Values,
}

/// What a family is, for documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, without `le`.
    pub labels: Vec<&'static str>,
    /// What it counts or measures, in which unit.
    pub help: &'static str,
}

/// All metrics of a program's part.
#[derive(Debug)]
pub struct Registry {
    max_values: usize,
    pub(crate) families: Vec<Family>,
    pub(crate) counters: Vec<Option<u64>>,
    pub(crate) gauges: Vec<i64>,
    pub(crate) floats: Vec<f64>,
    pub(crate) snapshots: Vec<SnapshotState>,
    pub(crate) histograms: Vec<HistogramState>,
    pub(crate) tables: Vec<Table>,
    /// How often a value found no place outside of the tables and snapshots, by what it is a value of.
    pub(crate) folded: BTreeMap<&'static str, u64>,
    capped: u64,
}

/// Most labels of known values that a family can have.
const MAX_LABELS: usize = 4;

fn children(labels: &[Label]) -> usize {
    labels.iter().map(|label| label.values.len()).product()
}

/// The number of a child in a family with any number of labels, for `at`: `values` has the position of a value for each label.
pub fn position(labels: &[Label], values: &[usize]) -> usize {
    labels.iter().zip(values).fold(0, |outer, (label, value)| outer * label.values.len() + value)
}

fn inner(labels: &[Label]) -> usize {
    labels.last().map_or(1, |label| label.values.len())
}

impl Registry {
    /// An empty registry whose tables have at most `max_values` values each.
    pub fn new(max_values: usize) -> Self {
        Self {
            max_values,
            families: Vec::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
            floats: Vec::new(),
            snapshots: Vec::new(),
            histograms: Vec::new(),
            tables: Vec::new(),
            folded: BTreeMap::new(),
            capped: 0,
        }
    }

    fn register(&mut self, name: &'static str, help: &'static str, labels: &[Label], values: Values) {
        debug_assert!(self.families.iter().all(|f| f.name != name), "{name} is registered twice");
        debug_assert!(!help.contains(['\n', '\\']), "the help of {name} would have to be escaped");
        debug_assert!(
            labels.len() <= MAX_LABELS,
            "{name} has too many labels: its children would be too many"
        );
        self.families.push(Family { name, help, labels: labels.to_vec(), values });
    }

    /// The names of all families, in the order in which they were registered.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.families.iter().map(|family| family.name)
    }

    /// What every family is, in the order in which they were registered.
    pub fn describe(&self) -> impl Iterator<Item = Description> {
        self.families.iter().map(|family| {
            let (kind, key_labels) = match family.values {
                Values::Counters { .. } => ("counter", &[][..]),
                Values::Table { key_labels, .. } => ("counter", key_labels),
                Values::Gauge(_) | Values::Float(_) => ("gauge", &[][..]),
                Values::Snapshot { key_labels, .. } => ("gauge", key_labels),
                Values::Histograms { .. } => ("histogram", &[][..]),
            };
            let labels = family.labels.iter().map(|label| label.name);
            Description {
                name: family.name,
                kind,
                labels: key_labels.iter().copied().chain(labels).collect(),
                help: family.help,
            }
        })
    }

    /// Registers a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        let first = self.counters.len();
        self.counters.push(Some(0));
        self.register(name, help, &[], Values::Counters { first });
        Counter(first)
    }

    /// Registers counters with one or two labels.
    pub fn counter_vec(&mut self, name: &'static str, help: &'static str, labels: &[Label]) -> CounterVec {
        let first = self.counters.len();
        self.counters.resize(first + children(labels), None);
        self.register(name, help, labels, Values::Counters { first });
        CounterVec { first, inner: inner(labels) }
    }

    /// Registers a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let index = self.gauges.len();
        self.gauges.push(0);
        self.register(name, help, &[], Values::Gauge(index));
        Gauge(index)
    }

    /// Registers a gauge without labels for numbers that are not whole.
    pub fn float_gauge(&mut self, name: &'static str, help: &'static str) -> FloatGauge {
        let index = self.floats.len();
        self.floats.push(0.0);
        self.register(name, help, &[], Values::Float(index));
        FloatGauge(index)
    }

    /// Registers gauges whose label values come with what is measured.
    pub fn snapshot(
        &mut self,
        name: &'static str,
        help: &'static str,
        key_labels: &'static [&'static str],
    ) -> Snapshot {
        let snapshot = self.snapshots.len();
        self.snapshots.push(SnapshotState::default());
        self.register(name, help, &[], Values::Snapshot { snapshot, key_labels });
        Snapshot(snapshot)
    }

    /// Registers histograms with one to four labels.
    pub fn histogram_vec(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
        edges: Edges,
    ) -> HistogramVec {
        let first = self.histograms.len();
        let empty = HistogramState { buckets: vec![0; edges.upper.len() + 1], sum: 0, used: false };
        self.histograms.resize(first + children(labels), empty);
        self.register(name, help, labels, Values::Histograms { first, edges });
        HistogramVec { first, inner: inner(labels), edges }
    }

    /// Makes a table; the values in `pinned` always keep their row.
    pub fn table(&mut self, pinned: &[&str]) -> TableId {
        let mut table = Table::new(self.max_values);
        for value in pinned {
            table.pin(value);
        }
        self.add_table(table)
    }

    /// Makes a table whose rows do not expire.
    pub fn lasting_table(&mut self) -> TableId {
        self.add_table(Table::lasting(self.max_values))
    }

    fn add_table(&mut self, table: Table) -> TableId {
        self.tables.push(table);
        TableId(self.tables.len() - 1)
    }

    /// Registers a family in a table. `key_labels` are the labels that the table's values are for: one, or two with values
    /// joined by [`crate::labels::SEPARATOR`].
    pub fn column(
        &mut self,
        table: TableId,
        name: &'static str,
        help: &'static str,
        key_labels: &'static [&'static str],
        labels: &[Label],
    ) -> Column {
        let first = self.tables[table.0].widen(children(labels));
        self.register(name, help, labels, Values::Table { table: table.0, first, key_labels });
        Column { first, inner: inner(labels) }
    }

    /// Adds to a counter, at most [`MAX_AMOUNT`]. A counter at its limit stays there.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        let amount = self.capped(amount, MAX_AMOUNT);
        let value = self.counters[counter.0].get_or_insert(0);
        *value = value.saturating_add(amount);
    }

    /// Adds one to a counter.
    pub fn inc(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Sets a counter that is counted elsewhere.
    pub fn set_counter(&mut self, counter: Counter, value: u64) {
        self.counters[counter.0] = Some(value);
    }

    /// Sets a gauge.
    pub fn set(&mut self, gauge: Gauge, value: i64) {
        self.gauges[gauge.0] = value;
    }

    /// Sets a gauge for numbers that are not whole.
    pub fn set_float(&mut self, gauge: FloatGauge, value: f64) {
        self.floats[gauge.0] = value;
    }

    /// Replaces all values of a snapshot. Keys are made by [`crate::labels::joined`]. When there are more than the registry allows, the
    /// largest stay, and the rest is added up as `other`.
    pub fn replace(&mut self, snapshot: Snapshot, values: impl IntoIterator<Item = (String, f64)>) {
        let mut values: Vec<(String, f64)> = values.into_iter().collect();
        let state = &mut self.snapshots[snapshot.0];
        state.idle = 0;
        if values.len() > self.max_values {
            values.sort_by(|(a_key, a), (b_key, b)| b.total_cmp(a).then_with(|| a_key.cmp(b_key)));
            let rest = values.split_off(self.max_values);
            state.folded = state.folded.saturating_add(rest.len() as u64);
            values.push((OTHER.into(), rest.iter().map(|(_, value)| value).sum()));
        }
        state.values.clear();
        for (key, value) in values {
            *state.values.entry(key.into()).or_default() += value;
        }
    }

    /// Sets one value of a snapshot and leaves the others. A new key beyond what the registry allows is left out, and counted.
    pub fn set_in(&mut self, snapshot: Snapshot, key: &str, value: f64) {
        let state = &mut self.snapshots[snapshot.0];
        state.idle = 0;
        if let Some(old) = state.values.get_mut(key) {
            *old = value;
        } else if state.values.len() < self.max_values {
            state.values.insert(key.into(), value);
        } else {
            state.folded = state.folded.saturating_add(1);
        }
    }

    /// Takes one value out of a snapshot.
    pub fn remove_in(&mut self, snapshot: Snapshot, key: &str) {
        self.snapshots[snapshot.0].values.remove(key);
    }

    /// Says that a page was made of everything as it is now. To be called after each that is served: what was on none yet goes to the
    /// series `other` when its own ends.
    pub fn mark_exported(&mut self) {
        self.tables.iter_mut().for_each(Table::mark_exported);
    }

    /// Ends a tick: what was not seen for `idle` of them vanishes from the output.
    pub fn expire(&mut self, idle: u32) {
        for table in &mut self.tables {
            table.expire(idle);
        }
        for state in &mut self.snapshots {
            state.idle = state.idle.saturating_add(1);
            if state.idle > idle {
                state.values.clear();
            }
        }
    }

    /// Counts that the user of the registry itself counts a value as `other`: `of` stands where others have the name of the metric.
    pub fn count_folded(&mut self, of: &'static str) {
        let folded = self.folded.entry(of).or_default();
        *folded = folded.saturating_add(1);
    }

    /// Makes a histogram appear in the output before anything is observed.
    pub fn touch(&mut self, histogram: Histogram) {
        self.histograms[histogram.index].used = true;
    }

    /// Observes a value, in the unit of the histogram's edges, at most [`MAX_OBSERVED`].
    pub fn observe(&mut self, histogram: Histogram, value: u64) {
        let value = self.capped(value, MAX_OBSERVED);
        let state = &mut self.histograms[histogram.index];
        let bucket = histogram.edges.upper.partition_point(|edge| *edge < value);
        state.buckets[bucket] = state.buckets[bucket].saturating_add(1);
        state.sum = state.sum.saturating_add(value);
        state.used = true;
    }

    /// The row of a value that was seen once more.
    pub fn row(&mut self, table: TableId, value: &str) -> RowId {
        RowId { table: table.0, row: self.tables[table.0].row(value) }
    }

    /// Adds to a cell of a row, at most [`MAX_AMOUNT`].
    pub fn add_cell(&mut self, row: RowId, cell: Cell, amount: u64) {
        let amount = self.capped(amount, MAX_AMOUNT);
        self.tables[row.table].add(row.row, cell.0, amount);
    }

    /// How many numbers were larger than is believed, since this was called last.
    pub fn take_capped(&mut self) -> u64 {
        std::mem::take(&mut self.capped)
    }

    fn capped(&mut self, amount: u64, most: u64) -> u64 {
        self.capped = self.capped.saturating_add(u64::from(amount > most));
        amount.min(most)
    }
}
