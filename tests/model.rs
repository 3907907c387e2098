//! Whatever is done to a partition in whatever order, it holds what a plain vector would hold.
#![expect(clippy::cast_possible_wrap, reason = "a model of at most some thousand records")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use stratalog::vfs::MemoryVfs;
use stratalog::{ManualClock, Record};
use support::{at, config, offset, open, partition_of, read_all, read_from};

#[derive(Debug, Clone)]
enum Step {
    Append(u8, u8),
    Roll,
    Truncate(u8),
    DeleteRecords(u8),
    Reopen(bool),
    Read(u8, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..5_u8, any::<u8>()).prop_map(|(count, size)| Step::Append(count, size)),
        1 => Just(Step::Roll),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::DeleteRecords),
        1 => any::<bool>().prop_map(Step::Reopen),
        2 => (any::<u8>(), any::<u16>()).prop_map(|(from, size)| Step::Read(from, size)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_partition_holds_what_a_vector_would_hold(steps in steps()) {
        let (vfs, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
        let mut store = open(Arc::new(vfs.clone()), &clock);
        let entries = [("segment.bytes", "1200"), ("index.interval.bytes", "150")];
        store.create_topic("t", 1, config(&entries)).unwrap();
        let mut partition = partition_of(&store);
        let (mut start, mut model): (usize, Vec<String>) = (0, Vec::new());
        let mut bases: Vec<usize> = Vec::new();
        let mut serial = 0;
        for step in steps {
            // A place within the log.
            let within = |fraction: u8| start + (model.len() - start) * usize::from(fraction) / 255;
            match step {
                Step::Append(count, size) => {
                    let values: Vec<String> = (0..count).map(|_| {
                        serial += 1;
                        format!("{serial} {}", "x".repeat(usize::from(size) / 2))
                    }).collect();
                    let records: Vec<_> = values.iter().map(Record::new).collect();
                    let appended = partition.append(&records).unwrap();
                    prop_assert_eq!(appended.base_offset, offset(model.len() as i64));
                    bases.push(model.len());
                    model.extend(values);
                }
                Step::Roll => partition.roll().unwrap(),
                Step::Truncate(fraction) => {
                    // A batch goes whole, so the cut is made where one begins.
                    let end = bases.iter().copied().filter(|base| *base <= within(fraction)).max().unwrap_or(0);
                    partition.truncate_to(offset(end as i64)).unwrap();
                    bases.retain(|base| *base < end);
                    prop_assert_eq!(partition.log_end_offset(), offset(end as i64));
                    model.truncate(end);
                    start = start.min(end);
                }
                Step::DeleteRecords(fraction) => {
                    start = within(fraction);
                    partition.delete_records_before(offset(start as i64)).unwrap();
                }
                Step::Reopen(orderly) => {
                    if orderly { store.close().unwrap() } else { store.checkpoint().unwrap(); drop(store) }
                    store = open(Arc::new(vfs.clone()), &clock);
                    partition = partition_of(&store);
                }
                Step::Read(fraction, size) => {
                    let from = within(fraction);
                    let read = read_from(&partition, from as i64, usize::from(size)).unwrap();
                    prop_assert_eq!(read.len(), model.len() - from);
                }
            }
            let expected: Vec<_> = (start as i64..).zip(model[start..].iter().cloned()).collect();
            prop_assert_eq!(read_all(&partition), expected);
        }
    }
}
