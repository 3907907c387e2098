//! What every back end must do alike: one suite of behaviours, run over each by [`suite!`].
//!
//! A back end calls `suite!(on_it)` in its tests, where `on_it(check)` makes a fresh back end with an existing root folder and
//! hands both to `check`.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::{DirEntry, OpenMode, Vfs, VfsFile};
use crate::types::Timestamp;

fn create(vfs: &dyn Vfs, path: &Path, content: &[u8]) -> Arc<dyn VfsFile> {
    let file = vfs.open(path, OpenMode::Create).unwrap();
    file.write_at(content, 0).unwrap();
    file
}

fn content(vfs: &dyn Vfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path, OpenMode::Read).unwrap();
    file.map(file.size().unwrap()).unwrap().to_vec()
}

pub(super) fn writes_land_at_their_positions_and_gaps_read_as_zeros(vfs: &dyn Vfs, root: &Path) {
    let file = create(vfs, &root.join("a"), b"hello");
    file.write_at(b"world", 8).unwrap();
    file.write_at(b"J", 0).unwrap();
    file.write_at(b"", 100).unwrap();
    assert_eq!(file.size().unwrap(), 13);
    assert_eq!(content(vfs, &root.join("a")), b"Jello\0\0\0world");
}

pub(super) fn reads_stop_at_the_end_of_the_file(vfs: &dyn Vfs, root: &Path) {
    let file = create(vfs, &root.join("a"), b"0123456789");
    let mut buffer = [b'-'; 4];
    assert_eq!((file.read_at(&mut buffer, 3).unwrap(), &buffer), (4, b"3456"));
    assert_eq!((file.read_at(&mut buffer, 8).unwrap(), &buffer[..2]), (2, &b"89"[..]));
    assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

pub(super) fn each_open_mode_treats_files_as_it_says(vfs: &dyn Vfs, root: &Path) {
    let path = root.join("a");
    for mode in [OpenMode::Read, OpenMode::Write] {
        let missing = vfs.open(&path, mode).unwrap_err();
        assert!(missing.is_not_found());
        assert_eq!(missing.path(), path);
    }
    create(vfs, &path, b"abc");
    assert_eq!(vfs.open(&path, OpenMode::Create).unwrap().size().unwrap(), 3);
    vfs.open(&path, OpenMode::Write).unwrap().write_at(b"d", 3).unwrap();
    assert!(vfs.open(&path, OpenMode::Read).unwrap().write_at(b"x", 0).is_err());
    assert_eq!(content(vfs, &path), b"abcd");
    assert_eq!(vfs.open(&path, OpenMode::Truncate).unwrap().size().unwrap(), 0);
    assert!(vfs.open(&root.join("no/where"), OpenMode::Create).unwrap_err().is_not_found());
    assert_eq!(vfs.open(&path.join("b"), OpenMode::Create).unwrap_err().io_kind(), ErrorKind::NotADirectory);
    assert_eq!(vfs.open(root, OpenMode::Create).unwrap_err().io_kind(), ErrorKind::IsADirectory);
}

pub(super) fn rename_replaces_a_file_and_handles_follow_their_file(vfs: &dyn Vfs, root: &Path) {
    let (from, to) = (root.join("a.tmp"), root.join("a"));
    let new = create(vfs, &from, b"new");
    let old = create(vfs, &to, b"old");
    vfs.rename(&from, &to).unwrap();
    assert_eq!(content(vfs, &to), b"new");
    assert_eq!(vfs.metadata(&from).unwrap(), None);
    new.write_at(b"er", 3).unwrap();
    assert_eq!(content(vfs, &to), b"newer");
    assert_eq!(old.map(3).unwrap(), "old");
    vfs.rename(&to, &to).unwrap();
    assert_eq!(content(vfs, &to), b"newer");
    assert!(vfs.rename(&from, &to).unwrap_err().is_not_found());
}

pub(super) fn folders_are_renamed_with_what_is_in_them(vfs: &dyn Vfs, root: &Path) {
    let (topic, deleted) = (root.join("topic-0"), root.join("topic-0.deleted"));
    vfs.create_dir_all(&topic.join("inner")).unwrap();
    create(vfs, &topic.join("a"), b"a");
    assert_eq!(vfs.rename(&topic, &topic.join("inner/x")).unwrap_err().io_kind(), ErrorKind::InvalidInput);
    vfs.rename(&topic, &deleted).unwrap();
    assert_eq!(content(vfs, &deleted.join("a")), b"a");
    assert_eq!(vfs.metadata(&topic).unwrap(), None);
    vfs.create_dir_all(&topic).unwrap();
    assert_eq!(vfs.rename(&topic, &deleted).unwrap_err().io_kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(vfs.rename(&topic, &deleted.join("a")).unwrap_err().io_kind(), ErrorKind::NotADirectory);
    assert_eq!(vfs.rename(&deleted.join("a"), &topic).unwrap_err().io_kind(), ErrorKind::IsADirectory);
    vfs.rename(&deleted, &topic).unwrap();
    assert_eq!(content(vfs, &topic.join("a")), b"a");
}

pub(super) fn a_folder_lists_its_entries_sorted(vfs: &dyn Vfs, root: &Path) {
    for name in ["b", "a.log", "B", "é", "10", "9"] {
        create(vfs, &root.join(name), b"");
    }
    vfs.create_dir_all(&root.join("d/e")).unwrap();
    vfs.create_dir_all(&root.join("d/e")).unwrap();
    let entry = |name: &str, is_dir| DirEntry { name: name.into(), is_dir };
    let files = ["10", "9", "B", "a.log", "b"].map(|name| entry(name, false));
    let expected: Vec<_> = files.into_iter().chain([entry("d", true), entry("é", false)]).collect();
    assert_eq!(vfs.read_dir(root).unwrap(), expected);
    assert!(vfs.read_dir(&root.join("none")).unwrap_err().is_not_found());
    assert_eq!(vfs.read_dir(&root.join("b")).unwrap_err().io_kind(), ErrorKind::NotADirectory);
}

pub(super) fn removed_names_are_gone_and_wrong_kinds_are_refused(vfs: &dyn Vfs, root: &Path) {
    let folder = root.join("d");
    vfs.create_dir_all(&folder).unwrap();
    let file = create(vfs, &folder.join("a"), b"abc");
    assert_eq!(vfs.remove_dir(&folder).unwrap_err().io_kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(vfs.remove_dir(&folder.join("a")).unwrap_err().io_kind(), ErrorKind::NotADirectory);
    assert!(vfs.remove_file(&folder).is_err());
    vfs.remove_file(&folder.join("a")).unwrap();
    assert!(vfs.remove_file(&folder.join("a")).unwrap_err().is_not_found());
    assert_eq!(file.map(3).unwrap(), "abc");
    file.write_at(b"d", 3).unwrap();
    assert_eq!(file.size().unwrap(), 4);
    vfs.remove_dir(&folder).unwrap();
    assert!(vfs.remove_dir(&folder).unwrap_err().is_not_found());
    assert_eq!(vfs.read_dir(root).unwrap(), []);
}

pub(super) fn metadata_tells_size_time_and_kind_and_none_for_what_is_missing(vfs: &dyn Vfs, root: &Path) {
    create(vfs, &root.join("a"), b"abc");
    let file = vfs.metadata(&root.join("a")).unwrap().unwrap();
    assert_eq!((file.size, file.is_dir), (3, false));
    assert!(file.modified.unwrap().millis() > 1_500_000_000_000);
    assert!(vfs.metadata(root).unwrap().unwrap().is_dir);
    assert_eq!(vfs.metadata(&root.join("b")).unwrap(), None);
    assert_eq!(vfs.metadata(&root.join("b/c")).unwrap(), None);
}

pub(super) fn a_set_time_is_told_until_the_next_write(vfs: &dyn Vfs, root: &Path) {
    let path = root.join("a");
    let file = create(vfs, &path, b"abc");
    let modified = || vfs.metadata(&path).unwrap().unwrap().modified;
    for millis in [0, 1_234_567_890_123] {
        let time = Timestamp::from_millis(millis);
        file.set_modified(time.unwrap()).unwrap();
        assert_eq!(modified(), time);
    }
    file.sync_data().unwrap();
    assert_eq!(modified(), Timestamp::from_millis(1_234_567_890_123));
    assert_eq!(content(vfs, &path), b"abc");
    file.write_at(b"d", 3).unwrap();
    assert!(modified().unwrap().millis() > 1_500_000_000_000);
}

pub(super) fn sizes_are_cut_extended_and_allocated_with_zeros(vfs: &dyn Vfs, root: &Path) {
    let file = create(vfs, &root.join("a"), b"abcdef");
    file.set_size(2).unwrap();
    file.set_size(4).unwrap();
    assert_eq!(content(vfs, &root.join("a")), b"ab\0\0");
    file.allocate(6).unwrap();
    file.allocate(3).unwrap();
    file.allocate(0).unwrap();
    assert_eq!(content(vfs, &root.join("a")), b"ab\0\0\0\0");
    assert!(file.allocate(u64::MAX).is_err());
    assert!(file.set_size(u64::MAX).is_err());
    assert!(file.write_at(b"x", u64::MAX).is_err());
    assert_eq!(file.size().unwrap(), 6);
}

pub(super) fn a_map_stays_as_it_was_after_growth_rename_and_removal(vfs: &dyn Vfs, root: &Path) {
    let file = create(vfs, &root.join("a"), b"0123456789");
    let map = file.map(10).unwrap();
    let part = file.map(4).unwrap();
    assert_eq!(file.map(11).unwrap_err().io_kind(), ErrorKind::UnexpectedEof);
    assert_eq!(file.map(0).unwrap(), "");
    file.write_at(&[b'x'; 100_000], 10).unwrap();
    vfs.rename(&root.join("a"), &root.join("b")).unwrap();
    assert_eq!(map, "0123456789");
    vfs.remove_file(&root.join("b")).unwrap();
    drop(file);
    assert_eq!(map, "0123456789");
    assert_eq!(part, "0123");
}

pub(super) fn a_lock_excludes_until_it_is_dropped(vfs: &dyn Vfs, root: &Path) {
    let held = vfs.lock_dir(root).unwrap();
    assert_eq!(vfs.lock_dir(root).unwrap_err().io_kind(), ErrorKind::WouldBlock);
    vfs.create_dir_all(&root.join("other")).unwrap();
    let other = vfs.lock_dir(&root.join("other")).unwrap();
    assert_eq!(vfs.lock_dir(root).unwrap_err().io_kind(), ErrorKind::WouldBlock);
    drop(held);
    drop(vfs.lock_dir(root).unwrap());
    for name in [".lock", ".stratalog.lock"] {
        assert!(vfs.metadata(&root.join(name)).unwrap().is_some(), "{name} stays");
    }
    drop(other);
    assert!(vfs.lock_dir(&root.join("none")).unwrap_err().is_not_found());
}

pub(super) fn syncs_succeed_and_the_boot_has_one_name(vfs: &dyn Vfs, root: &Path) {
    create(vfs, &root.join("a"), b"abc").sync_data().unwrap();
    vfs.open(&root.join("a"), OpenMode::Read).unwrap().sync_data().unwrap();
    vfs.sync_dir(root).unwrap();
    vfs.sync_dir(Path::new("")).unwrap();
    assert!(vfs.sync_dir(&root.join("none")).unwrap_err().is_not_found());
    assert_eq!(vfs.boot_id(), vfs.boot_id());
}

/// Makes a test of each behaviour, run by the given function.
macro_rules! suite {
    ($on_it:ident) => {
        conformance::suite! { @each $on_it:
            writes_land_at_their_positions_and_gaps_read_as_zeros
            reads_stop_at_the_end_of_the_file
            each_open_mode_treats_files_as_it_says
            rename_replaces_a_file_and_handles_follow_their_file
            folders_are_renamed_with_what_is_in_them
            a_folder_lists_its_entries_sorted
            removed_names_are_gone_and_wrong_kinds_are_refused
            metadata_tells_size_time_and_kind_and_none_for_what_is_missing
            a_set_time_is_told_until_the_next_write
            sizes_are_cut_extended_and_allocated_with_zeros
            a_map_stays_as_it_was_after_growth_rename_and_removal
            a_lock_excludes_until_it_is_dropped
            syncs_succeed_and_the_boot_has_one_name
        }
    };
    (@each $on_it:ident: $($behaviour:ident)*) => {
        $(#[test]
        fn $behaviour() {
            $on_it(conformance::$behaviour);
        })*
    };
}
pub(super) use suite;
