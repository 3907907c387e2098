//! Batches against Kafka's own bytes, and against bytes that are wrong in one place.

use super::*;
use crate::format::Batches;
use crate::format::test_vectors::{A1, A2, A4, A5, A6_V0, A6_V1, hex};
use proptest::prelude::*;

const TIME: i64 = 1_700_000_000_000;

fn at(millis: i64) -> Option<Timestamp> {
    Timestamp::from_millis(millis)
}

fn offset(value: i64) -> Offset {
    Offset::new(value).expect("positive")
}

fn parse(bytes: Vec<u8>) -> Result<RecordBatch, FormatError> {
    RecordBatch::parse(Bytes::from(bytes))
}

/// [`A1`] with `bytes` written over it at `at` and the checksum made right again.
fn a1_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = hex(A1);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    update_crc(&mut batch);
    batch
}

/// A batch with the header of [`A1`] around `count` records.
fn batch_of(records: &[u8], count: i32) -> Vec<u8> {
    let mut batch = hex(A1);
    batch.truncate(BATCH_HEADER_SIZE);
    batch.extend_from_slice(records);
    let length = u32::try_from(batch.len()).expect("small") - LENGTH_OVERHEAD;
    batch[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
    batch[COUNT_AT..].first_chunk_mut::<4>().expect("there").copy_from_slice(&count.to_be_bytes());
    update_crc(&mut batch);
    batch
}

fn first_error(batch: &RecordBatch) -> FormatError {
    let mut records = batch.records();
    let error = records.find_map(Result::err).expect("a broken batch");
    assert!(records.next().is_none(), "iteration ends at the error");
    error
}

#[test]
fn every_field_of_kafkas_batch_is_read() {
    let batch = parse(hex(A2)).expect("sound");
    let header = batch.header();
    assert_eq!((header.base_offset(), header.last_offset()), (offset(0), offset(2)));
    assert_eq!((header.size(), header.magic(), header.record_count()), (93, 2, 3));
    assert_eq!((header.crc(), header.attributes()), (0x6dc7_5ad8, 0x10));
    assert_eq!(header.compression(), Compression::None);
    assert_eq!(header.timestamp_type(), Some(TimestampType::Create));
    assert_eq!((header.base_timestamp(), header.max_timestamp()), (TIME, at(TIME + 5)));
    assert_eq!(header.leader_epoch(), Some(LeaderEpoch::ZERO));
    assert_eq!(header.producer_id().map(ProducerId::value), Some(4242));
    assert_eq!(header.producer_epoch().map(ProducerEpoch::value), Some(3));
    assert_eq!(header.base_sequence().map(Sequence::value), Some(7));
    assert_eq!(header.last_sequence().map(Sequence::value), Some(9));
    assert!(header.is_transactional() && !header.is_control());
    assert_eq!(header.delete_horizon(), None);
    assert_eq!(batch.control_record(), Ok(None));

    let records: Vec<_> = batch.records().map(|record| record.expect("sound")).collect();
    assert_eq!(records.len(), 3);
    assert_eq!((records[0].key(), records[0].value()), (Some(&b"k1"[..]), Some(&b"v1"[..])));
    assert_eq!((records[1].key(), records[1].value()), (None, Some(&b""[..])));
    assert_eq!((records[2].key(), records[2].value()), (Some(&b""[..]), None));
    assert_eq!(records.iter().map(|r| r.offset().value()).collect::<Vec<_>>(), [0, 1, 2]);
    let times: Vec<_> = records.iter().map(RecordRef::timestamp).collect();
    assert_eq!(times, [at(TIME), at(TIME + 5), at(TIME - 10)]);
    let headers: Vec<_> = records[1].headers().map(|header| (header.name, header.value)).collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b"x"[..])), (b"n", None)]);
}

#[test]
fn records_may_be_spread_over_several_compressed_streams() {
    let plain = hex(A2);
    let expected = parse(plain.clone()).expect("sound");
    let (header, records) = plain.split_at(BATCH_HEADER_SIZE);
    'codecs: for codec in Compression::ALL {
        let (first, second) = records.split_at(records.len() / 2);
        let mut batch = header.to_vec();
        for part in [first, &[], second] {
            match crate::format::compression::compress(codec, None, part, &mut batch) {
                Ok(()) => {}
                Err(FormatError::MissingFeature { .. }) => continue 'codecs,
                Err(error) => panic!("{codec:?}: {error}"),
            }
        }
        batch[ATTRIBUTES_AT + 1] |= codec.id();
        let length = u32::try_from(batch.len()).expect("small") - LENGTH_OVERHEAD;
        batch[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
        update_crc(&mut batch);
        let batch = parse(batch).expect("sound");
        let values = |batch: &RecordBatch| -> Vec<_> {
            batch.records().map(|record| record.expect("sound").detach().value().map(<[u8]>::to_vec)).collect()
        };
        assert_eq!(values(&batch), values(&expected), "{codec:?}");
    }
}

#[test]
fn an_emptied_batch_keeps_its_offsets_and_its_producer() {
    let batch = parse(hex(A4)).expect("sound");
    let header = batch.header();
    assert_eq!((header.size(), header.record_count()), (61, 0));
    assert_eq!((header.base_offset(), header.last_offset()), (offset(15), offset(37)));
    assert_eq!((header.base_timestamp(), header.max_timestamp()), (-1, at(TIME)));
    assert_eq!(header.producer_id().map(ProducerId::value), Some(23423));
    assert_eq!(header.last_sequence().map(Sequence::value), Some(983 + 22));
    assert_eq!(header.leader_epoch().map(LeaderEpoch::value), Some(15));
    assert!(batch.records().next().is_none());
}

#[test]
fn a_delete_horizon_is_no_base_for_a_reader() {
    let batch = parse(hex(A5)).expect("sound");
    assert_eq!(batch.header().delete_horizon(), at(TIME + 86_400_000));
    let record = batch.records().next().expect("one").expect("sound");
    assert_eq!((record.offset(), record.timestamp()), (offset(7), at(TIME)));
    assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), None));
}

#[test]
fn headers_encode_to_the_bytes_they_were_read_from() {
    for vector in [A1, A2, A4, A5] {
        let bytes = hex(vector);
        let header = BatchHeader::peek(&bytes).expect("sound");
        assert_eq!(header.encode(), bytes[..BATCH_HEADER_SIZE]);
    }
}

#[test]
fn a_batch_with_one_byte_changed_is_refused() {
    for at in ATTRIBUTES_AT..hex(A1).len() {
        let mut bytes = hex(A1);
        bytes[at] ^= 1;
        assert!(parse(bytes).is_err(), "byte {at}");
    }
    let mut bytes = hex(A1);
    bytes[70] ^= 1;
    assert_eq!(parse(bytes).expect_err("changed").code(), "crc_mismatch");
}

#[test]
fn offset_and_leader_epoch_are_not_covered_by_the_checksum() {
    let mut bytes = hex(A1);
    bytes[LENGTH_AT - 1] = 9;
    bytes[MAGIC_AT - 1] = 4;
    let batch = parse(bytes).expect("still sound");
    assert_eq!((batch.base_offset(), batch.last_offset()), (Ok(offset(9)), offset(11)));
    assert_eq!(batch.header().leader_epoch().map(LeaderEpoch::value), Some(4));
}

#[test]
fn a_length_that_is_too_small_is_corrupt_and_one_beyond_the_end_is_incomplete() {
    for small in [10, 13, 48, 0, -1] {
        let bytes = a1_with(LENGTH_AT, &i32::to_be_bytes(small));
        assert_eq!(parse(bytes).expect_err("too small").code(), "invalid_field", "{small}");
    }
    for large in [82, i32::MAX] {
        let bytes = a1_with(LENGTH_AT, &i32::to_be_bytes(large));
        assert_eq!(parse(bytes).expect_err("too large").code(), "incomplete", "{large}");
    }
}

#[test]
fn seventeen_bytes_are_the_least_that_tell_anything() {
    assert!(matches!(BatchHeader::peek(&[]), Err(FormatError::Incomplete { .. })));
    assert!(matches!(BatchHeader::peek(&hex(A1)[..16]), Err(FormatError::Incomplete { what: "magic", .. })));
    let unknown = a1_with(MAGIC_AT, &[10]);
    assert!(matches!(BatchHeader::peek(&unknown[..17]), Err(FormatError::Invalid { field: "magic", .. })));
    for vector in [A1, A6_V0, A6_V1] {
        let bytes = hex(vector);
        let enough = [30, 26, 61].into_iter().find(|size| BatchHeader::peek(&bytes[..*size.min(&bytes.len())]).is_ok());
        assert!(enough.is_some());
    }
    assert!(matches!(BatchHeader::peek(&hex(A1)[..60]), Err(FormatError::Incomplete { .. })));
}

#[test]
fn header_fields_out_of_range_are_refused() {
    for (position, bytes, field) in [
        (0, &[0x80][..], "base offset"),
        (ATTRIBUTES_AT + 1, &[5], "attributes"),
        (ATTRIBUTES_AT + 1, &[7], "attributes"),
        (LAST_OFFSET_DELTA_AT, &[0xff; 4], "last offset delta"),
        (COUNT_AT, &[0xff; 4], "record count"),
    ] {
        let error = parse(a1_with(position, bytes)).expect_err(field);
        assert!(matches!(error, FormatError::Invalid { field: found, .. } if found == field), "{error}");
    }
    let last = a1_with(0, &i64::MAX.to_be_bytes());
    assert!(matches!(parse(last), Err(FormatError::Invalid { field: "last offset delta", .. })));
}

#[test]
fn a_record_count_that_is_wrong_by_one_is_refused() {
    for count in [2_i32, 4] {
        let batch = parse(a1_with(COUNT_AT, &count.to_be_bytes())).expect("the checksum is right");
        assert_eq!(first_error(&batch).code(), "invalid_field", "{count}");
    }
    let absurd = parse(a1_with(COUNT_AT, &i32::MAX.to_be_bytes()));
    assert!(matches!(absurd, Err(FormatError::Invalid { field: "record count", .. })));
}

#[test]
fn a_record_count_that_is_wrong_by_one_is_refused_in_every_codec() {
    for codec in Compression::ALL {
        for count in [2_i32, 3, 4] {
            let mut bytes = hex(A2);
            let records = bytes.split_off(BATCH_HEADER_SIZE);
            if crate::format::compression::compress(codec, None, &records, &mut bytes).is_err() {
                continue;
            }
            bytes[ATTRIBUTES_AT + 1] |= codec.id();
            let length = u32::try_from(bytes.len()).expect("small") - LENGTH_OVERHEAD;
            bytes[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
            bytes[COUNT_AT..].first_chunk_mut::<4>().expect("there").copy_from_slice(&count.to_be_bytes());
            update_crc(&mut bytes);
            let batch = parse(bytes).expect("the checksum is right");
            let error = batch.records().find_map(Result::err);
            assert_eq!(error.map(|error| error.code()), (count != 3).then_some("invalid_field"), "{codec:?}, {count}");
        }
    }
}

#[test]
fn records_that_end_too_early_are_invalid_and_not_incomplete() {
    let mut record = vec![0xc8, 0x01];
    record.extend([0; 20]);
    let error = first_error(&parse(batch_of(&record, 1)).expect("the checksum is right"));
    assert_eq!(error.code(), "invalid_field");
    assert_eq!(error.position(), Some(Position::new(63)));
}

#[test]
fn append_time_gives_every_record_the_greatest_timestamp() {
    let mut bytes = hex(A1);
    assert_eq!(set_timestamps(&mut bytes, TimestampType::LogAppend, at(99)), Ok(true));
    let batch = parse(bytes).expect("the checksum was computed again");
    assert_eq!(batch.header().timestamp_type(), Some(TimestampType::LogAppend));
    assert!(batch.records().all(|record| record.expect("sound").timestamp() == at(99)));
}

#[test]
fn timestamps_that_stay_leave_the_bytes_alone() {
    let mut bytes = hex(A1);
    bytes[CRC_AT] ^= 1;
    let before = bytes.clone();
    assert_eq!(set_timestamps(&mut bytes, TimestampType::Create, at(TIME + 5)), Ok(false));
    assert_eq!(bytes, before);
    assert_eq!(set_timestamps(&mut bytes, TimestampType::Create, None), Ok(true));
    assert_eq!(parse(bytes).expect("sealed again").header().max_timestamp(), None);
}

#[test]
fn edits_in_place_refuse_other_formats_and_impossible_offsets() {
    assert!(assign_offsets(&mut hex(A6_V1), Offset::ZERO, LeaderEpoch::ZERO).is_err());
    assert!(set_timestamps(&mut hex(A6_V1), TimestampType::Create, None).is_err());
    assert!(set_timestamps(&mut hex(A1)[..70], TimestampType::Create, None).is_err());
    let mut bytes = hex(A1);
    assert!(assign_offsets(&mut bytes, offset(i64::MAX - 1), LeaderEpoch::ZERO).is_err());
    assert_eq!(bytes, hex(A1));
    assign_offsets(&mut bytes, offset(i64::MAX - 2), LeaderEpoch::MAX).expect("just fits");
    assert_eq!(parse(bytes).expect("sound").last_offset(), Offset::MAX);
}

#[test]
fn offsets_may_have_holes() {
    let records = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0];
    let batch = parse(batch_of(&records, 2)).expect("sound");
    let offsets: Vec<_> = batch.records().map(|record| record.expect("sound").offset().value()).collect();
    assert_eq!(offsets, [0, 2]);
}

#[test]
fn a_record_outside_its_batch_or_not_above_the_one_before_is_invalid() {
    // The deltas 0 and 0, 2 and 0, and 3 where the batch ends at 2.
    for (first, second) in [(0, 0), (4, 0), (0, 6)] {
        let records = [12, 0, 0, first, 1, 1, 0, 12, 0, 0, second, 1, 1, 0];
        let error = first_error(&parse(batch_of(&records, 2)).expect("sound"));
        assert!(matches!(error, FormatError::Invalid { field: "offset delta", .. }), "{first} {second}: {error}");
        assert!(error.to_string().contains("above that of the record before, up to the batch's last offset"));
    }
}

#[test]
fn parsing_takes_one_batch_and_copies_nothing() {
    let bytes = Bytes::from([hex(A1), hex(A2)].concat());
    let batch = RecordBatch::parse(bytes.clone()).expect("sound");
    assert_eq!(batch.bytes().len(), 93);
    assert_eq!(batch.bytes().as_ptr(), bytes.as_ptr());
}

#[test]
fn a_walk_passes_batches_of_all_formats() {
    let bytes = [A6_V0, A6_V1, A1, A4, A5].map(hex).concat();
    let whole = bytes.len() as u64;
    let mut batches = Batches::new(Bytes::from(bytes));
    let magics: Vec<_> = batches.by_ref().map(|batch| batch.expect("sound").header().magic()).collect();
    assert_eq!(magics, [0, 1, 2, 2, 2]);
    assert_eq!(batches.position(), Position::new(whole));
}

#[test]
fn a_walk_ends_quietly_at_a_cut_batch_and_at_zeros() {
    for cut in 0..93 {
        let bytes = [&hex(A1)[..], &hex(A1)[..cut]].concat();
        let mut batches = Batches::new(Bytes::from(bytes));
        assert_eq!(batches.by_ref().filter(Result::is_ok).count(), 1, "{cut}");
        assert_eq!(batches.position(), Position::new(93));
    }
    let padded = [hex(A1), vec![0; 500]].concat();
    assert_eq!(Batches::new(Bytes::from(padded)).map(|batch| batch.is_ok()).collect::<Vec<_>>(), [true]);
}

#[test]
fn a_walk_names_the_place_of_what_is_wrong() {
    let mut bytes = [hex(A1), hex(A1)].concat();
    bytes[93 + 80] ^= 1;
    let mut batches = Batches::new(Bytes::from(bytes));
    assert!(batches.next().expect("first").is_ok());
    let error = batches.next().expect("second").expect_err("changed");
    assert_eq!((error.code(), error.position()), ("crc_mismatch", Some(Position::new(93))));
    assert!(batches.next().is_none());

    let mut hole = [hex(A1), vec![0; 100], hex(A1)].concat();
    assert_eq!(Batches::new(Bytes::from(hole.clone())).filter(Result::is_err).count(), 1, "zeros, but not to the end");
    hole.truncate(193);
    assert_eq!(Batches::new(Bytes::from(hole)).filter(Result::is_err).count(), 0);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        records in prop::collection::vec(any::<u8>(), 0..100),
        count in 0_i32..6,
        at in 0_usize..61,
        byte: u8,
    ) {
        let mut bytes = batch_of(&records, count);
        bytes[at] = byte;
        if at >= ATTRIBUTES_AT {
            update_crc(&mut bytes);
        }
        for batch in Batches::new(Bytes::from(bytes)).flatten() {
            let _ = batch.base_offset();
            let _ = batch.control_record();
            for record in batch.records().flatten() {
                prop_assert_eq!(record.headers().count(), record.headers().len());
            }
        }
    }
}
