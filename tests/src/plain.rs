//! A NATS client that knows nothing of peer-observer: what anybody sees on the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use peer_observer_events::proto::observer::{Books, Origin};
use peer_observer_events::{Event, PeerObserverEvent, Subject};
use prost::Message;

use crate::LONG;

/// A message as it was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// Subject.
    pub subject: String,
    /// Payload.
    pub payload: Bytes,
}

impl Published {
    /// The event that it is.
    ///
    /// # Panics
    /// When it is none.
    pub fn event(&self) -> (Subject, Event) {
        let subject = Subject::parse(&self.subject).expect("a subject of the protocol");
        (subject, Event::decode(self.payload.clone()).expect("an event"))
    }

    /// Whether it is the tracepoint counters of a process: positions of streams have the same
    /// subject.
    ///
    /// # Panics
    /// When it is no event.
    pub fn is_books(&self) -> bool {
        self.subject == Subject::Books.as_str()
            && matches!(self.event().1.peer_observer_event, Some(PeerObserverEvent::Books(_)))
    }
}

/// Takes everything that is published.
#[derive(Debug)]
pub struct Listener {
    messages: Arc<Mutex<Vec<Published>>>,
    client: async_nats::Client,
}

impl Listener {
    /// Subscribes to everything that matches `pattern`, and returns when the server knows it.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn start(url: &str, pattern: &str) -> Self {
        let client = connect(url).await;
        let mut subscriber = client.subscribe(pattern.to_owned()).await.expect("cannot subscribe");
        client.flush().await.expect("the server does not answer");
        let messages = Arc::<Mutex<Vec<Published>>>::default();
        let to = messages.clone();
        tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let published = Published { subject: message.subject.to_string(), payload: message.payload };
                to.lock().unwrap_or_else(PoisonError::into_inner).push(published);
            }
        });
        Listener { messages, client }
    }

    /// What has come so far, in order.
    pub fn messages(&self) -> MutexGuard<'_, Vec<Published>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its connection, to publish with.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }
}

/// Connects, and comes back at once after an outage.
///
/// # Panics
/// When there is no server.
pub async fn connect(url: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new()
        .subscription_capacity(1 << 20)
        .reconnect_delay_callback(|_| Duration::from_millis(2));
    let connected = tokio::time::timeout(LONG, options.connect(url)).await;
    connected.expect("the server does not answer").expect("cannot connect")
}

/// Node of the events that [`knock`] publishes.
pub const KNOCKER: &str = "knocker";

/// Publishes empty books of a node that is none until `is_heard` says that they arrive: a tool that is connected to the server may
/// not be subscribed yet, and what comes before that is not lost, but not seen either.
///
/// # Panics
/// When nobody hears it.
pub async fn knock(client: &async_nats::Client, mut is_heard: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    let mut sequence = 0;
    while !is_heard() {
        assert!(tokio::time::Instant::now() < deadline, "nobody hears what is published");
        sequence += 1;
        let origin = Origin {
            node: KNOCKER.into(),
            extractor: 0,
            session: 1,
            sequence,
            time_ns: 0,
            ..Origin::default()
        };
        let books = PeerObserverEvent::Books(Books { pid: 0, tracepoints: Vec::new() });
        let event = Event { timestamp: 0, origin: Some(origin), peer_observer_event: Some(books) };
        let subject = Subject::Books.as_str();
        client.publish(subject, event.encode_to_vec().into()).await.expect("cannot publish");
        client.flush().await.expect("the server does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
