use super::*;
use std::io::Write;

const LIMITS: LayerLimits = LayerLimits { bytes: 1 << 20, entries: 100 };

/// Builds archives entry by entry, also ones no tool would make.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, name: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        // Past the checks of the library: an attacker has none.
        let bytes = header.as_old_mut();
        bytes.name[..name.len()].copy_from_slice(name.as_bytes());
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, 0o644, "", content.as_bytes())
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(name, EntryType::Directory, mode, "", b"")
    }

    fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(name, EntryType::Symlink, 0o777, to, b"")
    }

    fn hardlink(self, name: &str, to: &str) -> Self {
        self.entry(name, EntryType::Link, 0o644, to, b"")
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn unpack(&self, name: &str, tar: Vec<u8>, lower: &[PathBuf]) -> Result<PathBuf, Error> {
        self.unpack_as(name, tar.clone(), &crate::artifact::digest_of(&tar), Compression::None, lower, LIMITS)
    }

    fn unpack_as(
        &self,
        name: &str,
        blob: Vec<u8>,
        diff_id: &str,
        compression: Compression,
        lower: &[PathBuf],
        limits: LayerLimits,
    ) -> Result<PathBuf, Error> {
        let path = self.directory.path().join(format!("{name}.tar"));
        fs::write(&path, blob).unwrap();
        let target = self.directory.path().join(name);
        unpack(&path, "sha256:blob", diff_id, compression, &target, lower, limits).map(|_| target)
    }

    fn refused(&self, tar: Vec<u8>, lower: &[PathBuf]) -> String {
        let before = self.outside();
        let error = self.unpack("evil", tar, lower).expect_err("it was taken").to_string();
        assert_eq!(self.outside(), before, "something was written outside the layer");
        fs::remove_dir_all(self.directory.path().join("evil")).unwrap();
        error
    }

    /// What lies beside the layers.
    fn outside(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("evil"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn files_directories_links_and_modes_arrive_as_they_were() {
    let bench = Bench::new();
    let tar = Tar::new()
        .dir("./", 0o755)
        .dir("tmp/", 0o1777)
        .file("/etc/motd", "hello")
        .entry("bin/su", EntryType::Regular, 0o4755, "", b"x")
        .symlink("bin/sh", "../bin/su")
        .hardlink("bin/su2", "bin/su")
        .symlink("absolute", "/etc/motd")
        .done();
    let layer = bench.unpack("a", tar, &[]).unwrap();
    assert_eq!(fs::read_to_string(layer.join("etc/motd")).unwrap(), "hello");
    assert_eq!(fs::metadata(layer.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(layer.join("bin/su")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(layer.join("bin/sh")).unwrap(), Path::new("../bin/su"));
    assert_eq!(fs::read_link(layer.join("absolute")).unwrap(), Path::new("/etc/motd"));
    assert_eq!(fs::metadata(layer.join("bin/su2")).unwrap().nlink(), 2);
    let modified = fs::metadata(layer.join("tmp")).unwrap().modified().unwrap();
    assert_eq!(modified, UNIX_EPOCH + Duration::from_secs(1_000_000_000));
}

#[test]
fn names_that_lead_outside_are_refused() {
    let bench = Bench::new();
    for name in ["../escaped", "a/../../escaped", "/../escaped"] {
        let error = bench.refused(Tar::new().file(name, "x").done(), &[]);
        assert!(error.contains("leads out of the image"), "{error}");
    }
}

#[test]
fn a_name_through_a_symbolic_link_leads_to_where_the_container_would_find_it_and_never_out_of_the_root() {
    let bench = Bench::new();
    let outside = bench.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let absolute = outside.to_str().unwrap();
    let links = [
        (absolute, absolute.trim_start_matches('/')),
        ("../outside", "outside"),
        ("../../../../outside/./", "outside"),
        (".", ""),
        ("deep/../other", "other"),
    ];
    for (i, (target, found)) in links.into_iter().enumerate() {
        let tar = Tar::new().symlink("link", target).file("link/file", "x").done();
        let layer = bench.unpack(&format!("own{i}"), tar, &[]).unwrap();
        assert_eq!(fs::read_to_string(layer.join(found).join("file")).unwrap(), "x", "{target}");
        assert!(fs::symlink_metadata(layer.join("link")).unwrap().is_symlink());
        // The link of a layer below leads there as well.
        let lower =
            bench.unpack(&format!("lower{i}"), Tar::new().symlink("link", target).done(), &[]).unwrap();
        let tar = Tar::new().file("link/file", "x").done();
        let layer = bench.unpack(&format!("upper{i}"), tar, &[lower]).unwrap();
        assert_eq!(fs::read_to_string(layer.join(found).join("file")).unwrap(), "x", "{target}");
        assert!(fs::symlink_metadata(layer.join("link")).is_err(), "the link below is hidden");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{target}");
    }
    // A link to a link, as rules_oci writes runfiles, and whiteouts and hard links through one.
    let tar = Tar::new()
        .file("app/main.runfiles/lib/a", "a")
        .symlink("runfiles", "app/main.runfiles")
        .symlink("lib", "/runfiles/lib")
        .file("lib/b", "b")
        .hardlink("c", "lib/a")
        .done();
    let layer = bench.unpack("runfiles", tar, &[]).unwrap();
    assert_eq!(fs::read_to_string(layer.join("app/main.runfiles/lib/b")).unwrap(), "b");
    assert_eq!(fs::read_to_string(layer.join("c")).unwrap(), "a");
}

#[test]
fn links_that_never_end_are_refused() {
    let bench = Bench::new();
    let tar = Tar::new().symlink("a", "b/x").symlink("b", "a/x").file("a/file", "x").done();
    let error = bench.refused(tar, &[]);
    assert!(error.contains("more than 40 symbolic links"), "{error}");
}

#[test]
fn a_link_that_an_opaque_directory_hides_is_not_followed() {
    if !nix::unistd::geteuid().is_root() {
        // Only root may make whiteouts: without root no Linux image is unpacked at all.
        return;
    }
    let bench = Bench::new();
    let lower = bench.unpack("lower", Tar::new().symlink("app/lib", "../elsewhere").done(), &[]).unwrap();
    let tar = Tar::new().file("app/.wh..wh..opq", "").file("app/lib/file", "x").done();
    let layer = bench.unpack("upper", tar, &[lower]).unwrap();
    assert_eq!(fs::read_to_string(layer.join("app/lib/file")).unwrap(), "x");
}

#[test]
fn a_file_replaces_a_symbolic_link_instead_of_following_it() {
    let bench = Bench::new();
    let victim = bench.directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let tar = Tar::new().symlink("f", victim.to_str().unwrap()).file("f", "mine").done();
    let layer = bench.unpack("a", tar, &[]).unwrap();
    assert_eq!(fs::read_to_string(layer.join("f")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn hard_links_reach_nothing_outside() {
    let bench = Bench::new();
    let error = bench.refused(Tar::new().hardlink("shadow", "../../etc/shadow").done(), &[]);
    assert!(error.contains("leads out of the image"), "{error}");
    let error = bench.refused(Tar::new().hardlink("shadow", "/etc/shadow").done(), &[]);
    assert!(error.contains("not there"), "{error}");
    let error = bench.refused(Tar::new().symlink("e", "/etc").hardlink("shadow", "e/shadow").done(), &[]);
    assert!(error.contains("a hard link to etc/shadow, which is not there"), "{error}");
    // A link to a symbolic link links the link, not what it points to.
    let layer =
        bench.unpack("a", Tar::new().symlink("s", "/etc/shadow").hardlink("h", "s").done(), &[]).unwrap();
    assert!(fs::symlink_metadata(layer.join("h")).unwrap().is_symlink());
}

#[test]
fn a_hard_link_is_not_looked_up_through_a_symbolic_link_of_a_lower_layer() {
    let bench = Bench::new();
    let outside = bench.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of this machine").unwrap();
    let link = bench.unpack("link", Tar::new().symlink("a", "../outside").done(), &[]).unwrap();
    assert!(link.join("a/secret").exists(), "the link must lead to it for this test to mean anything");
    // The layer's own directory hides the link below, so its name is not refused.
    let tar = Tar::new().dir("a", 0o755).hardlink("stolen", "a/secret").done();
    let error = bench.refused(tar, &[link]);
    assert!(error.contains("not there"), "{error}");
}

#[test]
fn a_hard_link_to_a_lower_layer_copies_the_file_up() {
    let bench = Bench::new();
    let lower = bench.unpack("lower", Tar::new().file("a", "below").done(), &[]).unwrap();
    let upper = bench.unpack("upper", Tar::new().hardlink("b", "a").done(), &[lower]).unwrap();
    assert_eq!(fs::read_to_string(upper.join("b")).unwrap(), "below");
    assert_eq!(fs::metadata(upper.join("a")).unwrap().nlink(), 2);
}

#[test]
fn directories_an_archive_leaves_out_look_as_they_do_below() {
    let bench = Bench::new();
    let lower = bench.unpack("lower", Tar::new().dir("tmp", 0o1777).done(), &[]).unwrap();
    let upper =
        bench.unpack("upper", Tar::new().file("tmp/x", "").file("new/y", "").done(), &[lower]).unwrap();
    assert_eq!(fs::metadata(upper.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(upper.join("new")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn devices_are_left_out() {
    let bench = Bench::new();
    let tar = Tar::new().entry("dev/mem", EntryType::Char, 0o666, "", b"").file("f", "").done();
    let layer = bench.unpack("a", tar, &[]).unwrap();
    assert!(!layer.join("dev/mem").exists() && layer.join("f").exists());
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !nix::unistd::geteuid().is_root() {
        // Only root may make them: without root no Linux image is unpacked at all.
        return;
    }
    let bench = Bench::new();
    let tar = Tar::new()
        .file("etc/.wh.gone", "")
        .dir("fresh", 0o755)
        .file("fresh/.wh..wh..opq", "")
        .file("fresh/new", "")
        .file(".wh..wh.plnk", "")
        .done();
    let layer = bench.unpack("a", tar, &[]).unwrap();
    let gone = fs::symlink_metadata(layer.join("etc/gone")).unwrap();
    assert_eq!((gone.mode() & 0o170000, gone.rdev()), (0o020000, 0));
    let opaque = xattr::get(layer.join("fresh"), "trusted.overlay.opaque").unwrap();
    assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
    assert!(!layer.join(".wh..wh.plnk").exists());
}

#[test]
fn every_compression_is_read_and_the_tar_within_is_checked() {
    let bench = Bench::new();
    let tar = Tar::new().file("f", "content").done();
    let diff_id = crate::artifact::digest_of(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let blobs = [(gzip.finish().unwrap(), Compression::Gzip), (zstd, Compression::Zstd)];
    for (i, (blob, compression)) in blobs.into_iter().enumerate() {
        let layer =
            bench.unpack_as(&format!("l{i}"), blob.clone(), &diff_id, compression, &[], LIMITS).unwrap();
        assert_eq!(fs::read_to_string(layer.join("f")).unwrap(), "content");
        let other = crate::artifact::digest_of(b"other");
        let error = bench.unpack_as(&format!("x{i}"), blob, &other, compression, &[], LIMITS).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    }
}

#[test]
fn bombs_are_refused() {
    let bench = Bench::new();
    let zeros = vec![0u8; 4 << 20];
    let tar = Tar::new().entry("zeros", EntryType::Regular, 0o644, "", &zeros).done();
    let bomb = zstd::encode_all(&tar[..], 1).unwrap();
    assert!(bomb.len() < 10_000);
    let error = bench.unpack_as("bomb", bomb, "", Compression::Zstd, &[], LIMITS).unwrap_err().to_string();
    assert!(error.contains("unpacks to more than 1048576 bytes"), "{error}");
    let many = (0..101).fold(Tar::new(), |tar, i| tar.file(&i.to_string(), "")).done();
    let error = bench.unpack("many", many, &[]).unwrap_err().to_string();
    assert!(error.contains("more than 100 files"), "{error}");
}

#[test]
fn holes_and_copies_count_as_what_is_written() {
    let bench = Bench::new();
    // A file of 1 TiB that is one hole.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_path("hole").unwrap();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.sparse[0].set_offset(1 << 40);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &[][..]).unwrap();
    let error = bench.refused(tar.into_inner().unwrap(), &[]);
    assert!(error.contains("unpacks to more than 1048576 bytes"), "{error}");

    // Two files of a layer below, each within the limit.
    let large = "x".repeat(600_000);
    let lower = ["a", "b"].map(|name| {
        bench.unpack(&format!("lower-{name}"), Tar::new().file(name, &large).done(), &[]).unwrap()
    });
    let tar = Tar::new().hardlink("a2", "a").hardlink("b2", "b").done();
    let error = bench.refused(tar, &lower);
    assert!(error.contains("unpacks to more than 1048576 bytes"), "{error}");
}

#[test]
fn a_name_that_would_fill_the_memory_is_refused() {
    let bench = Bench::new();
    let name = vec![b'a'; 3 << 20];
    let limits = LayerLimits { bytes: 100 << 20, entries: 100 };
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let tar = Tar::new()
            .entry("before", EntryType::Regular, 0o644, "", &name)
            .entry("././@LongLink", kind, 0o644, "", &name)
            .file("f", "")
            .done();
        let diff_id = crate::artifact::digest_of(&tar);
        let error = bench.unpack_as("evil", tar, &diff_id, Compression::None, &[], limits);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("header has more than 1048576 bytes"), "{error}");
        fs::remove_dir_all(bench.directory.path().join("evil")).unwrap();
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let bench = Bench::new();
    let error = bench.unpack_as("a", b"not gzip".to_vec(), "", Compression::Gzip, &[], LIMITS).unwrap_err();
    assert!(matches!(error, Error::BadLayer { .. }), "{error}");
}
