//! Prints who sends which P2P message to whom, as told by events on a NATS server.

use std::io::Write;

use futures_util::StreamExt;
use peer_observer_events::proto::{ebpf_extractor::ebpf::EbpfEvent, event::Event};
use peer_observer_events::{PeerObserverEvent, Subject};
use prost::Message;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4222".into());
    let client = async_nats::connect(server).await?;
    let mut messages = client.subscribe(Subject::NetMsg.as_str()).await?;
    client.flush().await?;
    eprintln!("listening");
    while let Some(message) = messages.next().await {
        let event = Event::decode(message.payload)?;
        // Events of the public peer-observer have no origin.
        let node = event.origin.map_or_else(|| "-".to_owned(), |origin| origin.node);
        let Some(PeerObserverEvent::EbpfExtractor(ebpf)) = event.peer_observer_event else { continue };
        let Some(EbpfEvent::Message(p2p)) = ebpf.ebpf_event else { continue };
        let direction = if p2p.meta.inbound { "from" } else { "to" };
        let (time, peer, command) = (event.timestamp, p2p.meta.peer_id, p2p.meta.command);
        writeln!(
            std::io::stdout(),
            "{time} {node}: {command} {direction} peer {peer}, {} bytes",
            p2p.meta.size
        )?;
    }
    Ok(())
}
