//! The pipeline: where events are, where they were lost, how long they took.

use serde_json::{Value, json};

use super::{Answer, Context, Query, Refused, Topic, us};

/// Losses that are listed one by one.
const LISTED: usize = 50;

pub(super) const TOPIC: Topic = Topic {
    name: "pipeline",
    about: "From probes to this page: events by extractor and subject, hits of probes, latency, losses, this tool's queue",
    parameters: &[],
    required: None,
    fields: &[
        ("now_us", "This machine's time, us since the UNIX epoch"),
        ("events", "Events by node, extractor and subject so far"),
        ("rates", "Events in each of the last 60 seconds, the last one not yet full"),
        (
            "latency",
            "From what an event tells of until it came here, us, over a minute: median and 99th percentile, to a factor of 2",
        ),
        ("hits", "Hits of tracepoints by node and process: hits, published, dropped, unread"),
        ("total", "Events lost so far on their way to this page"),
        ("lost", "Events lost so far by stage, cause and component, those of other tools too"),
        ("losses", "The last losses, the newest first"),
        ("without_origin", "Events of public extractors: losses among them cannot be seen"),
        ("own", "The queue and the clients of this tool"),
    ],
    render,
};

pub(super) const LOSS: Topic = Topic {
    name: "loss",
    about: "What was lost, where, and why",
    parameters: &[],
    required: None,
    fields: &[
        ("total", "Events lost so far on their way to this page"),
        ("lost", "Events lost by stage, cause and component, those of other tools too"),
        ("losses", "The last losses, the newest first"),
    ],
    render: loss,
};

fn lost(context: &Context<'_>) -> (Vec<Value>, Vec<Value>) {
    let pipeline = &context.model.pipeline;
    let sums = pipeline
        .lost
        .iter()
        .map(|((stage, cause, component), count)| {
            json!({ "stage": stage, "cause": cause, "component": component, "count": count })
        })
        .collect();
    let last = pipeline
        .losses
        .iter()
        .rev()
        .take(LISTED)
        .map(|lost| {
            json!({
                "time_us": us(lost.time_ns), "stage": lost.stage, "cause": lost.cause,
                "component": lost.component, "what": lost.what, "count": lost.count,
            })
        })
        .collect();
    (sums, last)
}

fn loss(context: &Context<'_>, _query: &Query) -> Result<Answer, Refused> {
    let (lost, losses) = lost(context);
    Ok(json!({ "total": context.model.pipeline.total_lost(), "lost": lost, "losses": losses })
        .to_string()
        .into())
}

fn render(context: &Context<'_>, _query: &Query) -> Result<Answer, Refused> {
    let pipeline = &context.model.pipeline;
    let wall = context.now.wall_ns;
    let (lost, losses) = lost(context);
    let events: Vec<_> = pipeline
        .events
        .iter()
        .map(|((node, extractor, subject), count)| {
            json!({ "node": node, "extractor": extractor, "subject": subject.as_str(), "count": count })
        })
        .collect();
    let hits: Vec<_> = pipeline
        .hits
        .iter()
        .map(|((node, pid, tracepoint), hits)| {
            json!({
                "node": node, "pid": pid, "tracepoint": tracepoint,
                "hits": hits.hits, "published": hits.published, "dropped": hits.dropped, "unread": hits.unread,
            })
        })
        .collect();
    let latency = pipeline.latency_us(wall);
    Ok(json!({
        "now_us": us(wall),
        "events": events,
        "rates": pipeline.rates(wall),
        "latency": latency.map(|(median, p99)| json!({ "median_us": median, "p99_us": p99 })),
        "hits": hits,
        "total": pipeline.total_lost(),
        "lost": lost,
        "losses": losses,
        "without_origin": pipeline.without_origin,
        "own": context.own,
    })
    .to_string()
    .into())
}
