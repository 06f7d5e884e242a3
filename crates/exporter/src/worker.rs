//! A thread for work that blocks, such as rendering a large page or reading `/proc`.
//!
//! tokio's blocking pool is shared by everything in the process: a component that fills it would
//! keep scrapes from being answered. A worker has its own thread and a bounded queue, and hands
//! over all waiting requests at once, so that equal ones are worked on once.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio::sync::oneshot;

type Job<Q, A> = (Q, oneshot::Sender<A>);

/// A thread that answers requests. It ends when this is dropped and the requests in its queue are
/// answered.
#[derive(Debug)]
pub struct Worker<Q, A> {
    queue: SyncSender<Job<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// Starts the thread. `work` gets all requests that wait, at most `capacity`, and returns their
    /// answers in the same order. If it panics, those requests have no answer and the thread goes
    /// on. Without a thread, no request is answered.
    pub fn start(name: &str, capacity: usize, work: impl FnMut(&[Q]) -> Vec<A> + Send + 'static) -> Self {
        let (queue, jobs) = sync_channel(capacity);
        let started: io::Result<_> =
            thread::Builder::new().name(name.into()).spawn(move || run(&jobs, capacity, work));
        if let Err(error) = started {
            tracing::error!(name, %error, "cannot start a thread");
        }
        Worker { queue }
    }

    /// Waits for the answer. `None` when the queue is full, or the work failed.
    pub async fn ask(&self, request: Q) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send((request, answer)).ok()?;
        answered.await.ok()
    }
}

fn run<Q, A>(jobs: &Receiver<Job<Q, A>>, capacity: usize, mut work: impl FnMut(&[Q]) -> Vec<A>) {
    while let Ok(first) = jobs.recv() {
        let rest = jobs.try_iter().take(capacity.saturating_sub(1));
        let (requests, clients): (Vec<_>, Vec<_>) = std::iter::once(first).chain(rest).unzip();
        // The panic hook has reported it.
        let Ok(answers) = catch_unwind(AssertUnwindSafe(|| work(&requests))) else { continue };
        for (client, answer) in clients.into_iter().zip(answers) {
            // The client may be gone.
            let _ = client.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn worker_takes_all_waiting_requests_at_once() {
        let (release, gate) = mpsc::sync_channel(8);
        let (started, starts) = mpsc::sync_channel(8);
        let worker = Worker::start("test", 3, move |requests: &[u32]| {
            started.send(requests.to_vec()).unwrap();
            gate.recv().unwrap();
            requests.iter().map(|n| n * 10).collect()
        });
        let (first, others, full) = tokio::join!(
            worker.ask(1),
            async {
                // The first is being worked on, so these three wait and fill the queue.
                assert_eq!(starts.recv().unwrap(), [1]);
                let waiting = async { tokio::join!(worker.ask(2), worker.ask(3), worker.ask(4)) };
                let release = async {
                    let full = worker.ask(5).await;
                    release.send(()).unwrap();
                    release.send(()).unwrap();
                    full
                };
                tokio::join!(waiting, release)
            },
            async {}
        );
        let ((second, third, fourth), refused) = others;
        assert_eq!((first, second, third, fourth), (Some(10), Some(20), Some(30), Some(40)));
        assert_eq!((refused, full), (None, ()));
        assert_eq!(starts.recv().unwrap(), [2, 3, 4]);
    }

    #[tokio::test]
    async fn worker_survives_a_panic() {
        let worker = Worker::start("test", 1, |requests: &[bool]| {
            assert!(!requests[0], "as the test wants it");
            vec![()]
        });
        assert_eq!(worker.ask(true).await, None);
        assert_eq!(worker.ask(false).await, Some(()));
    }
}
