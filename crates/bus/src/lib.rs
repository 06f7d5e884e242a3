//! How events get from extractors to tools: inside one process, or over NATS between many.
//!
//! Extractors see a [`Publisher`], tools a [`Subscriber`]; neither knows which bus it is on. What both buses promise:
//!
//! - Order is kept from one publisher to each subscriber, over all subjects.
//! - Memory is bounded everywhere. What does not fit is dropped where it does not fit, counted there, and told to everyone
//!   once, as a `loss` event; a number in the stream is given only to what is really published, so nothing is counted twice.
//! - A slow or dead subscriber takes nothing from anyone else.
//!
//! | module | what it is for |
//! |---|---|
//! | [`component`] | what extractors and tools have in common: findings for `doctor` |
//! | [`queue`] | the bounded queue in front of every subscriber and every connection |
//! | [`loss`] | counting losses until they are told |
//! | [`local`] | the bus inside one process |
//! | [`nats`] | the bus over a NATS server |
//! | publisher.rs, subscriber.rs | the two ends, the same on both buses |

pub mod component;
pub mod local;
pub mod loss;
pub mod nats;
mod publisher;
pub mod queue;
mod subscriber;

pub use component::Finding;
pub use nats::NatsConfig;
pub use publisher::{Batch, Progress, Publisher, PublisherStats};
pub use queue::Limits;
pub use subscriber::{Delivery, Subscriber, SubscriberStats};

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peer_observer_events::Subject;
use peer_observer_events::proto::observer::Source;

/// A bus: makes publishers and subscribers. A clone is the same bus.
#[derive(Clone)]
pub enum Bus {
    /// Within this process.
    Local(Arc<local::Hub>),
    /// Over a NATS server.
    Nats(Arc<nats::Nats>),
}

impl Bus {
    /// A bus within this process. Needs a tokio runtime.
    pub fn in_process() -> Self {
        Bus::Local(local::Hub::start())
    }

    /// A bus over a NATS server. Returns at once; connecting goes on in the background, for as long as it takes.
    ///
    /// # Errors
    /// When the configuration cannot work: a password file that cannot be read, a user without a password.
    pub fn nats(config: NatsConfig) -> Result<Self, nats::Error> {
        Ok(Bus::Nats(Arc::new(nats::Nats::new(config)?)))
    }

    /// A publisher with a session of its own.
    pub fn publisher(&self, source: Source, component: &'static str) -> Publisher {
        match self {
            Bus::Local(hub) => Publisher::local(hub.clone(), source, component),
            Bus::Nats(nats) => Publisher::spooled(nats.start_publisher(source, component), component),
        }
    }

    /// A subscriber to these subjects, from now on.
    pub fn subscriber(&self, component: &'static str, subjects: &[Subject], limits: Limits) -> Subscriber {
        match self {
            Bus::Local(hub) => hub.subscribe(component, subjects, limits),
            Bus::Nats(nats) => nats.start_subscriber(component, subjects, limits),
        }
    }

    /// Waits until everything that was published has been handed to the server, for as long as that takes.
    pub async fn drained(&self) {
        if let Bus::Nats(nats) = self {
            nats.drained().await;
        }
    }

    /// Ends the bus: what was published is delivered if that takes no longer than `patience`, then every subscriber sees
    /// the end. Returns the number of events that could not be handed over any more.
    pub async fn close(&self, patience: Duration) -> u64 {
        match self {
            Bus::Local(hub) => {
                hub.close();
                0
            }
            Bus::Nats(nats) => nats.close(patience).await,
        }
    }
}

/// ns since the UNIX epoch, by the clock of this machine.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
