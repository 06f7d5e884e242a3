//! Counts over time, in slots of equal length, by the time of events: what is played back has the same history as what was live.

use std::collections::VecDeque;

/// The last slots; older ones are forgotten.
#[derive(Debug)]
pub(crate) struct Series<T> {
    step_ns: u64,
    capacity: usize,
    /// Number of the first slot: its time divided by the step.
    first: u64,
    slots: VecDeque<T>,
}

impl<T: Default> Series<T> {
    /// An empty series of `capacity` slots, `step_ns` each.
    pub(crate) fn new(step_ns: u64, capacity: usize) -> Self {
        Series { step_ns: step_ns.max(1), capacity: capacity.max(1), first: 0, slots: VecDeque::new() }
    }

    /// The slot of a time, ns since the UNIX epoch. What is older than the oldest slot goes there.
    pub(crate) fn at(&mut self, time_ns: u64) -> &mut T {
        let index = time_ns / self.step_ns;
        let end = self.first + self.slots.len() as u64;
        if self.slots.is_empty() || index >= end.saturating_add(self.capacity as u64) {
            self.slots.clear();
            self.first = index;
            self.slots.push_back(T::default());
        }
        while self.first + (self.slots.len() as u64) <= index {
            if self.slots.len() == self.capacity {
                self.slots.pop_front();
                self.first += 1;
            }
            self.slots.push_back(T::default());
        }
        let offset = index.saturating_sub(self.first) as usize;
        &mut self.slots[offset]
    }

    /// Length of a slot, ns.
    pub(crate) fn step_ns(&self) -> u64 {
        self.step_ns
    }

    /// Start of the first of the `count` slots that end with the one of `now_ns`, ns since the UNIX epoch.
    pub(crate) fn start_ns(&self, now_ns: u64, count: usize) -> u64 {
        (now_ns / self.step_ns + 1).saturating_sub(count as u64) * self.step_ns
    }

    /// The `count` slots that end with the one of `now_ns`; nothing where there is no slot.
    pub(crate) fn last(&self, now_ns: u64, count: usize) -> impl Iterator<Item = Option<&T>> + Clone {
        let begin = (now_ns / self.step_ns + 1).saturating_sub(count as u64);
        (begin..begin + count as u64).map(|index| {
            let offset = index.checked_sub(self.first)?;
            self.slots.get(usize::try_from(offset).ok()?)
        })
    }

    /// How many slots can be kept.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(series: &Series<u32>, now: u64, count: usize) -> Vec<Option<u32>> {
        series.last(now, count).map(|slot| slot.copied()).collect()
    }

    #[test]
    fn counts_fall_into_the_slot_of_their_time() {
        let mut series = Series::new(10, 4);
        for time in [100, 109, 110, 131, 128] {
            *series.at(time) += 1;
        }
        assert_eq!(values(&series, 139, 4), [Some(2), Some(1), Some(1), Some(1)]);
        assert_eq!(series.start_ns(139, 4), 100);
        assert_eq!(values(&series, 155, 4), [Some(1), Some(1), None, None]);
    }

    #[test]
    fn old_slots_are_forgotten_and_what_is_older_still_is_counted_in_the_oldest() {
        let mut series = Series::new(10, 3);
        for time in [0, 20, 50, 5] {
            *series.at(time) += 1;
        }
        assert_eq!(values(&series, 50, 3), [Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn a_leap_of_years_takes_no_memory_and_no_time() {
        let mut series = Series::<u32>::new(1, 3);
        *series.at(0) += 1;
        *series.at(u64::MAX / 2) += 1;
        assert_eq!(series.slots.len(), 1);
        assert_eq!(values(&series, u64::MAX / 2, 2), [None, Some(1)]);
    }
}
