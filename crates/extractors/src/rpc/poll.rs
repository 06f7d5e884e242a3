//! Asks for one method again and again.
//!
//! Every method has a task of its own, so a slow one delays no other, and has at most one call in progress.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peer_observer_bus::{Publisher, now_ns};
use peer_observer_events::PeerObserverEvent;
use peer_observer_events::proto::rpc_extractor::{Rpc, rpc::RpcEvent};
use peer_observer_node::rpc::{self, Client};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};

use super::config::MIN_PAYLOAD;
use super::convert;
use super::fit::{Fitted, How, fit};
use super::methods::{Call, Method};
use super::metrics::{Count, Metrics};
use super::node::{Away, Node};

/// A node that is away or starting is asked again after this time at most, so that nothing is missed of its first minutes.
const SOON: Duration = Duration::from_secs(5);
/// A method whose last call took longer leaves one connection to the others.
const SLOW: Duration = Duration::from_secs(1);
/// Threads of the runtime's blocking pool that read answers at once, for all nodes together: the rest of
/// the pool is for others.
const MAX_READERS: usize = 4;
static READERS: Semaphore = Semaphore::const_new(MAX_READERS);
/// Unknown fields that are named in the log.
const MAX_NAMED: usize = 256;

/// What the tasks of all methods share.
pub(super) struct Shared {
    pub(super) client: Arc<Client>,
    pub(super) node: Node,
    pub(super) name: Arc<str>,
    pub(super) max_payload: usize,
    pub(super) publisher: Mutex<Publisher>,
    pub(super) metrics: Mutex<Metrics>,
    pub(super) named: Mutex<BTreeSet<(Method, String)>>,
}

/// Why a round brought no event.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    #[error(transparent)]
    Convert(#[from] convert::Error),
    #[error("reading the answer failed, please report this: {0}")]
    Crashed(#[from] JoinError),
}

/// When to ask again.
enum Next {
    InTurn,
    Soon,
    AfterRestart,
}

/// Asks for `method` every so often, for ever.
pub(super) async fn poll(shared: Arc<Shared>, method: Method, every: Duration) {
    let mut restarts = shared.node.restarts();
    let mut trouble = Trouble { method, last: None };
    let mut turn = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        sleep_until(turn).await;
        restarts.mark_unchanged();
        let next = match round(&shared, method, &mut took).await {
            Ok(()) => {
                trouble.is_over();
                Next::InTurn
            }
            Err(error) => after_error(&shared, method, &error, &mut trouble),
        };
        let now = Instant::now();
        turn = match next {
            Next::InTurn => {
                let (next, missed) = next_turn(turn, every, now);
                shared.metrics().count(Count::MissedRound, method, missed);
                next
            }
            Next::Soon => now + every.min(SOON),
            Next::AfterRestart => {
                // The sender is in `shared`, so this ends with a restart or with the extractor.
                let _ = restarts.changed().await;
                Instant::now()
            }
        };
    }
}

/// The next turn that is not over yet, and how many are.
fn next_turn(turn: Instant, every: Duration, now: Instant) -> (Instant, u64) {
    let late = now.saturating_duration_since(turn + every);
    let missed = u32::try_from(late.as_nanos() / every.as_nanos().max(1)).unwrap_or(u32::MAX);
    (turn + every + every.saturating_mul(missed), u64::from(missed))
}

fn after_error(shared: &Shared, method: Method, error: &Error, trouble: &mut Trouble) -> Next {
    let Error::Rpc(failed) = error else {
        shared.metrics().count(Count::ModelError, method, 1);
        trouble.tell(error);
        return Next::InTurn;
    };
    shared.metrics().count(Count::FetchError, method, 1);
    match shared.node.failed(failed) {
        Some(Away::Unreachable | Away::Taken | Away::WarmingUp) => return Next::Soon,
        // Bitcoin Core slows down callers with a wrong login, and logs them.
        Some(Away::Locked) => return Next::InTurn,
        None => {}
    }
    if failed.is_unknown_method() {
        shared.node.answers();
        shared.metrics().count(Count::SwitchedOff, method, 1);
        tracing::warn!(
            method = method.name(),
            "the node does not have this method, switched off until it is restarted"
        );
        return Next::AfterRestart;
    }
    trouble.tell(error);
    Next::InTurn
}

/// Asks once, and publishes what comes. `took` is how long the last call took, answered or not.
async fn round(shared: &Arc<Shared>, method: Method, took: &mut Duration) -> Result<(), Error> {
    for call in method.calls() {
        let connection = match *took > SLOW {
            true => shared.client.slow_connection().await,
            false => shared.client.connection().await,
        };
        let begin = Instant::now();
        let answered = connection.call(method.name(), &call.params()).await;
        *took = begin.elapsed();
        drop(connection);
        let answer = answered?;
        let time_ns = now_ns();
        shared.metrics().fetched(method, *took);
        shared.node.answers();
        let max_payload = shared.max_payload();
        // An address manager is 20 MB of JSON: too much for a thread that others wait for.
        let read = on_reader(move || read(call, &answer, max_payload, time_ns)).await;
        let (fitted, unknown) = read??;
        if let [PeerObserverEvent::RpcExtractor(Rpc { rpc_event: Some(event) })] = &fitted.events[..] {
            match event {
                RpcEvent::Uptime(seconds) => shared.node.runs_for(Duration::from_secs((*seconds).into())),
                RpcEvent::NetworkInfo(info) => shared.node.is_version(&info.subversion),
                _ => {}
            }
        }
        shared.name_unknown(method, unknown);
        shared.publish(method, time_ns, fitted);
    }
    Ok(())
}

/// Runs `read` on a thread of the runtime's blocking pool, once fewer than [`MAX_READERS`] are taken.
async fn on_reader<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    let permit = READERS.acquire().await.expect("the semaphore is never closed");
    let reader = tokio::task::spawn_blocking(move || {
        // The thread is taken until the end, also when nobody waits for the answer any more.
        let _permit = permit;
        read()
    });
    reader.await
}

fn read(
    call: Call,
    answer: &rpc::Answer,
    max_payload: usize,
    time_ns: u64,
) -> Result<(Fitted, BTreeMap<String, u64>), convert::Error> {
    let (event, unknown) = call.event(answer)?;
    Ok((fit(event, max_payload, time_ns), unknown))
}

impl Shared {
    /// The metrics are numbers and stay usable even if a thread should have failed with them.
    pub(super) fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest event that may go out, bytes: what the settings say, or the server, if that is less. Less than the least that
    /// settings can say would make thousands of parts of one answer.
    fn max_payload(&self) -> usize {
        let publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        self.max_payload.min(publisher.max_payload().unwrap_or(usize::MAX).max(MIN_PAYLOAD))
    }

    fn publish(&self, method: Method, time_ns: u64, fitted: Fitted) {
        {
            let mut metrics = self.metrics();
            metrics.count(Count::Events, method, fitted.events.len() as u64);
            match fitted.how {
                How::Whole | How::InParts => {}
                How::WithoutRawTransactions => metrics.count(Count::Shortened, method, 1),
                // The bus tells of the loss, if it is one: within a process there is no limit.
                How::TooLarge => metrics.count(Count::PublishError, method, 1),
            }
        }
        let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = publisher.batch();
        for event in fitted.events {
            batch.publish(&self.name, time_ns, event);
        }
    }

    /// Counts fields that are not known, and names each once.
    fn name_unknown(&self, method: Method, unknown: BTreeMap<String, u64>) {
        if unknown.is_empty() {
            return;
        }
        self.metrics().count(Count::UnknownField, method, unknown.values().sum());
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for field in unknown.into_keys() {
            let key = (method, field);
            if named.len() < MAX_NAMED && !named.contains(&key) {
                tracing::info!(
                    method = method.name(),
                    field = key.1,
                    "the node answers a field that is not known here"
                );
                named.insert(key);
            }
        }
    }
}

/// What is wrong with one method. Told when it begins, becomes something else, and ends.
struct Trouble {
    method: Method,
    last: Option<Kind>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Rpc(std::mem::Discriminant<rpc::Error>),
    Refused(i64),
    Convert,
    Crashed,
}

impl Trouble {
    fn tell(&mut self, error: &Error) {
        let kind = match error {
            Error::Rpc(rpc::Error::Refused { code, .. }) => Kind::Refused(*code),
            Error::Rpc(error) => Kind::Rpc(std::mem::discriminant(error)),
            Error::Convert(_) => Kind::Convert,
            Error::Crashed(_) => Kind::Crashed,
        };
        let method = self.method.name();
        if self.last.replace(kind) == self.last {
            tracing::debug!(method, %error, "still no answer");
        } else {
            tracing::warn!(method, %error, "no answer");
        }
    }

    fn is_over(&mut self) {
        if self.last.take().is_some() {
            tracing::info!(method = self.method.name(), "answered again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use peer_observer_testkit::{LONG, wait_until};

    use super::*;

    #[test]
    fn readers_leave_the_blocking_pool_to_others() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(MAX_READERS + 1)
            .enable_all()
            .build()
            .unwrap();
        // How many read, and whether they may end.
        let state = Arc::new((Mutex::new((0, false)), Condvar::new()));
        let readers: Vec<_> = (0..3 * MAX_READERS)
            .map(|_| {
                let state = state.clone();
                runtime.spawn(on_reader(move || {
                    let (lock, changed) = &*state;
                    let mut reading = lock.lock().unwrap();
                    reading.0 += 1;
                    while !reading.1 {
                        reading = changed.wait(reading).unwrap();
                    }
                }))
            })
            .collect();
        assert!(wait_until(LONG, || state.0.lock().unwrap().0 >= MAX_READERS));
        let other = runtime.spawn_blocking(|| ());
        let is_served = runtime.block_on(async { tokio::time::timeout(LONG, other).await.is_ok() });
        let reading = state.0.lock().unwrap().0;
        state.0.lock().unwrap().1 = true;
        state.1.notify_all();
        for reader in readers {
            runtime.block_on(reader).unwrap().unwrap();
        }
        assert!(is_served && reading == MAX_READERS, "{reading} readers at once");
    }

    #[test]
    fn turns_that_are_over_are_counted_and_left_out() {
        let every = Duration::from_secs(10);
        let turn = Instant::now();
        for (took, next, missed) in
            [(0, 10, 0), (9, 10, 0), (10, 10, 0), (11, 10, 0), (20, 20, 1), (47, 40, 3)]
        {
            let now = turn + Duration::from_secs(took);
            assert_eq!(
                next_turn(turn, every, now),
                (turn + Duration::from_secs(next), missed),
                "took {took} s"
            );
        }
    }
}
