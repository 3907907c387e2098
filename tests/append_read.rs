//! Records go in, get the next offsets, and come out as they went in, for any number of threads; what breaks a rule is refused
//! whole and leaves the log as it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stratalog::format::{BatchBuilder, BatchOptions, ProducerStamp};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::{Compression, Durability, ErrorKind, LogError, Partition, Record, TimestampType};
use support::{Rig, append, append_at, at, bases, names_partition, offset, read_all, read_from};

/// A batch as a producer encodes it, of records with these times relative to the start.
fn encoded(options: BatchOptions, times: &[Option<i64>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    for time in times {
        builder.push(&Record::keyed("k", "some value, some value, some value"), time.map(at)).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

fn plain() -> Vec<u8> {
    encoded(BatchOptions::default(), &[Some(0), Some(5)])
}

/// Changes a field of a batch and makes its checksum right again.
fn patched(mut batch: Vec<u8>, position: usize, bytes: &[u8]) -> Vec<u8> {
    batch[position..position + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn refused(partition: &Partition, batch: &[u8]) -> LogError {
    let (end, size) = (partition.log_end_offset(), partition.size());
    let error = partition.append_batch(batch, Durability::Written).unwrap_err();
    assert!(names_partition(&error));
    assert_eq!((partition.log_end_offset(), partition.size()), (end, size), "a refused batch leaves no trace");
    error
}

#[test]
fn records_get_the_next_offsets_and_come_back_as_they_went_in() {
    let rig = Rig::new(&[]);
    let first = [Record::keyed("k", "v").header("h", "1").null_header("n"), Record::tombstone("k"), Record::new("")];
    let appended = rig.partition.append(&first).unwrap();
    assert_eq!((appended.base_offset, appended.last_offset), (offset(0), offset(2)));
    assert_eq!(appended.durability, Durability::Written);
    assert_eq!(append_at(&rig.partition, "later", 7), 3);
    let batches = rig.partition.read(offset(0)).fetch().unwrap();
    assert_eq!(batches.high_watermark(), offset(4));
    let batches: Vec<_> = batches.iter().map(|batch| batch.unwrap()).collect();
    let records: Vec<_> = batches.iter().flat_map(|batch| batch.records()).map(|record| record.unwrap()).collect();
    assert_eq!(records.iter().map(|record| record.offset().value()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(records[0].key(), Some(&b"k"[..]));
    let headers: Vec<_> = records[0].headers().map(|header| header.value.map(<[u8]>::to_vec)).collect();
    assert_eq!(headers, [Some(b"1".to_vec()), None]);
    assert_eq!((records[1].key(), records[1].value()), (Some(&b"k"[..]), None));
    assert_eq!((records[2].key(), records[2].value()), (None, Some(&b""[..])));
    assert_eq!(records[2].timestamp(), Some(at(0)), "a record without a time gets the clock's");
    assert_eq!(records[3].timestamp(), Some(at(7)));
}

#[test]
fn an_append_of_nothing_is_refused() {
    let rig = Rig::new(&[]);
    assert!(matches!(rig.partition.append(&[]), Err(LogError::NoRecords { .. })));
}

#[test]
fn with_log_append_time_every_record_reads_as_the_time_of_the_append() {
    let rig = Rig::new(&[("message.timestamp.type", "LogAppendTime"), ("message.timestamp.before.max.ms", "10")]);
    rig.clock.advance(500);
    let old = [Record::new("a").timestamp(at(-100_000)), Record::new("b").timestamp(at(900_000_000))];
    assert_eq!(rig.partition.append(&old).unwrap().timestamp, Some(at(500)));
    let batch = encoded(BatchOptions::default(), &[Some(-100_000), Some(3)]);
    assert_eq!(rig.partition.append_batch(&batch, Durability::Written).unwrap().timestamp, Some(at(500)));
    for batch in &rig.partition.read(offset(0)).fetch().unwrap() {
        let batch = batch.unwrap();
        assert_eq!(batch.header().timestamp_type(), Some(TimestampType::LogAppend));
        assert_eq!(batch.header().max_timestamp(), Some(at(500)));
        assert!(batch.records().all(|record| record.unwrap().timestamp() == Some(at(500))));
    }
}

#[test]
fn a_timestamp_too_far_from_the_clock_refuses_the_whole_batch_and_names_the_record() {
    let rig = Rig::new(&[("message.timestamp.before.max.ms", "1000"), ("message.timestamp.after.max.ms", "100")]);
    for (time, legal) in [(-1000, true), (-1001, false), (100, true), (101, false)] {
        let records = [Record::new("fine"), Record::new("far").timestamp(at(time))];
        let batch = encoded(BatchOptions::default(), &[Some(0), Some(time)]);
        if legal {
            rig.partition.append(&records).unwrap();
            rig.partition.append_batch(&batch, Durability::Written).unwrap();
        } else {
            for error in [rig.partition.append(&records).unwrap_err(), refused(&rig.partition, &batch)] {
                let LogError::InvalidTimestamp { index, got, earliest, latest, .. } = error else {
                    panic!("another error: {error}");
                };
                assert_eq!((index, got, earliest, latest), (1, at(time), at(-1000), at(100)));
            }
        }
    }
    assert_eq!(rig.partition.log_end_offset(), offset(8));
}

#[test]
fn a_record_without_a_timestamp_is_accepted_and_never_moves_the_time_index() {
    let rig = Rig::new(&[]);
    let batch = encoded(BatchOptions::default(), &[None]);
    rig.partition.append_batch(&batch, Durability::Written).unwrap();
    assert_eq!(rig.partition.segments()[0].largest_timestamp().unwrap(), None);
}

#[test]
fn a_compacted_topic_needs_keys_and_says_which_record_has_none() {
    let rig = Rig::new(&[("cleanup.policy", "compact")]);
    let error = rig.partition.append(&[Record::keyed("k", "v"), Record::new("v")]).unwrap_err();
    assert!(matches!(error, LogError::InvalidRecord { index: 1, .. }), "{error}");
    assert_eq!(rig.partition.log_end_offset(), offset(0));
    rig.partition.append(&[Record::keyed("k", "v")]).unwrap();
    rig.partition.append_batch(&plain(), Durability::Written).unwrap();
}

#[test]
fn a_batch_over_a_size_limit_is_refused_and_the_error_names_the_key() {
    let value = "x".repeat(500);
    for (key, other) in [("max.message.bytes", "segment.bytes"), ("segment.bytes", "max.message.bytes")] {
        let rig = Rig::new(&[(key, "400"), (other, "100000")]);
        let error = rig.partition.append(&[Record::new(&value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(matches!(error, LogError::TooLarge { limit: 400, limit_key, .. } if limit_key == key), "{error}");
        append(&rig.partition, "small");
        assert_eq!(read_all(&rig.partition), [(0, "small".to_owned())]);
    }
}

#[test]
fn a_batch_that_is_as_large_as_the_limit_is_accepted() {
    let size = plain().len().to_string();
    let rig = Rig::new(&[("max.message.bytes", &size), ("segment.bytes", &size)]);
    rig.partition.append_batch(&plain(), Durability::Written).unwrap();
    rig.partition.append_batch(&plain(), Durability::Written).unwrap();
    assert_eq!(bases(&rig.partition), [0, 2]);
}

#[test]
fn an_encoded_batch_keeps_its_records_bytes_and_gets_offset_and_epoch() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "before");
    let batch =
        encoded(BatchOptions { compression: Compression::None, ..BatchOptions::default() }, &[Some(3), Some(1)]);
    rig.partition.append_batch(&batch, Durability::Written).unwrap();
    let read = rig.partition.read(offset(1)).fetch().unwrap();
    let stored = read.bytes();
    assert_eq!(stored[16..], batch[16..], "only base offset and leader epoch lie before the magic");
    assert_eq!(stored[..8], 1_i64.to_be_bytes());
    assert_eq!(stored[12..16], 0_i32.to_be_bytes());
}

#[cfg(all(feature = "lz4", feature = "gzip"))]
#[test]
fn the_same_codec_is_kept_whatever_its_level_and_another_one_is_recompressed() {
    let rig = Rig::new(&[("compression.type", "gzip"), ("compression.gzip.level", "1")]);
    let gzip = BatchOptions { compression: Compression::Gzip, level: Some(9), ..BatchOptions::default() };
    let lz4 = BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() };
    let (gzip, lz4) = (encoded(gzip, &[Some(0), Some(1)]), encoded(lz4, &[Some(2), Some(1)]));
    rig.partition.append_batch(&gzip, Durability::Written).unwrap();
    rig.partition.append_batch(&lz4, Durability::Written).unwrap();
    let batches: Vec<_> = rig.partition.read(offset(0)).fetch().unwrap().iter().map(Result::unwrap).collect();
    assert_eq!(batches[0].bytes()[16..], gzip[16..]);
    assert_eq!(batches[1].header().compression(), Compression::Gzip);
    assert_eq!(batches[1].header().max_timestamp(), Some(at(2)));
    let times: Vec<_> = batches[1].records().map(|record| record.unwrap().timestamp().unwrap()).collect();
    assert_eq!(times, [at(2), at(1)]);
}

#[cfg(feature = "lz4")]
#[test]
fn a_count_that_contradicts_the_last_offset_is_refused() {
    let rig = Rig::new(&[]);
    for compression in [Compression::None, Compression::Lz4] {
        let batch = encoded(BatchOptions { compression, ..BatchOptions::default() }, &[Some(0), Some(1)]);
        for count in [0_i32, 1, 3, -1, i32::MAX] {
            let error = refused(&rig.partition, &patched(batch.clone(), 57, &count.to_be_bytes()));
            assert!(matches!(error, LogError::InvalidBatch { .. }), "{error}");
        }
        let both = patched(patched(batch.clone(), 57, &3_i32.to_be_bytes()), 23, &2_i32.to_be_bytes());
        refused(&rig.partition, &both);
    }
}

#[test]
fn a_client_may_not_send_control_batches_or_log_append_time_or_base_offsets_or_unsequenced_producers() {
    let rig = Rig::new(&[]);
    refused(&rig.partition, &patched(plain(), 21, &0x20_i16.to_be_bytes()));
    refused(&rig.partition, &patched(plain(), 21, &0x08_i16.to_be_bytes()));
    refused(&rig.partition, &patched(plain(), 0, &1_i64.to_be_bytes()));
    refused(&rig.partition, &patched(plain(), 43, &7_i64.to_be_bytes()));
    let stamp = ProducerStamp {
        id: ProducerId::new(7).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
        transactional: false,
    };
    let sequenced = encoded(BatchOptions { producer: Some(stamp), ..BatchOptions::default() }, &[Some(0)]);
    rig.partition.append_batch(&sequenced, Durability::Written).unwrap();
}

#[test]
fn one_append_takes_exactly_one_whole_intact_batch() {
    let rig = Rig::new(&[]);
    let two = [plain(), plain()].concat();
    refused(&rig.partition, &two);
    refused(&rig.partition, &[]);
    refused(&rig.partition, &[plain(), vec![0]].concat());
    let batch = plain();
    for size in 0..batch.len() {
        refused(&rig.partition, &batch[..size]);
    }
    for position in 16..batch.len() {
        let mut damaged = batch.clone();
        damaged[position] ^= 0x40;
        refused(&rig.partition, &damaged);
    }
    assert!(rig.store.metrics().append_failures > 100);
}

#[test]
fn the_batch_that_does_not_fit_opens_the_next_segment() {
    let rig = Rig::new(&[("segment.bytes", "1000")]);
    append(&rig.partition, &"a".repeat(500));
    append(&rig.partition, &"b".repeat(800));
    append(&rig.partition, "c");
    assert_eq!(bases(&rig.partition), [0, 1]);
    assert_eq!(read_all(&rig.partition).len(), 3);
    rig.partition.roll().unwrap();
    rig.partition.roll().unwrap();
    assert_eq!(bases(&rig.partition), [0, 1, 3], "an empty segment isn't rolled");
}

#[test]
fn a_segment_rolls_by_the_age_of_its_records_only_when_appended_to() {
    let rig = Rig::new(&[("segment.ms", "1000")]);
    append_at(&rig.partition, "first", 0);
    append_at(&rig.partition, "at the limit", 1000);
    append_at(&rig.partition, "older than the first", -5000);
    rig.clock.advance(100_000);
    assert_eq!(bases(&rig.partition), [0]);
    append_at(&rig.partition, "over the limit", 1001);
    assert_eq!(bases(&rig.partition), [0, 3]);
}

#[test]
fn a_segment_whose_records_have_no_time_rolls_by_the_clock() {
    let rig = Rig::new(&[("segment.ms", "1000")]);
    let timeless = encoded(BatchOptions::default(), &[None]);
    rig.partition.append_batch(&timeless, Durability::Written).unwrap();
    rig.clock.advance(1000);
    rig.partition.append_batch(&timeless, Durability::Written).unwrap();
    rig.clock.advance(1);
    rig.partition.append_batch(&timeless, Durability::Written).unwrap();
    assert_eq!(bases(&rig.partition), [0, 2]);
}

#[test]
fn jitter_lets_a_segment_roll_earlier_but_never_by_more_than_itself() {
    for _ in 0..20 {
        let rig = Rig::new(&[("segment.ms", "1000"), ("segment.jitter.ms", "300")]);
        append_at(&rig.partition, "first", 0);
        append_at(&rig.partition, "young", 700);
        assert_eq!(bases(&rig.partition), [0]);
        append_at(&rig.partition, "old", 1001);
        assert_eq!(bases(&rig.partition), [0, 2]);
    }
}

#[test]
fn a_read_returns_at_least_one_whole_batch_whatever_its_limit() {
    let rig = Rig::new(&[("segment.bytes", "2000")]);
    let expected: Vec<_> = (0..40).map(|i| (i, format!("{i}").repeat(60))).collect();
    for (_, value) in &expected {
        append(&rig.partition, value);
    }
    for max_bytes in [0, 1, 61, 200, 777, 1 << 20] {
        assert_eq!(read_from(&rig.partition, 0, max_bytes).unwrap(), expected);
        assert_eq!(read_from(&rig.partition, 17, max_bytes).unwrap(), expected[17..]);
    }
    let read = rig.partition.read(offset(3)).max_bytes(300).fetch().unwrap();
    assert!(read.bytes().len() <= 300);
}

#[test]
fn a_read_at_the_log_end_is_empty_and_outside_the_log_an_error_with_the_valid_range() {
    let rig = Rig::new(&[]);
    for i in 0..10 {
        append(&rig.partition, &i.to_string());
    }
    rig.partition.delete_records_before(offset(4)).unwrap();
    assert!(rig.partition.read(offset(10)).fetch().unwrap().is_empty());
    for outside in [0, 3, 11, i64::MAX] {
        match rig.partition.read(offset(outside)).fetch() {
            Err(LogError::OffsetOutOfRange { got, start, end, .. }) => {
                assert_eq!((got, start, end), (offset(outside), offset(4), offset(10)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rig.partition.log_end_offset(), offset(10));
}

#[test]
fn waiting_ends_at_the_timeout_or_as_soon_as_the_record_is_there() {
    let rig = Rig::new(&[]);
    let begin = Instant::now();
    assert!(!rig.partition.wait_for(offset(0), Duration::from_millis(30)));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    append(&rig.partition, "there");
    assert!(rig.partition.wait_for(offset(0), Duration::ZERO));
}

#[test]
fn no_wake_up_is_lost_between_threads_that_hand_records_to_each_other() {
    let (ping, pong) = (Rig::new(&[]), Rig::new(&[]));
    let patience = Duration::from_secs(20);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2000 {
                assert!(ping.partition.wait_for(offset(round), patience), "lost the wake-up of {round}");
                append(&pong.partition, "pong");
            }
        });
        for round in 0..2000 {
            append(&ping.partition, "ping");
            assert!(pong.partition.wait_for(offset(round), patience), "lost the wake-up of {round}");
        }
    });
}

#[test]
fn closing_the_store_ends_a_wait() {
    let rig = Rig::new(&[]);
    let partition = rig.partition.clone();
    let waiter = thread::spawn(move || partition.wait_for(offset(0), Duration::from_secs(60)));
    thread::sleep(Duration::from_millis(20));
    rig.store.close().unwrap();
    assert!(!waiter.join().unwrap());
    assert!(matches!(rig.partition.append(&[Record::new("v")]), Err(LogError::Closed { .. })));
    assert!(matches!(rig.partition.read(offset(0)).fetch(), Err(LogError::Closed { .. })));
}

#[test]
fn many_appenders_and_readers_at_once_see_every_record_once_and_in_order() {
    const APPENDERS: usize = 4;
    const APPENDS: usize = 300;
    let rig = Rig::new(&[("segment.bytes", "3000"), ("index.interval.bytes", "200")]);
    let (total, done) = (APPENDERS * APPENDS * 3, AtomicBool::new(false));
    let follow = || {
        let mut next = offset(0);
        let mut seen = Vec::new();
        while seen.len() < total {
            assert!(rig.partition.wait_for(next, Duration::from_secs(20)));
            for batch in &rig.partition.read(next).max_bytes(500).fetch().unwrap() {
                let Ok(batch) = batch else { break };
                for record in batch.records() {
                    let record = record.unwrap();
                    assert_eq!(record.offset().value(), i64::try_from(seen.len()).unwrap());
                    seen.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
                }
                next = batch.last_offset().next();
            }
        }
        seen
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(follow)).collect();
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|appender| {
                let partition = rig.partition.clone();
                scope.spawn(move || {
                    for i in 0..APPENDS {
                        let values = [0, 1, 2].map(|n| format!("{appender} {}", i * 3 + n));
                        let durability = if i % 50 == 0 { Durability::Durable } else { Durability::Written };
                        let records = [Record::new(&values[0]), Record::new(&values[1]), Record::new(&values[2])];
                        partition.append_with(&records, durability).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                rig.partition.roll().unwrap();
                thread::yield_now();
            }
        });
        appenders.into_iter().for_each(|appender| appender.join().unwrap());
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            let mut next: BTreeMap<String, usize> = BTreeMap::new();
            for value in reader.join().unwrap() {
                let (appender, number) = value.split_once(' ').unwrap();
                let expected = next.entry(appender.to_owned()).or_default();
                assert_eq!(number.parse(), Ok(*expected));
                *expected += 1;
            }
            assert!(next.len() == APPENDERS && next.values().all(|count| *count == APPENDS * 3));
        }
    });
}

#[test]
fn a_batch_that_claims_a_delete_horizon_is_no_producers() {
    let rig = Rig::new(&[("cleanup.policy", "compact")]);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&Record::tombstone("k"), Some(at(0))).unwrap();
    let mut bytes = builder.finish().unwrap().to_vec();
    bytes[22] |= 0x40;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(rig.partition.append_batch(&bytes, Durability::Written).is_err());
}
