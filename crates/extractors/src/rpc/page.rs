//! The metrics of several nodes on one page, told apart by a label.
//!
//! The public extractor serves one node and has no such label, so it comes on top of the public ones: `sum without (node)` is what
//! was there before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peer_observer_exporter::render::{self, Format, Part};
use peer_observer_exporter::server;
use tokio_util::sync::CancellationToken;

use super::poll::Shared;
use super::{Config, Error, HOST_FLAG, METRICS_FLAG};

/// A page that the extractors of all nodes share.
#[derive(Clone, Default)]
pub struct Page(Arc<Mutex<BTreeMap<Arc<str>, Arc<Shared>>>>);

impl Page {
    /// Serves it where the settings say until `stop`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(self, config: &Config, stop: CancellationToken) -> Result<(), Error> {
        let listener = server::bind(&config.prometheus_address, METRICS_FLAG).await?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "serving the metrics of rpc extractors");
        }
        let names = server::Names { allowed: config.prometheus_host.clone(), flag: HOST_FLAG };
        server::serve(listener, names, move || self.render(), stop).await;
        Ok(())
    }

    pub(super) fn add(&self, shared: &Arc<Shared>) {
        self.nodes().insert(shared.name.clone(), shared.clone());
    }

    /// Takes a node off, unless it was added again meanwhile.
    pub(super) fn remove(&self, shared: &Arc<Shared>) {
        let mut nodes = self.nodes();
        if nodes.get(&shared.name).is_some_and(|now| Arc::ptr_eq(now, shared)) {
            nodes.remove(&shared.name);
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn render(&self) -> String {
        let nodes = self.nodes();
        let metrics: Vec<_> = nodes.iter().map(|(node, shared)| (node, shared.metrics())).collect();
        let parts: Vec<Part<'_>> = metrics
            .iter()
            .map(|(node, metrics)| Part { node: Some(&***node), registry: metrics.registry() })
            .collect();
        render::render_groups(&[&parts], Format::Text)
    }
}
