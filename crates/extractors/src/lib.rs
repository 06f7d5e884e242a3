//! Extractors of peer-observer: from a node's interfaces to events.
