//! peer-observer.
fn main() {}
