//! What is known of the node as a whole: whether it can be asked, and when it was restarted.
//!
//! Methods are asked side by side, so a node that is away fails all of them. That is one thing to tell, not fourteen.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer_observer_node::rpc::Error;
use tokio::sync::watch;

/// Two times of start that differ by less are the same: uptime is in whole seconds, and an answer takes its time.
const SAME_START: Duration = Duration::from_secs(3);

/// Why no method at all can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    /// No connection, or no cookie: it does not run.
    Unreachable,
    /// Another user listens in its place.
    Taken,
    /// It is starting.
    WarmingUp,
    /// It runs, but does not let us in.
    Locked,
}

/// The node, as its answers show it.
#[derive(Debug)]
pub(super) struct Node {
    state: Mutex<State>,
    restarts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    away: Option<Away>,
    started: Option<Instant>,
    version: Option<String>,
}

impl Node {
    /// A node of which nothing is known.
    pub(super) fn new() -> Self {
        Node { state: Mutex::default(), restarts: watch::Sender::new(0) }
    }

    /// Changes when the node may be another one than before: a newer version, with methods that the old one did not have.
    pub(super) fn restarts(&self) -> watch::Receiver<u64> {
        self.restarts.subscribe()
    }

    /// A method was answered, or refused for a reason of its own.
    pub(super) fn answers(&self) {
        let was_away = self.state().away.take();
        if was_away.is_some() {
            tracing::info!("the node answers RPC calls again");
            self.restarts.send_modify(|n| *n += 1);
        }
    }

    /// A call failed. Says whether, and why, no other call can do better.
    pub(super) fn failed(&self, error: &Error) -> Option<Away> {
        let away = match error {
            Error::Connect { .. } => Away::Unreachable,
            // A node that ends in order takes its cookie with it.
            Error::LoginFile { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Away::Unreachable
            }
            Error::Stranger { .. } => Away::Taken,
            Error::LoginFile { .. } | Error::LoginForm { .. } | Error::Unauthorized { .. } => Away::Locked,
            error if error.is_warming_up() => Away::WarmingUp,
            _ => return None,
        };
        let before = self.state().away.replace(away);
        if before == Some(away) {
            return Some(away);
        }
        match away {
            Away::WarmingUp => tracing::info!(%error, "the node is starting, waiting for it"),
            Away::Unreachable | Away::Taken | Away::Locked => {
                tracing::warn!(%error, fix = super::fix(error), "trying again until it works");
            }
        }
        Some(away)
    }

    /// The node says how long it runs.
    pub(super) fn runs_for(&self, uptime: Duration) {
        let Some(started) = Instant::now().checked_sub(uptime) else { return };
        let before = self.state().started.replace(started);
        if before.is_some_and(|before| started > before + SAME_START) {
            tracing::info!("the node was restarted");
            self.restarts.send_modify(|n| *n += 1);
        }
    }

    /// The node says which version it is (its `subversion`).
    pub(super) fn is_version(&self, version: &str) {
        let mut state = self.state();
        if state.version.as_deref() != Some(version) {
            tracing::info!(version, "the node says what it is");
            state.version = Some(version.to_owned());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64) -> Error {
        Error::Refused { method: "m".into(), code, message: String::new() }
    }

    #[test]
    fn a_node_is_away_until_it_answers_and_then_may_be_another() {
        let node = Node::new();
        let mut restarts = node.restarts();
        assert_eq!(node.failed(&refused(-28)), Some(Away::WarmingUp));
        let stranger = Error::Stranger { host: String::new(), uid: 1 };
        assert_eq!(node.failed(&stranger), Some(Away::Taken));
        assert_eq!(node.failed(&Error::Unauthorized { host: String::new() }), Some(Away::Locked));
        for kind in [std::io::ErrorKind::NotFound, std::io::ErrorKind::PermissionDenied] {
            let error = Error::LoginFile { path: "/c".into(), source: kind.into() };
            let expected =
                if kind == std::io::ErrorKind::NotFound { Away::Unreachable } else { Away::Locked };
            assert_eq!(node.failed(&error), Some(expected));
        }
        assert!(!restarts.has_changed().unwrap());
        node.answers();
        assert!(restarts.has_changed().unwrap());
        restarts.mark_unchanged();
        node.answers();
        assert!(!restarts.has_changed().unwrap());
    }

    #[test]
    fn what_one_method_suffers_is_nothing_of_the_node() {
        let node = Node::new();
        assert_eq!(node.failed(&refused(-32601)), None);
        assert_eq!(node.failed(&Error::Busy { method: "m".into() }), None);
        let error = Error::Timeout { method: "m".into(), limit: Duration::ZERO };
        assert_eq!(node.failed(&error), None);
    }

    #[test]
    fn an_uptime_that_goes_back_is_a_restart() {
        let node = Node::new();
        let restarts = node.restarts();
        for uptime in [5000, 5001, 5000, 5002] {
            node.runs_for(Duration::from_secs(uptime));
        }
        assert!(!restarts.has_changed().unwrap());
        node.runs_for(Duration::from_secs(10));
        assert!(restarts.has_changed().unwrap());
    }
}
