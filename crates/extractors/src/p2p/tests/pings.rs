//! How long pings take.

use super::*;

#[test]
fn ping_times_are_the_truth() {
    const EXACT: Duration = Duration::from_millis(1);
    let measure = |transport| {
        let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[None]);
        let mut node = NodePeer::connect(extractor.addr(), transport, LONG).unwrap();
        for delay in [1, 50, 10] {
            let mut errors = Vec::new();
            // A busy scheduler wakes either side late: no error of the measurement, but then another one has to be exact.
            while errors.last().is_none_or(|error| *error >= EXACT) {
                assert!(errors.len() < 100, "{transport:?}: never within {EXACT:?}: {errors:?}");
                let truth = node.answer_ping_after(Duration::from_millis(delay), LONG).unwrap();
                let told = extractor.wait_for(ping_duration);
                assert!(told >= truth, "{told:?} is less than the {truth:?} that it took");
                errors.push(told - truth);
            }
        }
        extractor.stop();
    };
    thread::scope(|scope| {
        for transport in [Transport::V1, Transport::V2] {
            scope.spawn(move || measure(transport));
        }
    });
}

#[test]
fn old_and_foreign_pongs_measure_nothing() {
    let mut extractor = Extractor::start(Config { ping_interval: 1, ..regtest() }, &[None]);
    let mut node = NodePeer::connect(extractor.addr(), Transport::V1, LONG).unwrap();
    let first = node.wait_for("ping", LONG).unwrap().payload;
    let mut frames = Vec::new();
    for payload in [&[0; 8][..], b"", &first, &first, b"short"] {
        frames.extend(node.frame("pong", payload));
    }
    frames.extend(node.frame("feefilter", &[1, 0, 0, 0, 0, 0, 0, 0]));
    node.send_bytes(&frames).unwrap();
    let mut measured = 0;
    loop {
        let (_, event) = extractor.next();
        measured += usize::from(ping_duration(&event).is_some());
        if feefilter(&event).is_some() {
            break;
        }
    }
    assert_eq!(measured, 1);
    extractor.stop();
}
