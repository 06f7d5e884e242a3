//! What tests of peer-observer run against: a stand-in node with real probes, a NATS spawner.
