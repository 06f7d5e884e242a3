//! The decoder against real payloads: what the public peer-observer made of them, and what another implementation makes of
//! them and of damaged copies.

mod contract;
mod differential;
mod recording;
