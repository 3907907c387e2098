//! The machine may end at any moment of a compaction: opening always succeeds, leaves no unfinished file behind, and shows the
//! same latest value of every key at the same offsets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::TransactionResult::Commit;
use stratalog::{Durability, Record};
use support::{Rig, in_transaction, marker, open, partition_of, read_committed};

#[test]
fn a_compaction_rests_on_nothing_that_a_power_loss_can_take() {
    let rig = Rig::new(&[("cleanup.policy", "compact")]);
    rig.partition.append_with(&[Record::keyed("k", "old")], Durability::Durable).unwrap();
    let records = [Record::keyed("k", "new")];
    rig.partition.append_from(in_transaction(1, 0, 0), &records, Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    rig.partition.compact().unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(read_committed(&partition_of(&store), 1 << 20), [(1, "new".to_owned())]);
}
