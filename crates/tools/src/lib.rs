//! Tools of peer-observer: what is done with events.
//!
//! | module | what it does |
//! |---|---|
//! | [`connectivity`] | dials gossiped addresses, if allowed to, and says how many are real |
//! | [`logger`] | prints events, a line each |
//! | [`metrics`] | counts events for Prometheus |
//! | [`web`] | shows them on a live page |

pub mod connectivity;
pub mod logger;
pub mod metrics;
#[cfg(test)]
mod tour;
pub mod web;
