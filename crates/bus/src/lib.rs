//! Publish and subscribe for peer-observer: in-process and NATS.
