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

pub mod labels;
pub mod registry;
pub mod render;
pub mod server;
