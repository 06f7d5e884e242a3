//! What a scrape costs when everything that others can fill is full.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_observer_e2e::flood;
use peer_observer_exporter::render::Format;
use peer_observer_exporter::server;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::measure::median;
use crate::report::Report;

const ROUNDS: usize = 21;
/// Most that a scrape may take, ms, and a page may have, MB.
const MOST_MS: f64 = 50.0;
const MOST_MB: f64 = 5.0;

pub(crate) fn measure(report: &mut Report, runtime: &Runtime) -> Result<()> {
    let mut metrics = flood::full_metrics()?;
    let size = metrics.render(Format::Text).len() as f64 / 1e6;
    let metrics = Mutex::new(metrics);
    let page = move || metrics.lock().unwrap_or_else(PoisonError::into_inner).render(Format::Text);
    let stop = CancellationToken::new();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("listening for scrapes")?;
    let address = listener.local_addr().context("asking where scrapes go")?;
    let names = server::Names { allowed: Vec::new(), flag: "--metrics-host" };
    runtime.spawn(server::serve(listener, names, page, stop.clone()));
    let what = "200 peers, every label at its limit";
    report.add_at_most("page of the metrics tool", size, "MB", MOST_MB, what.into());
    for (how, header) in [("plain", ""), ("gzip", "Accept-Encoding: gzip\r\n")] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(scrape(address, header)?.as_secs_f64() * 1e3);
        }
        let ms = median(&mut times);
        report.add_at_most(&format!("scrape of that page, {how}"), ms, "ms", MOST_MS, what.into());
    }
    stop.cancel();
    Ok(())
}

fn scrape(address: SocketAddr, header: &str) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address).context("connecting to the page")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading the page")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("the page is not served");
    }
    Ok(begin.elapsed())
}
