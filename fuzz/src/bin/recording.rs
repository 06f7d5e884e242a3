//! Recordings of tracepoint hits, which users get from others.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use peer_observer_node::recording::{
    Decompressed, Error, MAX_RECORD, Reader, Records, decompress, write_record,
};

/// More than any input here can hold.
const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    // The same bytes as a file: plain, or compressed and hostile.
    if let Ok(plain) = decompress(input, LIMIT) {
        assert!(plain.len() <= LIMIT);
    }
    // The same as a stream, which ends by itself unless it becomes too long.
    let Ok(stream) = Decompressed::new(input) else { return };
    let mut reader = Reader::new(stream.take(LIMIT as u64));
    loop {
        match reader.next_record() {
            Ok(Some(record)) => assert!(record.hit.tracepoint() as u8 > 0),
            Ok(None) => break,
            Err(Error::TooLong { length, .. }) => assert!(length > MAX_RECORD),
            Err(_) => {}
        }
    }
    for record in Records::new(input).flatten() {
        let mut written = Vec::new();
        write_record(&mut written, record.time_ns, &record.hit).expect("what was read fits");
        let again: Vec<_> = Records::new(&written).collect::<Result<_, _>>().expect("what was written");
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].time_ns, again[0].hit), (record.time_ns, record.hit));
    }
});
