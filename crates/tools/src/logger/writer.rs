//! A thread that writes, so that an output that blocks holds up nothing else.

use std::io::{self, Write};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Buffers that wait to be written. Few: what waits for long should do so where it is counted.
const BUFFERS: usize = 4;
/// Time that the output has for the last lines.
const FINISH: Duration = Duration::from_secs(1);

/// Hands buffers to the thread.
pub(super) struct Writer {
    buffers: mpsc::Sender<Vec<u8>>,
    result: oneshot::Receiver<io::Result<()>>,
}

/// The thread has ended: see [`Writer::finish`].
pub(super) struct Ended;

impl Writer {
    /// Starts the thread. It flushes after each buffer, so that a line is not kept back while nothing happens.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let (buffers, mut waiting) = mpsc::channel::<Vec<u8>>(BUFFERS);
        let (report, result) = oneshot::channel();
        std::thread::Builder::new().name("logger".into()).spawn(move || {
            let mut write_all = || {
                while let Some(buffer) = waiting.blocking_recv() {
                    out.write_all(&buffer)?;
                    out.flush()?;
                }
                Ok(())
            };
            // Nobody waits for the result any more when the output was blocked for too long.
            let _ = report.send(write_all());
        })?;
        Ok(Writer { buffers, result })
    }

    /// Hands over a buffer; waits while the output is slow.
    pub(super) async fn write(&self, buffer: Vec<u8>) -> Result<(), Ended> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.buffers.send(buffer).await.map_err(|_| Ended)
    }

    /// Waits until the thread has ended by itself.
    pub(super) async fn closed(&self) {
        self.buffers.closed().await;
    }

    /// Lets the thread write what waits. A reader that has gone is a reason to end, but no error.
    ///
    /// # Errors
    /// Those of the output.
    pub(super) async fn finish(self) -> io::Result<()> {
        let Writer { buffers, result } = self;
        drop(buffers);
        match tokio::time::timeout(FINISH, result).await {
            Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::Error::other("the thread that writes has failed")),
            Err(_) => {
                tracing::warn!("the output is blocked: the last lines are not written");
                Ok(())
            }
        }
    }
}
