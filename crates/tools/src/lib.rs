//! Tools of peer-observer: what is done with events.
//!
//! | module | what it does |
//! |---|---|
//! | [`metrics`] | counts events for Prometheus |

pub mod metrics;
