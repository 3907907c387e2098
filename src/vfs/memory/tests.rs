//! The shared behaviours, then one test for each sentence of the durability contract, shown by crash images.

use std::path::Path;

use super::*;
use crate::vfs::conformance;

fn in_memory(check: impl FnOnce(&dyn Vfs, &Path)) {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(Path::new("/root")).unwrap();
    check(&vfs, Path::new("/root"));
}

conformance::suite!(in_memory);

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A file with durable content and a durable name.
fn durable_file(vfs: &MemoryVfs, name: &str, content: &[u8]) -> Arc<dyn VfsFile> {
    let file = vfs.open(path(name), OpenMode::Create).unwrap();
    file.write_at(content, 0).unwrap();
    file.sync_data().unwrap();
    vfs.sync_dir(path(name).parent().unwrap()).unwrap();
    file
}

fn content(vfs: &MemoryVfs, name: &str) -> Option<Vec<u8>> {
    let file = vfs.open(path(name), OpenMode::Read).ok()?;
    Some(file.map(file.size().unwrap()).unwrap().to_vec())
}

#[test]
fn an_unsynced_write_survives_the_process_and_not_the_machine() {
    let vfs = MemoryVfs::new();
    let file = durable_file(&vfs, "a", b"abc");
    file.write_at(b"XYZ", 1).unwrap();
    assert_eq!(content(&vfs, "a").unwrap(), b"aXYZ");
    assert_eq!(content(&vfs.process_crash_image(), "a").unwrap(), b"aXYZ");
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"abc");
    assert_eq!(content(&vfs.process_crash_image().crash_image(), "a").unwrap(), b"abc");
}

#[test]
fn a_sync_makes_every_byte_before_it_and_the_length_durable() {
    let vfs = MemoryVfs::new();
    let file = durable_file(&vfs, "a", b"abcdef");
    let other_handle = vfs.open(path("a"), OpenMode::Write).unwrap();
    other_handle.write_at(b"gh", 6).unwrap();
    file.sync_data().unwrap();
    file.set_size(7).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"abcdefgh");
    file.sync_data().unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"abcdefg");
}

#[test]
fn a_created_name_is_durable_after_the_sync_of_its_folder() {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(path("t")).unwrap();
    let file = vfs.open(path("t/a"), OpenMode::Create).unwrap();
    file.write_at(b"abc", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&vfs.crash_image(), "t/a"), None);
    vfs.sync_dir(path("t")).unwrap();
    assert!(vfs.crash_image().read_dir(path("/")).unwrap().is_empty(), "the folder's own name isn't synced yet");
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "t/a").unwrap(), b"abc");
}

#[test]
fn a_name_that_was_synced_does_not_make_its_bytes_durable() {
    let vfs = MemoryVfs::new();
    vfs.open(path("a"), OpenMode::Create).unwrap().write_at(b"abc", 0).unwrap();
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"");
}

#[test]
fn a_removed_name_is_back_until_its_folder_is_synced() {
    let vfs = MemoryVfs::new();
    durable_file(&vfs, "a", b"abc");
    vfs.remove_file(path("a")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"abc");
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a"), None);
}

#[test]
fn a_rename_leaves_the_target_old_or_new_and_never_neither() {
    let vfs = MemoryVfs::new();
    durable_file(&vfs, "a", b"old");
    let new = vfs.open(path("a.tmp"), OpenMode::Create).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.sync_data().unwrap();
    vfs.rename(path("a.tmp"), path("a")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"old");
    let mut seen = [false; 2];
    for seed in 0..200 {
        let image = vfs.torn_crash_image(seed);
        let found = content(&image, "a").unwrap();
        assert!(found == b"old" || found == b"new", "seed {seed}: {found:?}");
        seen[usize::from(found == b"new")] = true;
        assert!(found == b"old" || content(&image, "a.tmp").is_none(), "seed {seed}: one file under two names");
    }
    assert_eq!(seen, [true; 2]);
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "a").unwrap(), b"new");
    assert_eq!(content(&vfs.crash_image(), "a.tmp"), None);
}

#[test]
fn a_rename_between_folders_is_durable_as_a_whole() {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(path("x")).unwrap();
    vfs.create_dir_all(path("y")).unwrap();
    vfs.sync_dir(path("/")).unwrap();
    durable_file(&vfs, "x/a", b"abc");
    vfs.rename(path("x/a"), path("y/b")).unwrap();
    for seed in 0..50 {
        let image = vfs.torn_crash_image(seed);
        assert_ne!(content(&image, "x/a").is_some(), content(&image, "y/b").is_some(), "seed {seed}");
    }
    vfs.sync_dir(path("y")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "x/a"), None);
    assert_eq!(content(&vfs.crash_image(), "y/b").unwrap(), b"abc");
}

#[test]
fn a_removed_folder_comes_back_with_its_files_or_not_at_all() {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(path("t")).unwrap();
    durable_file(&vfs, "t/a", b"abc");
    vfs.sync_dir(path("/")).unwrap();
    vfs.remove_file(path("t/a")).unwrap();
    vfs.remove_dir(path("t")).unwrap();
    assert_eq!(content(&vfs.crash_image(), "t/a").unwrap(), b"abc");
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(vfs.crash_image().metadata(path("t")).unwrap(), None);
    vfs.create_dir_all(path("t")).unwrap();
    vfs.sync_dir(path("/")).unwrap();
    assert_eq!(vfs.crash_image().read_dir(path("t")).unwrap(), []);
}

#[test]
fn an_image_is_a_file_system_of_its_own_without_locks() {
    let vfs = MemoryVfs::new();
    let file = durable_file(&vfs, "a", b"abc");
    let _held = vfs.lock_dir(path("/")).unwrap();
    for (image, same_boot) in [(vfs.crash_image(), false), (vfs.process_crash_image(), true)] {
        assert_eq!(image.boot_id() == vfs.boot_id(), same_boot);
        drop(image.lock_dir(path("/")).unwrap());
        image.open(path("a"), OpenMode::Write).unwrap().write_at(b"zzzz", 0).unwrap();
        assert_eq!(content(&vfs, "a").unwrap(), b"abc");
        file.write_at(b"abc", 0).unwrap();
        assert_eq!(content(&image, "a").unwrap(), b"zzzz");
        assert_eq!(content(&image.crash_image(), "a").unwrap(), b"abc");
    }
    assert!(vfs.clone().lock_dir(path("/")).is_err(), "a clone shares the locks");
}

#[test]
fn the_process_image_keeps_a_file_one_file_under_its_old_and_new_name() {
    let vfs = MemoryVfs::new();
    durable_file(&vfs, "a", b"abc");
    vfs.rename(path("a"), path("b")).unwrap();
    let image = vfs.process_crash_image();
    let file = image.open(path("b"), OpenMode::Write).unwrap();
    file.write_at(b"d", 3).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&image.crash_image(), "a").unwrap(), b"abcd");
}

#[test]
fn torn_images_keep_synced_bytes_and_show_every_fate_of_the_others() {
    let vfs = MemoryVfs::new();
    let file = durable_file(&vfs, "a", b"synced");
    file.write_at(b"1111", 6).unwrap();
    file.write_at(b"2222", 10).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        let found = content(&vfs.torn_crash_image(seed), "a").unwrap();
        assert_eq!(content(&vfs.torn_crash_image(seed), "a").unwrap(), found, "seed {seed} repeats");
        assert!(found.starts_with(b"synced") && found.len() <= 14, "seed {seed}");
        seen.insert(found);
    }
    for expected in
        [&b"synced"[..], b"synced11112222", b"synced1111", b"synced11", b"synced\x00\x00\x00\x002222", b"synced11\0\0"]
    {
        assert!(seen.contains(expected), "never seen: {:?}", String::from_utf8_lossy(expected));
    }
}

#[test]
fn syncing_often_costs_the_new_bytes_and_not_the_whole_file() {
    let vfs = MemoryVfs::new();
    let file = durable_file(&vfs, "a", b"");
    let chunk = vec![7; 1 << 10];
    for index in 0..20_000 {
        file.write_at(&chunk, index << 10).unwrap();
        file.sync_data().unwrap();
    }
    assert_eq!(vfs.crash_image().metadata(path("a")).unwrap().unwrap().size, 20_000 << 10);
}
