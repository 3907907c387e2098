//! After an orderly stop nothing is verified, so what the notes and the files say must agree. Where they don't, nothing is
//! destroyed, nothing is hidden, and the report says so.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{LogStore, ManualClock, StoreOptions};
use support::{Rig, append, at, offset, open, partition_of, read_all};

/// A file system with a closed store of twelve records in three segments, and what it holds.
fn closed() -> (MemoryVfs, ManualClock, Vec<(i64, String)>) {
    let rig = Rig::new(&[]);
    for number in 0..12 {
        append(&rig.partition, &format!("value {number:02}"));
        if number % 4 == 3 && number < 11 {
            rig.partition.roll().unwrap();
        }
    }
    let records = read_all(&rig.partition);
    rig.store.clone().close().unwrap();
    (rig.memory, rig.clock, records)
}

fn write(memory: &MemoryVfs, path: &str, bytes: &[u8]) {
    memory.open(Path::new(path), OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
}

fn content(memory: &MemoryVfs, path: &str) -> Vec<u8> {
    let file = memory.open(Path::new(path), OpenMode::Read).unwrap();
    file.map(file.size().unwrap()).unwrap().to_vec()
}

const LAST_LOG: &str = "/log/t-0/00000000000000000008.log";

#[test]
fn an_empty_segment_that_nobody_rolled_to_is_set_aside() {
    for stray in ["00000000000000000001", "00000000000000999999"] {
        let (memory, clock, records) = closed();
        write(&memory, &format!("/log/t-0/{stray}.log"), b"");
        let store = open(Arc::new(memory.clone()), &clock);
        let partition = partition_of(&store);
        assert_eq!(read_all(&partition), records, "{stray}");
        let cuts = &store.open_report().partitions[0].cuts;
        assert!(cuts.iter().any(|cut| cut.file.to_str().unwrap().contains(stray)), "{stray}: {cuts:?}");
        assert_eq!(append(&partition, "next"), 12, "{stray}");
    }
}

#[test]
fn a_log_that_ends_elsewhere_than_it_was_synced_is_verified_and_what_is_wrong_is_kept_aside() {
    let (memory, clock, records) = closed();
    let bytes = content(&memory, LAST_LOG);
    let last = bytes.len() / 4 * 3;
    let changed = |at: usize| {
        let mut changed = bytes.clone();
        changed[last + at] ^= 1;
        changed
    };
    // The last batch is gone, or says that it ends at a later offset, which its checksum contradicts, or that it begins at one, which
    // no checksum covers.
    let cases = [(bytes[..last].to_vec(), 0), (changed(26), 1), (changed(6), 1)];
    for ((damaged, cuts), is_adopted) in cases.into_iter().zip([false; 3]).chain([((bytes[..last].to_vec(), 0), true)])
    {
        let memory = memory.process_crash_image();
        write(&memory, LAST_LOG, &damaged);
        if is_adopted {
            memory.remove_file(Path::new("/log/stratalog-unbroken")).unwrap();
        }
        let store = open(Arc::new(memory), &clock);
        let report = &store.open_report().partitions[0];
        assert_eq!((report.recovered_segments > 0, report.cuts.len()), (true, cuts), "{report:?}");
        assert!(report.warnings.iter().any(|warning| warning.contains("synced up to 12")), "{report:?}");
        assert_eq!(read_all(&partition_of(&store)), records[..11]);
    }
}

#[test]
fn a_log_whose_first_segment_is_gone_says_so() {
    let (memory, clock, records) = closed();
    memory.remove_file(Path::new("/log/t-0/00000000000000000000.log")).unwrap();
    let store = open(Arc::new(memory), &clock);
    let report = &store.open_report().partitions[0];
    assert!(report.warnings.iter().any(|warning| warning.contains("its start is noted as 0")), "{report:?}");
    assert_eq!(read_all(&partition_of(&store)), records[4..]);
}

#[test]
fn a_noted_log_start_above_all_that_was_synced_removes_nothing() {
    let (memory, clock, records) = closed();
    write(&memory, "/log/log-start-offset-checkpoint", b"0\n1\nt 0 9000\n");
    let store = open(Arc::new(memory), &clock);
    let partition = partition_of(&store);
    let report = &store.open_report().partitions[0];
    assert!(report.warnings.iter().any(|warning| warning.contains("9000")), "{report:?}");
    for tick in 1..4 {
        store.tick(at(tick * 100_000)).unwrap();
    }
    assert_eq!(read_all(&partition), records);
    assert_eq!(append(&partition, "next"), 12);
}

#[test]
fn after_a_crash_a_noted_log_start_above_the_end_keeps_all_segments_aside() {
    let rig = Rig::new(&[]);
    for number in 0..6 {
        append(&rig.partition, &number.to_string());
        rig.partition.roll().unwrap();
    }
    let image = rig.memory.process_crash_image();
    write(&image, "/log/log-start-offset-checkpoint", b"0\n1\nt 0 9000\n");
    let store = open(Arc::new(image), &rig.clock);
    assert_eq!(partition_of(&store).log_start_offset(), offset(9000));
    let kept: u64 = store.open_report().partitions[0].cuts.iter().map(|cut| cut.bytes).sum();
    let whole: u64 = rig.partition.segments().iter().map(|segment| segment.size()).sum();
    assert_eq!(kept, whole);
}

#[test]
fn a_file_of_epochs_that_the_batches_contradict_is_made_anew() {
    for entries in ["1\n7 0\n", "2\n0 0\n2147483647 5\n"] {
        for is_clean in [true, false] {
            let (memory, clock, records) = closed();
            write(&memory, "/log/t-0/leader-epoch-checkpoint", format!("0\n{entries}").as_bytes());
            if !is_clean {
                memory.remove_file(Path::new("/log/.kafka_cleanshutdown")).unwrap();
            }
            let store = open(Arc::new(memory), &clock);
            let partition = partition_of(&store);
            append(&partition, "next");
            let batches = partition.read(offset(12)).fetch().unwrap();
            let epoch = batches.iter().next().unwrap().unwrap().header().leader_epoch();
            assert_eq!(epoch.map(|epoch| epoch.value()), Some(0), "{entries:?}, clean: {is_clean}");
            assert_eq!(read_all(&partition)[..12], records);
        }
    }
}

#[test]
fn an_opening_that_is_refused_leaves_the_next_one_an_orderly_stop() {
    let (memory, clock, records) = closed();
    let list = content(&memory, "/log/stratalog-topics");
    write(&memory, "/log/stratalog-topics", b"damaged");
    let options = || StoreOptions::new().vfs(Arc::new(memory.clone())).clock(Arc::new(clock.clone()));
    assert!(options().open("/log").is_err());
    write(&memory, "/log/stratalog-topics", &list);
    let store = options().open("/log").unwrap();
    assert!(store.open_report().clean);
    assert_eq!(read_all(&partition_of(&store)), records);
}

#[test]
fn a_replacement_that_is_damaged_takes_no_sound_segments_place() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|bytes| *bytes.last_mut().unwrap() ^= 1, |bytes| bytes.fill(0), |bytes| bytes.truncate(bytes.len() - 3)];
    for damage in damages {
        let (memory, clock, records) = closed();
        let mut bytes = content(&memory, "/log/t-0/00000000000000000000.log");
        damage(&mut bytes);
        let swap = "/log/t-0/00000000000000000000.log.swap";
        write(&memory, swap, &bytes);
        let store = open(Arc::new(memory.clone()), &clock);
        assert_eq!(store.open_report().failed.len(), 1);
        drop(store);
        memory.remove_file(Path::new(swap)).unwrap();
        assert_eq!(read_all(&partition_of(&open(Arc::new(memory), &clock))), records);
    }
}

#[test]
fn a_checkpoint_of_the_log_start_that_says_more_than_the_note_with_a_checksum_loses_nothing() {
    for is_clean in [true, false] {
        let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
        for number in 0..8 {
            append(&rig.partition, &number.to_string());
            if number % 3 == 2 {
                rig.partition.roll().unwrap();
            }
        }
        rig.partition.delete_records_before(offset(1)).unwrap();
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
        if is_clean {
            rig.store.clone().close().unwrap();
        }
        let image = rig.memory.process_crash_image();
        write(&image, "/log/log-start-offset-checkpoint", b"0\n1\nt 0 5\n");
        let options = StoreOptions::new().vfs(Arc::new(image.clone())).clock(Arc::new(rig.clock.clone()));
        let follower = options.read_only(true).open("/log").unwrap();
        let followed = partition_of(&follower);
        assert_eq!(read_all(&followed).len(), 7, "followed, clean: {is_clean}");
        let store = open(Arc::new(image.clone()), &rig.clock);
        let partition = partition_of(&store);
        (1..4).for_each(|number| _ = store.tick(at(number * 100_000)).unwrap());
        assert_eq!(partition.log_start_offset(), offset(1), "clean: {is_clean}");
        assert_eq!(read_all(&partition).len(), 7, "clean: {is_clean}");
        let warned = store.open_report().partitions[0].warnings.len();
        assert_eq!(warned, usize::from(is_clean), "{:?}", store.open_report().partitions);
    }
}

/// A log of 20 records in which another program, with an epoch of its own, has deleted the first 7 and stopped in order.
fn with_deletions_of_another_program() -> Rig {
    let rig = Rig::new(&[]);
    (0..20).for_each(|_| _ = append(&rig.partition, "v"));
    rig.store.clone().close().unwrap();
    let put = |path: &str, text: &str| {
        let file = rig.memory.open(path.as_ref(), OpenMode::Truncate).unwrap();
        file.write_at(text.as_bytes(), 0).unwrap();
        file.sync_data().unwrap();
    };
    put("/log/t-0/leader-epoch-checkpoint", "0\n2\n0 7\n2 20\n");
    put("/log/log-start-offset-checkpoint", "0\n1\nt 0 7\n");
    ["/log/t-0", "/log"].iter().for_each(|dir| rig.memory.sync_dir(dir.as_ref()).unwrap());
    rig
}

#[test]
fn what_another_program_deleted_stays_so_though_our_first_notes_are_interrupted_or_fail() {
    type Work = fn(&LogStore);
    let works: [Work; 4] = [
        |_| {},
        |store| store.checkpoint().unwrap_or(()),
        |store| store.flush().unwrap_or(()),
        |store| store.clone().close().unwrap_or(()),
    ];
    for work in works {
        for changes in 0.. {
            let rig = with_deletions_of_another_program();
            let vfs = FaultyVfs::new(rig.memory.clone());
            vfs.crash_after(changes);
            let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
            if let Ok(store) = options.open("/log") {
                work(&store);
            }
            let has_ended = !vfs.is_crashed();
            let images = (0..5).map(|seed| rig.memory.torn_crash_image(seed)).chain([rig.memory.process_crash_image()]);
            for image in images {
                let store = open(Arc::new(image), &rig.clock);
                assert_eq!(partition_of(&store).log_start_offset(), offset(7), "change {changes}");
            }
            if has_ended {
                break;
            }
        }
    }
    for nth in 1.. {
        let rig = with_deletions_of_another_program();
        let vfs = FaultyVfs::new(rig.memory.clone());
        vfs.inject(Fault::new(Operation::Any, Effect::Error(std::io::ErrorKind::StorageFull)).from_nth(nth));
        let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
        let opened = options.open("/log");
        let was_struck = opened.is_err() || opened.is_ok_and(|store| store.checkpoint().is_err());
        let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
        assert_eq!(partition_of(&store).log_start_offset(), offset(7), "call {nth}");
        if !was_struck {
            return;
        }
    }
}
