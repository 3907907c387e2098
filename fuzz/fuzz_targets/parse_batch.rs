//! Any bytes as batches of the log: no panic, and what is read once is read again.
//!
//! Read twice: as they are, and with right checksums, without which a fuzzer hardly gets past the header.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stratalog::format::{BATCH_HEADER_SIZE, BatchHeader, Batches, DECOMPRESSED_SIZE_MAX, RecordBatch};
use stratalog_fuzz::sealing::sealed_log;

fuzz_target!(|bytes: &[u8]| {
    for bytes in [bytes.to_vec(), sealed_log(bytes)] {
        let _ = BatchHeader::peek(&bytes);
        let _ = RecordBatch::parse(Bytes::copy_from_slice(&bytes));
        let size = bytes.len();
        let mut sizes = 0;
        for batch in Batches::new(bytes.into()).flatten() {
            sizes += batch.bytes().len();
            assert_eq!(batch.bytes().len(), batch.header().size() as usize);
            read(&batch);
        }
        assert!(sizes <= size);
    }
});

fn read(batch: &RecordBatch) {
    let again = RecordBatch::parse(batch.bytes().clone()).expect("what was parsed is parsed again");
    assert_eq!((batch.header(), batch.bytes()), (again.header(), again.bytes()));
    assert_eq!(batch.base_offset(), again.base_offset());
    assert_eq!(batch.record_count(), again.record_count());
    assert_eq!(batch.control_record(), again.control_record());
    let (mut count, mut content) = (0_usize, 0);
    let mut others = again.records();
    for record in batch.records() {
        let other = others.next().expect("as many records as before");
        let (Ok(record), Ok(other)) = (&record, &other) else {
            assert_eq!(record.err(), other.err());
            break;
        };
        assert_eq!((record.offset(), record.timestamp()), (other.offset(), other.timestamp()));
        assert_eq!((record.key(), record.value()), (other.key(), other.value()));
        assert!(record.headers().eq(other.headers()));
        count += 1;
        content += record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len);
    }
    assert!(content <= DECOMPRESSED_SIZE_MAX.max(batch.bytes().len()));
    assert!(batch.header().magic() < 2 || count <= batch.header().record_count() as usize);
    assert!(batch.header().magic() < 2 || batch.bytes().len() >= BATCH_HEADER_SIZE);
}
