//! What extractors and tools have in common.

use std::fmt::Display;
use std::net::{TcpListener, ToSocketAddrs};

/// What `doctor` has to say of one thing that a component needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// It is as it should be.
    pub ok: bool,
    /// What was looked at and what was found, one line.
    pub what: String,
    /// What the user can do about it, when it is not as it should be.
    pub fix: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn good(what: impl Into<String>) -> Self {
        Finding { ok: true, what: what.into(), fix: None }
    }

    /// It is not as it should be; `fix` says what to do.
    pub fn bad(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { ok: false, what: what.into(), fix: Some(fix.into()) }
    }

    /// Whether `address` can be listened on, so that `what` can `act` there, as in `"metrics", "be served at"`. `flag` is how a user
    /// sets the address.
    pub fn listens(what: &str, act: &str, address: impl ToSocketAddrs + Display, flag: &str) -> Self {
        match TcpListener::bind(&address) {
            Ok(_) => Finding::good(format!("{what} can {act} {address}")),
            Err(error) => Finding::bad(
                format!("{what} cannot {act} {address}: {error}"),
                format!("stop what uses that port, or choose another with {flag}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_found_with_the_flag_that_changes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let found = Finding::listens("metrics", "be served at", taken, "--metrics-address");
        assert!(!found.ok, "{found:?}");
        assert!(found.what.starts_with(&format!("metrics cannot be served at {taken}: ")), "{found:?}");
        assert!(found.fix.is_some_and(|fix| fix.ends_with("--metrics-address")));
        let free = Finding::listens("nodes", "dial", "127.0.0.1:0", "--p2p-address");
        assert_eq!(free, Finding::good("nodes can dial 127.0.0.1:0"));
    }
}
