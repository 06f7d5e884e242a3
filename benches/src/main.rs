//! Benchmarks of peer-observer.
fn main() {}
