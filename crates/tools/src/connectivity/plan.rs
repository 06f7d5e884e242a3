//! Which address is dialed when: a function of addresses, results and time, without a socket or a clock.
//!
//! Peers choose the addresses, so they could have us dial one network without pause, or fill our memory. Against that: a queue of a
//! fixed size, one try at a time and then none for an hour for each address, a rate for each netgroup and one for all, which also the
//! second connection to those counts for that hang up on v2. Whoever
//! tells of an address that waits or is being tried shares the result.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::Config;
use super::gossip::Heard;
use super::probe::{Outcome, Transport};
use super::target::{Skip, Target};

/// Time in which connections to a netgroup are counted.
const NETGROUP_TIME: Duration = Duration::from_secs(60);
/// Largest number of connections that are begun at once after a pause, so that a coarse clock does not lower the rate.
const BURST: u32 = 10;

/// What becomes of an address that was heard.
#[derive(Debug)]
pub(super) enum Offered {
    /// It is tried later.
    Waits,
    /// It was tried a short time ago.
    Cached(Arc<Outcome>),
    /// It is not tried.
    Skipped(Skip),
}

/// What can be done now.
#[derive(Debug)]
pub(super) enum Next {
    /// Dial this.
    Dial {
        target: Target,
        transport: Transport,
        /// Time that the connection before took, over v2.
        before: Duration,
        /// Position in the label `network`.
        network: usize,
    },
    /// These are not tried after all.
    Skipped(Vec<Heard>, Skip),
    /// Nothing until then.
    At(Instant),
    /// Nothing, until an address comes or a connection ends.
    Nothing,
}

/// An address that waits.
#[derive(Debug)]
struct Waiting {
    target: Target,
    /// Time that a connection over v2 took, until the other side hung up. Then it is tried over v1.
    hung_up: Option<Duration>,
}

/// The plan.
#[derive(Debug)]
pub(super) struct Plan {
    max_waiting: usize,
    concurrency: usize,
    interval: Duration,
    netgroup_rate: u32,
    queue: VecDeque<Waiting>,
    /// Who told of the addresses that wait or are being tried.
    heard: HashMap<Target, Vec<Heard>>,
    waiting: usize,
    dialing: usize,
    /// The earliest time for the next connection.
    next: Option<Instant>,
    netgroups: HashMap<IpAddr, u32>,
    netgroups_since: Option<Instant>,
    cache: Cache,
}

impl Plan {
    pub(super) fn new(config: &Config) -> Self {
        Plan {
            max_waiting: config.queue,
            concurrency: config.concurrency,
            interval: Duration::from_secs(1) / config.rate,
            netgroup_rate: config.netgroup_rate,
            queue: VecDeque::new(),
            heard: HashMap::new(),
            waiting: 0,
            dialing: 0,
            next: None,
            netgroups: HashMap::new(),
            netgroups_since: None,
            cache: Cache::new(config.cache_size, Duration::from_secs(config.cache_age)),
        }
    }

    /// Takes an address that leads to `target`. Is it not to wait, it is for the caller to tell what became of it.
    pub(super) fn offer(&mut self, target: Target, heard: &Heard, now: Instant) -> Offered {
        if let Some(outcome) = self.cache.get(&target, now) {
            return Offered::Cached(outcome);
        }
        if self.waiting >= self.max_waiting {
            return Offered::Skipped(Skip::Queue);
        }
        self.waiting += 1;
        match self.heard.get_mut(&target) {
            Some(others) => others.push(heard.clone()),
            None => {
                self.heard.insert(target.clone(), vec![heard.clone()]);
                self.queue.push_back(Waiting { target, hung_up: None });
            }
        }
        Offered::Waits
    }

    /// What to do at that time. Ask until there is nothing more to do.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.dialing >= self.concurrency {
            return Next::Nothing;
        }
        let Some(first) = self.queue.front() else { return Next::Nothing };
        if let Some(next) = self.next.filter(|next| *next > now) {
            return Next::At(next);
        }
        let netgroup = first.target.netgroup();
        let Some(Waiting { target, hung_up }) = self.queue.pop_front() else { return Next::Nothing };
        if netgroup.is_some_and(|netgroup| !self.may_dial(netgroup, now)) {
            return Next::Skipped(self.take(&target), Skip::Netgroup);
        }
        // What waits was heard of.
        let Some(heard) = self.heard.get(&target).and_then(|heard| heard.first()) else {
            return Next::Nothing;
        };
        let network = heard.network();
        let (transport, before) = match hung_up {
            Some(took) => (Transport::V1, took),
            None => (Transport::first_for(heard.address.services), Duration::ZERO),
        };
        let earliest = now.checked_sub(self.interval * BURST).unwrap_or(now);
        self.next = Some(self.next.unwrap_or(now).max(earliest) + self.interval);
        self.dialing += 1;
        Next::Dial { target, transport, before, network }
    }

    /// Takes that what was dialed over v2 hung up after that time: it is to be tried over v1, before all others, by a connection that
    /// counts as every other.
    pub(super) fn hung_up(&mut self, target: Target, took: Duration) {
        self.dialing = self.dialing.saturating_sub(1);
        self.queue.push_front(Waiting { target, hung_up: Some(took) });
    }

    /// Takes the result of what was dialed. Returns who told of the address: the first was answered by a connection, the others by
    /// what is known from it.
    pub(super) fn finish(&mut self, target: Target, outcome: Arc<Outcome>, now: Instant) -> Vec<Heard> {
        self.dialing = self.dialing.saturating_sub(1);
        let heard = self.take(&target);
        self.cache.insert(target, outcome, now);
        heard
    }

    /// Addresses that wait or are being tried, each as often as it was told of.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Connections that are being tried.
    pub(super) fn dialing(&self) -> usize {
        self.dialing
    }

    fn take(&mut self, target: &Target) -> Vec<Heard> {
        let heard = self.heard.remove(target).unwrap_or_default();
        self.waiting -= heard.len();
        heard
    }

    fn may_dial(&mut self, netgroup: IpAddr, now: Instant) -> bool {
        let since = *self.netgroups_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= NETGROUP_TIME {
            self.netgroups.clear();
            self.netgroups_since = Some(now);
        }
        let dialed = self.netgroups.entry(netgroup).or_default();
        if *dialed >= self.netgroup_rate {
            return false;
        }
        *dialed += 1;
        true
    }
}

/// Results, as long as they are believed.
#[derive(Debug)]
struct Cache {
    size: usize,
    age: Duration,
    results: HashMap<Target, (Arc<Outcome>, Instant)>,
    /// Oldest first.
    order: VecDeque<(Target, Instant)>,
}

impl Cache {
    fn new(size: usize, age: Duration) -> Self {
        Cache { size, age, results: HashMap::new(), order: VecDeque::new() }
    }

    fn get(&self, target: &Target, now: Instant) -> Option<Arc<Outcome>> {
        let (outcome, since) = self.results.get(target)?;
        (now.saturating_duration_since(*since) < self.age).then(|| outcome.clone())
    }

    fn insert(&mut self, target: Target, outcome: Arc<Outcome>, now: Instant) {
        while let Some((oldest, since)) = self.order.front() {
            if self.results.len() < self.size && now.saturating_duration_since(*since) < self.age {
                break;
            }
            self.results.remove(oldest);
            self.order.pop_front();
        }
        self.order.push_back((target.clone(), now));
        self.results.insert(target, (outcome, now));
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_events::proto::bitcoin_primitives::Address;

    use super::super::probe::Failure;
    use super::*;

    fn heard() -> Heard {
        let address = Address { timestamp: 0, services: 9, port: 8333, address: None };
        Heard { address, addr_version: 0, source: Arc::default(), time: 0 }
    }

    fn target(text: &str) -> Target {
        Target::Direct(format!("{text}:8333").parse().unwrap())
    }

    fn refused() -> Arc<Outcome> {
        Arc::new(Outcome::failed(Failure::Refused))
    }

    /// Dials whatever may be dialed at that time.
    fn dial(plan: &mut Plan, now: Instant) -> Vec<String> {
        let mut dialed = Vec::new();
        while let Next::Dial { target, transport, .. } = plan.next(now) {
            assert_eq!(transport, Transport::V1);
            dialed.push(target.to_string());
        }
        dialed
    }

    #[test]
    fn an_address_is_tried_once_for_all_who_tell_of_it_until_the_result_is_old() {
        let config = Config { cache_age: 60, ..Config::default() };
        let mut plan = Plan::new(&config);
        let now = Instant::now();
        for _ in 0..3 {
            assert!(matches!(plan.offer(target("1.2.3.4"), &heard(), now), Offered::Waits));
        }
        assert_eq!(dial(&mut plan, now), ["1.2.3.4:8333"]);
        assert!(matches!(plan.offer(target("1.2.3.4"), &heard(), now), Offered::Waits), "while it is tried");
        assert_eq!((plan.waiting(), plan.dialing()), (4, 1));
        assert_eq!(plan.finish(target("1.2.3.4"), refused(), now).len(), 4);
        assert_eq!((plan.waiting(), plan.dialing()), (0, 0));

        let later = now + Duration::from_secs(59);
        assert!(matches!(plan.offer(target("1.2.3.4"), &heard(), later), Offered::Cached(_)));
        assert!(matches!(plan.offer(target("1.2.3.5"), &heard(), later), Offered::Waits));
        let later = now + Duration::from_secs(60);
        assert!(matches!(plan.offer(target("1.2.3.4"), &heard(), later), Offered::Waits));
    }

    #[test]
    fn connections_begin_at_the_rate_and_no_more_than_allowed_are_open() {
        let config = Config { rate: 10, concurrency: 20, netgroup_rate: 1000, ..Config::default() };
        let mut plan = Plan::new(&config);
        let begin = Instant::now();
        for n in 0..100 {
            plan.offer(target(&format!("1.{n}.3.4")), &heard(), begin);
        }
        assert_eq!(dial(&mut plan, begin).len(), 1, "no burst at the start");
        let Next::At(next) = plan.next(begin) else { panic!("it is too early") };
        assert_eq!(next, begin + Duration::from_millis(100));
        for tenth in 1..10 {
            assert_eq!(dial(&mut plan, begin + Duration::from_millis(100) * tenth).len(), 1);
        }
        let dialed = dial(&mut plan, begin + Duration::from_secs(60));
        assert_eq!(dialed.len(), 10, "no more are open");
        assert!(matches!(plan.next(begin + Duration::from_secs(60)), Next::Nothing));
        for n in 0..20 {
            plan.finish(target(&format!("1.{n}.3.4")), refused(), begin + Duration::from_secs(60));
        }
        let after_pause = dial(&mut plan, begin + Duration::from_secs(3600));
        assert_eq!(after_pause.len(), BURST as usize + 1, "a pause is not made up for");
    }

    #[test]
    fn who_hangs_up_on_v2_is_tried_over_v1_within_the_limits() {
        let config = Config { rate: 10, netgroup_rate: 3, ..Config::default() };
        let mut plan = Plan::new(&config);
        let mut now = Instant::now();
        let mut said_to_speak_v2 = heard();
        said_to_speak_v2.address.services |= 1 << 11;
        for n in 0..3 {
            plan.offer(target(&format!("1.2.{n}.4")), &said_to_speak_v2, now);
        }
        let mut dialed = Vec::new();
        let mut skipped = 0;
        loop {
            match plan.next(now) {
                Next::Dial { target, transport, before, .. } => {
                    dialed.push((target.to_string(), transport, before));
                    assert!(matches!(plan.next(now), Next::At(at) if at == now + Duration::from_millis(100)));
                    match transport {
                        Transport::V2 => plan.hung_up(target, Duration::from_millis(7)),
                        Transport::V1 => assert_eq!(plan.finish(target, refused(), now).len(), 1),
                    }
                }
                Next::Skipped(heard, Skip::Netgroup) => skipped += heard.len(),
                Next::At(next) => now = next,
                other => {
                    assert!(matches!(other, Next::Nothing), "{other:?}");
                    break;
                }
            }
        }
        let first = "1.2.0.4:8333".to_owned();
        assert_eq!(dialed[0], (first.clone(), Transport::V2, Duration::ZERO));
        assert_eq!(dialed[1], (first, Transport::V1, Duration::from_millis(7)));
        assert_eq!(
            (dialed.len(), skipped),
            (3, 2),
            "3 connections to the netgroup, no matter over what: {dialed:?}"
        );
        assert_eq!((plan.waiting(), plan.dialing()), (0, 0));
    }

    #[test]
    fn one_neighbourhood_is_not_dialed_without_end() {
        let config = Config { rate: 1000, netgroup_rate: 3, concurrency: 900, ..Config::default() };
        let mut plan = Plan::new(&config);
        let mut now = Instant::now();
        let mut skipped = 0;
        let mut go = |plan: &mut Plan, now: &mut Instant| {
            let mut dialed = Vec::new();
            loop {
                match plan.next(*now) {
                    Next::Dial { target, .. } => dialed.push(target.netgroup().unwrap().to_string()),
                    Next::Skipped(heard, Skip::Netgroup) => skipped += heard.len(),
                    Next::At(next) => *now = next,
                    other => {
                        assert!(matches!(other, Next::Nothing), "{other:?}");
                        break dialed;
                    }
                }
            }
        };
        for n in 0..10 {
            plan.offer(target(&format!("1.2.{n}.4")), &heard(), now);
            plan.offer(target(&format!("1.3.{n}.4")), &heard(), now);
        }
        let dialed = go(&mut plan, &mut now);
        let of = |group| dialed.iter().filter(|dialed| *dialed == group).count();
        assert_eq!((of("1.2.0.0"), of("1.3.0.0")), (3, 3));
        now += NETGROUP_TIME;
        plan.offer(target("1.2.200.4"), &heard(), now);
        assert_eq!(go(&mut plan, &mut now).len(), 1, "a minute later");
        assert_eq!(skipped, 14);
        assert_eq!(plan.waiting(), 7, "what is being tried");
    }

    #[test]
    fn what_waits_and_what_is_remembered_is_bounded() {
        let config = Config { queue: 5, cache_size: 3, rate: 1000, ..Config::default() };
        let mut plan = Plan::new(&config);
        let now = Instant::now();
        let same = target("1.2.3.4");
        for _ in 0..5 {
            assert!(matches!(plan.offer(same.clone(), &heard(), now), Offered::Waits));
        }
        for again in [same, target("1.2.3.5")] {
            assert!(matches!(plan.offer(again, &heard(), now), Offered::Skipped(Skip::Queue)));
        }
        for n in 0..50 {
            plan.cache.insert(target(&format!("1.{n}.3.4")), refused(), now);
            assert!(plan.cache.results.len() <= 3 && plan.cache.order.len() <= 3);
        }
        assert!(plan.cache.get(&target("1.46.3.4"), now).is_none());
        assert!(plan.cache.get(&target("1.47.3.4"), now).is_some());
    }
}
