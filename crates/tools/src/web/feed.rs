//! Events as the public websocket sends them, for as many clients as there are, made once.
//!
//! A client reads from a ring at its own pace. Who is too slow finds the oldest gone and goes on with what is there; nobody waits
//! for it. While nobody wants a kind of events, none of that kind are made.
//!
//! A client that takes nothing holds on to no large event: it gets a frame of one at a time, so
//! that all clients together need little more memory than the ring.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use peer_observer_bus::Delivery;
use peer_observer_events::{Subject, json};
use tokio::sync::watch;

use super::socket::{FRAME, Utf8Bytes};

/// Events that are kept for clients that lag behind.
const MAX_EVENTS: usize = 16_384;
/// Their bytes: a block of 4 MB is an event of more than 10 MB here.
const MAX_BYTES: usize = 64 << 20;
/// Events that are longer are left out for a client that is [`BEHIND`], bytes: it would hardly get
/// to their end before they are gone.
const HUGE: usize = 1 << 20;
/// Bytes of events that are newer.
const BEHIND: u64 = 32 << 20;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Messages,
    Connections,
    Mempool,
    Validation,
    Addrman,
    P2p,
    Log,
    Rpc,
    Ipc,
}

const KINDS: usize = 9;

/// The kind of what travels on a subject; nothing for what public tools do not know.
fn kind(subject: Subject) -> Option<Kind> {
    match subject {
        Subject::NetMsg => Some(Kind::Messages),
        Subject::NetConn => Some(Kind::Connections),
        Subject::Mempool => Some(Kind::Mempool),
        Subject::Validation => Some(Kind::Validation),
        Subject::Addrman => Some(Kind::Addrman),
        Subject::P2pExtractor => Some(Kind::P2p),
        Subject::LogExtractor => Some(Kind::Log),
        Subject::Rpc => Some(Kind::Rpc),
        Subject::Ipc => Some(Kind::Ipc),
        _ => None,
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds([bool; KINDS]);

impl Kinds {
    /// Puts a kind in, if it is wanted.
    pub(crate) fn with(mut self, kind: Kind, wanted: impl Into<Option<bool>>) -> Self {
        self.0[kind as usize] = wanted.into().unwrap_or(false);
        self
    }

    fn has(self, kind: Kind) -> bool {
        self.0[kind as usize]
    }
}

#[derive(Debug)]
struct Item {
    number: u64,
    kind: Kind,
    text: Utf8Bytes,
    /// Bytes of all events until its end.
    end: u64,
}

#[derive(Debug, Default)]
struct Ring {
    items: VecDeque<Item>,
    bytes: usize,
    /// Bytes of all events there were.
    end: u64,
    /// Number of the last item.
    last: u64,
}

impl Ring {
    fn push(&mut self, kind: Kind, text: Utf8Bytes) {
        self.last += 1;
        self.bytes += text.len();
        self.end += text.len() as u64;
        self.items.push_back(Item { number: self.last, kind, text, end: self.end });
        while self.items.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.items.len() > 1) {
            let gone = self.items.pop_front();
            self.bytes -= gone.map_or(0, |item| item.text.len());
        }
    }
}

/// The ring, and who wants what.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    news: watch::Sender<u64>,
    wanted: [AtomicUsize; KINDS],
}

impl Default for Feed {
    fn default() -> Self {
        Feed { ring: Mutex::default(), news: watch::Sender::new(0), wanted: Default::default() }
    }
}

impl Feed {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events that somebody wants.
    pub(crate) fn observe(&self, deliveries: &[Delivery]) {
        if self.wanted.iter().all(|n| n.load(Ordering::Relaxed) == 0) {
            return;
        }
        let mut last = None;
        for delivery in deliveries {
            let Some(kind) = kind(delivery.subject) else { continue };
            if self.wanted[kind as usize].load(Ordering::Relaxed) == 0 {
                continue;
            }
            let Some(text) = json::to_json(&delivery.event) else { continue };
            let mut ring = self.ring();
            ring.push(kind, text.into());
            last = Some(ring.last);
        }
        if let Some(last) = last {
            self.news.send_replace(last);
        }
    }

    /// A reader that wants nothing yet.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            feed: self,
            kinds: Kinds::default(),
            since: [0; KINDS],
            next: 0,
            news: self.news.subscribe(),
        }
    }
}

/// What a reader took.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Events that were gone before they could be read, or left out.
    pub(crate) skipped: u64,
    /// Number of an event that is too long for a frame, and comes next: see [`Reader::part`].
    pub(crate) long: Option<u64>,
}

/// Reads what it wants, from when it began to want it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    feed: &'a Feed,
    kinds: Kinds,
    /// The first event of each kind that it wants.
    since: [u64; KINDS],
    next: u64,
    news: watch::Receiver<u64>,
}

impl Reader<'_> {
    /// Wants these kinds from now on. What it wanted all along and has not read yet, it still gets.
    pub(crate) fn want(&mut self, kinds: Kinds) {
        let next = self.feed.ring().last + 1;
        for kind in 0..KINDS {
            match (self.kinds.0[kind], kinds.0[kind]) {
                (false, true) => {
                    self.since[kind] = next;
                    self.feed.wanted[kind].fetch_add(1, Ordering::Relaxed);
                }
                (true, false) => {
                    self.feed.wanted[kind].fetch_sub(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        if self.kinds == Kinds::default() {
            self.next = next;
        }
        self.kinds = kinds;
    }

    /// Waits until there may be something new.
    pub(crate) async fn wait(&mut self) {
        // The feed lives as long as the server, so this cannot fail.
        let _ = self.news.changed().await;
    }

    /// Events that are there and were not taken, of all kinds.
    pub(crate) fn unread(&self) -> u64 {
        (self.feed.ring().last + 1).saturating_sub(self.next)
    }

    /// Takes the next events, about `bytes` of them, up to one that is too long for a frame.
    pub(crate) fn take(&mut self, bytes: usize, out: &mut Vec<Utf8Bytes>) -> Taken {
        let ring = self.feed.ring();
        let first = ring.items.front().map_or(ring.last + 1, |item| item.number);
        // Some of them may have been of kinds that it does not want: it is not known any more.
        let mut skipped = first.saturating_sub(self.next.max(1));
        let begin = self.next.max(first).saturating_sub(first) as usize;
        self.next = self.next.max(first);
        let mut taken = 0;
        for item in ring.items.range(begin.min(ring.items.len())..) {
            if taken >= bytes {
                break;
            }
            self.next = item.number + 1;
            if !self.kinds.has(item.kind) || item.number < self.since[item.kind as usize] {
                continue;
            }
            if item.text.len() > HUGE && ring.end - item.end > BEHIND {
                skipped += 1;
            } else if item.text.len() > FRAME {
                return Taken { skipped, long: Some(item.number) };
            } else {
                taken += item.text.len();
                out.push(item.text.clone());
            }
        }
        Taken { skipped, long: None }
    }

    /// A frame of a long event from `at` on, and whether it is the last one. `None` when the event
    /// is gone.
    pub(crate) fn part(&self, number: u64, at: usize) -> Option<(Bytes, bool)> {
        let ring = self.feed.ring();
        let first = ring.items.front()?.number;
        let text = ring.items.get(usize::try_from(number.checked_sub(first)?).ok()?)?.text.as_bytes();
        let end = text.len().min(at + FRAME);
        // A copy: a part of the event would keep all of it.
        Some((Bytes::copy_from_slice(text.get(at..end)?), end == text.len()))
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.want(Kinds::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(kind: Kind) -> Kinds {
        Kinds::default().with(kind, true)
    }

    fn push(feed: &Feed, kind: Kind, text: &str) {
        feed.ring().push(kind, text.to_owned().into());
    }

    /// Whole events, long ones too; and how many were left out.
    fn read(reader: &mut Reader<'_>, out: &mut Vec<String>) -> u64 {
        let mut skipped = 0;
        loop {
            let mut short = Vec::new();
            let taken = reader.take(usize::MAX, &mut short);
            out.extend(short.iter().map(|text| text.to_string()));
            skipped += taken.skipped;
            let Some(number) = taken.long else { return skipped };
            let mut text = Vec::new();
            while let Some((part, is_last)) = reader.part(number, text.len()) {
                assert!(part.len() <= FRAME);
                text.extend_from_slice(&part);
                if is_last {
                    break;
                }
            }
            out.push(String::from_utf8(text).unwrap());
        }
    }

    #[test]
    fn a_reader_gets_what_it_wants_from_when_it_wanted_it() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        push(&feed, Kind::Log, "before");
        reader.want(only(Kind::Log));
        push(&feed, Kind::Log, "1");
        push(&feed, Kind::Rpc, "2");
        push(&feed, Kind::Log, "3");
        let mut out = Vec::new();
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out, ["1", "3"]);
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn a_reader_that_changes_its_mind_loses_nothing_of_what_it_wanted_all_along() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        let both = only(Kind::Log).with(Kind::Rpc, true);
        reader.want(only(Kind::Log));
        push(&feed, Kind::Log, "1");
        push(&feed, Kind::Rpc, "not wanted yet");
        reader.want(both);
        push(&feed, Kind::Rpc, "2");
        push(&feed, Kind::Log, "3");
        let mut out = Vec::new();
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out, ["1", "2", "3"]);
        // What it does not want any more is gone, also when it wants it again.
        push(&feed, Kind::Rpc, "not wanted");
        push(&feed, Kind::Log, "4");
        reader.want(only(Kind::Log));
        reader.want(both);
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out[3..], ["4"]);
        push(&feed, Kind::Log, "not wanted");
        reader.want(Kinds::default());
        reader.want(both);
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out.len(), 4);
    }

    #[test]
    fn what_is_lost_before_a_reader_changes_its_mind_is_told() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        reader.want(only(Kind::Log));
        for i in 0..MAX_EVENTS + 10 {
            push(&feed, Kind::Log, &i.to_string());
        }
        reader.want(only(Kind::Log).with(Kind::Rpc, true));
        let mut out = Vec::new();
        assert_eq!((read(&mut reader, &mut out), out.len()), (10, MAX_EVENTS));
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed_and_memory_is_bounded() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        reader.want(only(Kind::Log));
        let large = "x".repeat(1 << 20);
        for _ in 0..100 {
            push(&feed, Kind::Log, &large);
        }
        assert!(feed.ring().bytes <= MAX_BYTES);
        let mut out = Vec::new();
        let skipped = read(&mut reader, &mut out);
        assert_eq!(skipped + out.len() as u64, 100);
        assert!(skipped > 0);
    }

    #[test]
    fn what_nobody_wants_is_not_made() {
        let feed = Feed::default();
        let tour = crate::tour::tour();
        feed.observe(&tour);
        assert_eq!(feed.ring().last, 0);
        let mut reader = feed.reader();
        reader.want(only(Kind::Validation));
        feed.observe(&tour);
        let blocks = tour.iter().filter(|delivery| delivery.subject == Subject::Validation).count();
        assert!(blocks > 0);
        assert_eq!(feed.ring().last, blocks as u64);
        drop(reader);
        feed.observe(&tour);
        assert_eq!(feed.ring().last, blocks as u64);
    }

    #[test]
    fn long_event_is_read_frame_by_frame() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        reader.want(only(Kind::Log));
        let texts = ["a".into(), "ü".repeat(FRAME), "b".into(), "x".repeat(FRAME), "y".repeat(FRAME + 1)];
        texts.iter().for_each(|text| push(&feed, Kind::Log, text));
        let mut out = Vec::new();
        assert_eq!(read(&mut reader, &mut out), 0);
        assert_eq!(out, texts);
    }

    #[test]
    fn unread_long_event_is_not_kept() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        reader.want(only(Kind::Log));
        push(&feed, Kind::Log, &"x".repeat(4 << 20));
        let long = reader.take(usize::MAX, &mut Vec::new()).long.unwrap();
        assert!(reader.part(long, 0).is_some());
        for _ in 0..16 {
            push(&feed, Kind::Log, &"y".repeat(4 << 20));
        }
        assert_eq!(reader.part(long, FRAME), None);
    }

    #[test]
    fn huge_events_are_left_out_for_those_behind() {
        let feed = Feed::default();
        let mut reader = feed.reader();
        reader.want(only(Kind::Log));
        for (i, length) in [2 * HUGE, HUGE, HUGE, BEHIND as usize, 2 * HUGE].into_iter().enumerate() {
            push(&feed, Kind::Log, &i.to_string().repeat(length));
        }
        let mut out = Vec::new();
        assert_eq!(read(&mut reader, &mut out), 1);
        assert_eq!(out.iter().map(|text| &text[..1]).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    }
}
