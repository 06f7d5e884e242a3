//! Tools of peer-observer: what is done with events.
