//! The bus inside one process: no copy, no encoding, an event is shared by all who subscribe.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use peer_observer_events::Subject;
use peer_observer_events::proto::observer::{Source, loss::Stage};

use crate::loss::{Complaint, LossBook, What};
use crate::now_ns;
use crate::publisher::{Stamper, weight};
use crate::queue::{Limits, Priority};
use crate::subscriber::{Delivery, Item, Mailbox, Subscriber};

struct Member {
    mailbox: Arc<Mailbox>,
    book: Mutex<LossBook>,
    complaint: Mutex<Complaint>,
}

/// Hands every event to every subscriber that wants it.
pub struct Hub {
    members: RwLock<Vec<Arc<Member>>>,
    // Numbers the `loss` events that the hub itself publishes.
    stamper: Mutex<Stamper>,
}

impl Hub {
    /// Starts a hub, with the task that tells losses once a second and ends with the hub.
    pub(crate) fn start() -> Arc<Self> {
        let hub =
            Arc::new(Hub { members: RwLock::default(), stamper: Mutex::new(Stamper::new(Source::Tool)) });
        let weak: Weak<Hub> = Arc::downgrade(&hub);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(hub) = weak.upgrade() else { return };
                hub.tell_losses();
            }
        });
        hub
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn subscribe(
        &self,
        component: &'static str,
        subjects: &[Subject],
        limits: Limits,
    ) -> Subscriber {
        let mailbox = Mailbox::new(component, subjects, limits);
        let member = Member {
            mailbox: mailbox.clone(),
            book: Mutex::new(LossBook::new(component)),
            complaint: Mutex::default(),
        };
        self.members.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(member));
        Subscriber::new(mailbox, None)
    }

    /// Hands on a batch in order.
    pub(crate) fn publish(&self, batch: &[Delivery]) {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        for member in members.iter() {
            let wanted = batch.iter().filter(|d| member.mailbox.wants(d.subject)).map(|d| {
                let priority = if d.subject == Subject::Loss { Priority::Reserve } else { Priority::Normal };
                (Item::Decoded(d.clone()), d.event.peer_observer_event.as_ref().map_or(0, weight), priority)
            });
            let mut refused = Vec::new();
            member.mailbox.queue.push_all(wanted, |item| refused.push(item));
            if !refused.is_empty() && !member.mailbox.gone.load(Ordering::Relaxed) {
                member.count_refused(refused);
            }
        }
    }

    fn tell_losses(&self) {
        for member in self.members() {
            let lost = member.mailbox.stats.lost_queue.load(Ordering::Relaxed);
            let mut complaint = member.complaint.lock().unwrap_or_else(PoisonError::into_inner);
            complaint.of_full_queue(member.mailbox.component, lost);
            let losses = member.book.lock().unwrap_or_else(PoisonError::into_inner).take();
            let batch: Vec<Delivery> = {
                let mut stamper = self.stamper.lock().unwrap_or_else(PoisonError::into_inner);
                losses
                    .into_iter()
                    .map(|(node, loss)| stamper.stamp(&node, now_ns(), loss, Subject::Loss))
                    .collect()
            };
            if !batch.is_empty() {
                self.publish(&batch);
            }
        }
        self.members
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|m| !m.mailbox.gone.load(Ordering::Relaxed));
    }

    /// Tells the last losses and ends: subscribers read what is there, then see the end.
    pub(crate) fn close(&self) {
        self.tell_losses();
        for member in self.members() {
            member.mailbox.queue.close();
        }
    }
}

impl Member {
    fn count_refused(&self, refused: Vec<Item>) {
        self.mailbox.stats.lost_queue.fetch_add(refused.len() as u64, Ordering::Relaxed);
        let now = now_ns();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for item in refused {
            let Item::Decoded(Delivery { subject, event }) = item else { continue };
            let origin = event.origin.as_ref();
            let what = What {
                stage: Stage::Subscriber,
                cause: "full",
                node: origin.map_or("", |o| o.node.as_str()).into(),
                subject: Some(subject),
                tracepoint: None,
                session: origin.map(|o| o.session),
            };
            book.add(what, 1, origin.map(|o| (o.sequence, o.sequence)), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use peer_observer_events::PeerObserverEvent;
    use peer_observer_events::proto::observer::{Loss, UtxoCache};

    use super::*;
    use crate::{Bus, Publisher};

    fn publish(publisher: &mut Publisher, n: usize) {
        let node: Arc<str> = "alice".into();
        let mut batch = publisher.batch();
        for i in 0..n {
            batch.publish(&node, i as u64, PeerObserverEvent::Utxocache(UtxoCache::default()));
        }
    }

    async fn all(subscriber: &mut Subscriber) -> Vec<Delivery> {
        let mut out = Vec::new();
        while subscriber.recv_many(&mut out, 100).await > 0 {}
        out
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_only_its_own_and_everyone_hears_of_it_once() {
        let bus = Bus::in_process();
        let both = [Subject::UtxoCache, Subject::Loss];
        let mut slow = bus.subscriber("slow", &both, Limits { events: 10, bytes: 1 << 20 });
        let mut fast = bus.subscriber("fast", &both, Limits::default());
        let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
        publish(&mut publisher, 1000);
        bus.close(Duration::ZERO).await;

        let fast = all(&mut fast).await;
        let sequences: Vec<u64> = fast
            .iter()
            .filter(|d| d.subject == Subject::UtxoCache)
            .map(|d| d.event.origin.as_ref().unwrap().sequence)
            .collect();
        assert_eq!(sequences, (1..=1000).collect::<Vec<_>>());
        let losses: Vec<&Loss> = fast
            .iter()
            .filter_map(|d| match &d.event.peer_observer_event {
                Some(PeerObserverEvent::Loss(loss)) => Some(loss),
                _ => None,
            })
            .collect();
        assert_eq!(losses.len(), 1);
        assert_eq!((losses[0].count, losses[0].component.as_str()), (990, "slow"));
        assert_eq!((losses[0].first, losses[0].last), (Some(11), Some(1000)));

        let stats = slow.stats();
        let slow = all(&mut slow).await;
        assert_eq!(slow.len(), 10 + 1, "what fitted, and the news of what did not");
        assert_eq!(stats.lost_queue.load(Ordering::Relaxed), 990);
    }

    #[tokio::test]
    async fn a_subscriber_that_left_is_no_loss() {
        let bus = Bus::in_process();
        drop(bus.subscriber("gone", &[Subject::UtxoCache], Limits::default()));
        let mut rest = bus.subscriber("rest", Subject::ALL, Limits::default());
        let mut publisher = bus.publisher(Source::Ebpf, "ebpf");
        publish(&mut publisher, 5);
        bus.close(Duration::ZERO).await;
        assert!(all(&mut rest).await.iter().all(|d| d.subject == Subject::UtxoCache));
    }
}
