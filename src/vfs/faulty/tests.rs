//! What faults, crashes and counts do to calls.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use super::*;
use crate::vfs::DiskVfs;
use crate::vfs::conformance;

fn without_faults(check: impl FnOnce(&dyn Vfs, &Path)) {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    vfs.create_dir_all(Path::new("/root")).unwrap();
    check(&vfs, Path::new("/root"));
}

conformance::suite!(without_faults);

const EIO: Effect = Effect::Error(io::ErrorKind::Other);

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn faulty() -> (FaultyVfs, Arc<dyn VfsFile>) {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let file = vfs.open(path("a.log"), OpenMode::Create).unwrap();
    vfs.sync_dir(path("/")).unwrap();
    (vfs, file)
}

fn surviving(vfs: &FaultyVfs, seed: u64) -> Vec<u8> {
    let image = vfs.crash_image(seed).unwrap();
    let file = image.open(path("a.log"), OpenMode::Read).unwrap();
    file.map(file.size().unwrap()).unwrap().to_vec()
}

#[test]
fn a_fault_strikes_the_calls_it_names_and_no_others() {
    let (vfs, file) = faulty();
    let other = vfs.open(path("a.index"), OpenMode::Create).unwrap();
    let effect = Effect::Error(io::ErrorKind::StorageFull);
    vfs.inject(Fault { path_contains: ".log".into(), after: 1, times: 2, ..Fault::new(Operation::Write, effect) });
    other.write_at(b"x", 0).unwrap();
    file.write_at(b"1", 0).unwrap();
    for _ in 0..2 {
        let refused = file.write_at(b"2", 1).unwrap_err();
        assert_eq!((refused.io_kind(), refused.path()), (io::ErrorKind::StorageFull, path("a.log")));
        assert_eq!(refused.kind(), crate::types::ErrorKind::StorageFull);
    }
    file.write_at(b"3", 1).unwrap();
    assert_eq!(file.map(2).unwrap(), "13");
    assert_eq!(vfs.faults_struck(), 2);
}

#[test]
fn every_operation_can_fail_and_then_does_nothing() {
    use Operation as Op;
    let (vfs, file) = faulty();
    file.write_at(b"abc", 0).unwrap();
    vfs.create_dir_all(path("d")).unwrap();
    type Try<'a> = &'a dyn Fn() -> Result<(), IoError>;
    let calls: [(Operation, Try<'_>); 14] = [
        (Op::Open, &|| vfs.open(path("new"), OpenMode::Create).map(drop)),
        (Op::CreateDir, &|| vfs.create_dir_all(path("new"))),
        (Op::ReadDir, &|| vfs.read_dir(path("/")).map(drop)),
        (Op::Metadata, &|| vfs.metadata(path("d")).map(drop)),
        (Op::Rename, &|| vfs.rename(path("a.log"), path("new"))),
        (Op::Remove, &|| vfs.remove_file(path("a.log"))),
        (Op::Remove, &|| vfs.remove_dir(path("d"))),
        (Op::SyncDir, &|| vfs.sync_dir(path("/"))),
        (Op::Lock, &|| vfs.lock_dir(path("/")).map(drop)),
        (Op::Read, &|| file.read_at(&mut [0], 0).map(drop)),
        (Op::Write, &|| file.write_at(b"zzzz", 0)),
        (Op::SetSize, &|| file.set_size(1)),
        (Op::Allocate, &|| file.allocate(100)),
        (Op::Map, &|| file.map(1).map(drop)),
    ];
    for (operation, call) in calls {
        vfs.inject(Fault::new(operation, EIO));
        assert_eq!(call().unwrap_err().io_kind(), io::ErrorKind::Other, "{operation:?}");
    }
    let names: Vec<_> = vfs.read_dir(path("/")).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a.log", "d"]);
    assert_eq!((file.size().unwrap(), file.map(3).unwrap()), (3, "abc".into()));
}

#[test]
fn short_writes_fail_after_their_bytes_and_torn_ones_report_success() {
    let (vfs, file) = faulty();
    vfs.inject(Fault::new(Operation::Write, Effect::ShortWrite { size: 2, kind: io::ErrorKind::StorageFull }));
    assert!(file.write_at(b"abcd", 0).is_err());
    assert_eq!(file.size().unwrap(), 2);
    vfs.inject(Fault::new(Operation::Write, Effect::TornWrite { size: 3 }));
    file.write_at(b"efgh", 0).unwrap();
    assert_eq!(file.map(file.size().unwrap()).unwrap(), "efg");
}

#[test]
fn a_failed_sync_loses_the_bytes_before_it_for_good() {
    let (vfs, file) = faulty();
    file.write_at(b"lost", 0).unwrap();
    vfs.inject(Fault::new(Operation::Sync, EIO));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(file.map(4).unwrap(), "lost");
    assert_eq!(surviving(&vfs, 0), b"");
    file.write_at(b"kept", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(surviving(&vfs, 0), b"kept");
}

#[test]
fn a_crash_lets_so_many_mutations_pass_and_nothing_after_them() {
    let (vfs, file) = faulty();
    let before = vfs.mutations();
    assert_eq!(before, 2, "creating the file and syncing its folder");
    vfs.crash_after(3);
    file.write_at(b"ab", 0).unwrap();
    file.sync_data().unwrap();
    file.read_at(&mut [0], 0).unwrap();
    file.write_at(b"cd", 2).unwrap();
    assert!(!vfs.is_crashed());
    file.sync_data().unwrap_err();
    assert!(vfs.is_crashed());
    assert_eq!(vfs.mutations(), before + 3);
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(vfs.open(path("a.log"), OpenMode::Read).is_err());
    assert!(vfs.clone().metadata(path("a.log")).is_err());
    assert_eq!(surviving(&vfs, 0), b"ab", "the sync at the crash had no effect");
    assert!((0..50).any(|seed| surviving(&vfs, seed) == b"abcd"), "its bytes may be there all the same");
}

#[test]
fn the_write_at_the_crash_may_survive_in_part() {
    let (vfs, file) = faulty();
    vfs.crash_after(0);
    file.write_at(b"abcd", 0).unwrap_err();
    assert_eq!(surviving(&vfs, 0), b"");
    let survivors: std::collections::BTreeSet<_> = (0..200).map(|seed| surviving(&vfs, seed)).collect();
    assert!(survivors.contains(&b"ab"[..]) && survivors.contains(&b"abcd"[..]) && survivors.contains(&b"a\0\0\0"[..]));
}

#[test]
fn seeded_faults_repeat_with_their_seed_and_end_when_cleared() {
    let run = |seed| {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let file = vfs.open(path("a"), OpenMode::Create).unwrap();
        vfs.inject_randomly(seed, 0.3);
        let results: Vec<bool> = (0..200).map(|index| file.write_at(b"abc", index).is_ok()).collect();
        vfs.clear_faults();
        file.write_at(b"abc", 0).unwrap();
        (results, vfs.faults_struck())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let (_, struck) = run(3);
    assert!((30..90).contains(&struck), "{struck} of 200 at 0.3");
    assert!(FaultyVfs::seeded(MemoryVfs::new(), 1, 1.0).read_dir(path("/")).is_err());
}

#[test]
fn faults_work_over_the_disk_too() {
    let folder = tempfile::tempdir().unwrap();
    let vfs = FaultyVfs::over(Arc::new(DiskVfs::new()));
    let file = vfs.open(&folder.path().join("a"), OpenMode::Create).unwrap();
    vfs.inject(Fault::new(Operation::Sync, EIO));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert!(vfs.crash_image(0).is_none());
}

/// Long enough for any thread to get its turn, and the end of a test that would hang.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_fault_can_strike_any_call_or_any_change_the_nth_or_all_from_it_on() {
    let (vfs, file) = faulty();
    vfs.inject(Fault::new(Operation::Any, EIO).nth(3));
    file.size().unwrap();
    file.write_at(b"a", 0).unwrap();
    assert!(vfs.read_dir(path("/")).is_err());
    vfs.read_dir(path("/")).unwrap();
    assert_eq!(vfs.faults_struck(), 1);

    vfs.inject(Fault::new(Operation::Mutation, EIO).from_nth(2));
    file.read_at(&mut [0], 0).unwrap();
    file.write_at(b"b", 1).unwrap();
    vfs.open(path("a.log"), OpenMode::Create).expect("opening what is there changes nothing");
    assert!(vfs.open(path("new"), OpenMode::Create).is_err());
    assert!(file.sync_data().is_err() && vfs.rename(path("a.log"), path("b")).is_err());
    file.map(2).unwrap();
    vfs.clear_faults();
    file.sync_data().unwrap();
}

#[test]
fn every_call_is_counted_once() {
    let (vfs, file) = faulty();
    let before = (vfs.calls(), vfs.mutations());
    file.write_at(b"a", 0).unwrap();
    file.size().unwrap();
    file.map(1).unwrap();
    vfs.metadata(path("a.log")).unwrap();
    vfs.inject(Fault::new(Operation::Read, EIO));
    file.read_at(&mut [0], 0).unwrap_err();
    assert_eq!((vfs.calls(), vfs.mutations()), (before.0 + 5, before.1 + 1));
    vfs.crash_after(0);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap_err();
    assert_eq!(vfs.calls(), before.0 + 6, "the crash is the last call");
}

#[test]
fn a_fault_is_kept_to_the_paths_of_its_filter() {
    let (vfs, file) = faulty();
    let rest = vfs.open(path("a.log.deleted"), OpenMode::Create).unwrap();
    vfs.inject(Fault::new(Operation::Write, EIO).on(PathFilter::ends_with(".log")).from_nth(1));
    rest.write_at(b"a", 0).unwrap();
    file.write_at(b"a", 0).unwrap_err();
    vfs.clear_faults();
    let is_long = PathFilter::matching(|path| path.as_os_str().len() > 5);
    let fault = Fault { path_contains: "deleted".into(), ..Fault::new(Operation::Write, EIO) };
    vfs.inject(fault.on(is_long.clone()));
    file.write_at(b"a", 0).unwrap();
    rest.write_at(b"a", 0).unwrap_err();
    assert_eq!(is_long, is_long.clone());
    assert_ne!(is_long, PathFilter::matching(|_| true));
}

#[test]
fn an_error_number_of_the_system_arrives_as_it_is() {
    let (vfs, file) = faulty();
    vfs.inject(Fault::new(Operation::Any, Effect::OsError(24)).from_nth(1));
    let refused = file.write_at(b"abc", 0).unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(24));
    file.sync_data().unwrap_err();
    vfs.clear_faults();
    assert_eq!(file.size().unwrap(), 0);
    file.write_at(b"abc", 0).unwrap();
    vfs.inject(Fault::new(Operation::Sync, Effect::OsError(5)));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(surviving(&vfs, 0), b"", "a failed sync loses bytes, whatever its error");
}

#[test]
fn a_hook_runs_once_before_the_call_it_names_and_may_use_the_file_system() {
    let (vfs, file) = faulty();
    let other = vfs.open(path("b.index"), OpenMode::Create).unwrap();
    let (inner, seen) = (vfs.clone(), Arc::clone(&file));
    vfs.hook(Hook::at(Operation::Write).path(".log").nth(2), move |path| {
        assert_eq!((path, seen.size().unwrap()), (Path::new("a.log"), 1));
        inner.open(Path::new("made"), OpenMode::Create).unwrap();
        seen.write_at(b"hook", 10).unwrap();
    });
    other.write_at(b"x", 0).unwrap();
    file.write_at(b"1", 0).unwrap();
    assert_eq!(vfs.metadata(path("made")).unwrap(), None);
    file.write_at(b"2", 1).unwrap();
    file.write_at(b"3", 2).unwrap();
    assert_eq!(file.map(14).unwrap(), "123\0\0\0\0\0\0\0hook");
    assert!(vfs.metadata(path("made")).unwrap().is_some());
}

#[test]
fn a_hook_can_let_its_own_call_fail_or_be_the_last() {
    let (vfs, file) = faulty();
    let inner = vfs.clone();
    vfs.hook(Hook::at(Operation::Write), move |_| inner.inject(Fault::new(Operation::Write, EIO)));
    file.write_at(b"1", 0).unwrap_err();
    file.write_at(b"1", 0).unwrap();
    let inner = vfs.clone();
    vfs.hook(Hook::at(Operation::Mutation), move |_| inner.crash());
    file.size().unwrap();
    file.write_at(b"2", 1).unwrap_err();
    assert!(vfs.is_crashed());
    let unreached = Arc::new(());
    let held = Arc::clone(&unreached);
    vfs.hook(Hook::at(Operation::Any), move |_| drop(held));
    file.size().unwrap_err();
    vfs.clear_hooks();
    assert_eq!(Arc::strong_count(&unreached), 1, "no hook fires after the end, and a cleared one is dropped");
}

#[test]
fn a_gate_holds_one_call_until_it_is_released() {
    let (vfs, file) = faulty();
    let gate = vfs.block(Hook::at(Operation::Write).on(PathFilter::ends_with(".log")));
    assert!(!gate.wait_until_reached(Duration::from_millis(1)), "nobody is there");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_at(b"late", 0));
        assert!(gate.wait_until_reached(PATIENCE) && gate.is_reached());
        vfs.open(path("b.log"), OpenMode::Create).unwrap().write_at(b"early", 0).unwrap();
        file.write_at(b"early", 0).expect("the gate holds one call");
        gate.release();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(file.map(5).unwrap(), "latey");
    assert!(gate.wait_until_reached(Duration::ZERO), "who was released was there");
}

#[test]
fn a_gate_that_is_dropped_or_released_early_holds_nobody() {
    let (vfs, file) = faulty();
    let gate = vfs.block(Hook::at(Operation::Write));
    gate.release();
    file.write_at(b"a", 0).unwrap();
    drop(vfs.block(Hook::at(Operation::Write)));
    file.write_at(b"a", 0).unwrap();
    let gate = vfs.block(Hook::at(Operation::Write));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_at(b"b", 0));
        assert!(gate.wait_until_reached(PATIENCE));
        drop(gate);
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn a_call_that_waits_at_a_gate_when_the_machine_ends_does_nothing() {
    let (vfs, file) = faulty();
    let gate = vfs.block(Hook::at(Operation::Write));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_at(b"late", 0));
        assert!(gate.wait_until_reached(PATIENCE));
        vfs.crash();
        gate.release();
        writer.join().unwrap().unwrap_err();
    });
    assert_eq!(vfs.crash_image(1).unwrap().metadata(path("a.log")).unwrap().unwrap().size, 0);
}

#[test]
fn a_look_uses_up_no_fault_and_no_hook_and_counts_nothing() {
    let (vfs, file) = faulty();
    vfs.inject(Fault::new(Operation::Any, EIO));
    vfs.crash_after(1);
    vfs.hook(Hook::at(Operation::Sync), |_| panic!("reached by a look"));
    let before = (vfs.calls(), vfs.mutations());
    vfs.undisturbed(|| {
        file.write_at(b"look", 0).unwrap();
        file.sync_data().unwrap();
    });
    assert_eq!((vfs.calls(), vfs.mutations(), vfs.faults_struck()), (before.0, before.1, 0));
    vfs.clear_hooks();
    file.size().unwrap_err();
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| vfs.undisturbed(|| panic!("in a look"))));
    assert!(panicked.is_err());
    file.write_at(b"a", 0).unwrap();
    file.write_at(b"b", 0).unwrap_err();
    vfs.undisturbed(|| file.size()).expect_err("the end of the machine is no fault");
}
