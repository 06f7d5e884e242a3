//! What flows through peer-observer: the schema's types, their text and JSON forms, and the order they come in.
//!
//! No I/O and no runtime here, so that whatever reads events (a tool, an archive, another program) can depend on this
//! crate alone.
//!
//! | module | what it is for |
//! |---|---|
//! | [`conn_type`] | names of connection types |
//! | [`peek`] | the origin of an encoded event, without decoding it; what is accepted from a bus |
//! | [`decode`] | from the payload of a P2P message to the schema |
//! | [`display`] | events as text, one line each |
//! | [`json`] | events as JSON |
//! | [`proto`] | the generated types of `proto/` |
//! | [`subject`] | where on the bus which event travels |
//! | [`sequence`] | numbering streams |
//! | [`gaps`] | finding what is missing in streams, and publishers that fall silent |

pub mod conn_type;
pub mod decode;
pub mod display;
pub mod gaps;
pub mod json;
pub mod peek;
pub mod proto;
pub mod sequence;
pub mod subject;

pub use gaps::{Gap, GapTracker};
pub use proto::event::Event;
pub use proto::event::event::PeerObserverEvent;
pub use sequence::Sequencer;
pub use subject::Subject;
