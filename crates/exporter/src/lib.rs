//! Metrics for Prometheus, for every part of peer-observer that has some.
//!
//! Small and our own, because what counts has to be as cheap as an addition and bounded whatever peers send, which the usual
//! libraries are not.
//!
//! | module | what it is for |
//! |---|---|
//! | [`registry`] | families of metrics and their values |
//! | [`labels`] | label values that peers choose, in bounded memory |
//! | [`render`] | the text that Prometheus reads |
//! | [`server`] | serves that text |
//! | [`listener`] | accepts connections so that no client keeps others out; the live page and the P2P port use it, too |
//! | [`host`] | the names a server answers to; the live page uses it, too |
//! | [`worker`] | a thread for work that blocks |
//! | [`throttle`] | bounds log lines that others can provoke |

pub mod host;
pub mod labels;
pub mod listener;
pub mod registry;
pub mod render;
pub mod server;
pub mod throttle;
pub mod worker;
