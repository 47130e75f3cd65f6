//! What can be said when an image is opened.

use super::super::header::Header;
use super::super::{CacheOptions, OverlapCheckMode, OverlapChecks};
use super::builder::Image;
use alloc::string::ToString;
use core::time::Duration;

/// The header of an image with clusters of 64 KiB.
fn header(size: u64) -> Header {
    use super::super::layout::header as h;
    let mut image = Image::v3();
    image.be32(h::CLUSTER_BITS, 16).be64(h::SIZE, size).be32(h::L1_SIZE, 1 << 12);
    for (at, cluster) in [(h::L1_OFFSET, 3), (h::REFTABLE_OFFSET, 1)] {
        image.be64(at, cluster << 16);
    }
    image.len(1 << 16);
    Header::parse(&image.bytes).expect("a sound header")
}

const NOTHING: CacheOptions = CacheOptions {
    size: None,
    l2_size: None,
    l2_entry_size: None,
    refcount_size: None,
    clean_interval: None,
};

/// The texts are those of QEMU 10.0.
#[test]
fn contradictions_are_refused_in_the_words_of_the_reference() {
    let header = header(1 << 30);
    let both = |size, l2_size| CacheOptions { size: Some(size), l2_size: Some(l2_size), ..NOTHING };
    let entry = |size| CacheOptions { l2_entry_size: Some(size), ..NOTHING };
    let entry_says =
        "L2 cache entry size must be a power of two between 512 and the cluster size (65536)";
    let cases = [
        (
            CacheOptions { refcount_size: Some(0), ..both(2, 1) },
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
        ),
        (both(1, 2), "l2-cache-size may not exceed cache-size"),
        (
            CacheOptions { size: Some(1), refcount_size: Some(2), ..NOTHING },
            "refcount-cache-size may not exceed cache-size",
        ),
        (entry(0), entry_says),
        (entry(256), entry_says),
        (entry(513), entry_says),
        (entry(1 << 17), entry_says),
        (entry((1 << 32) + 512), entry_says),
        (CacheOptions { refcount_size: Some(1 << 63), ..NOTHING }, "Refcount cache size too big"),
        (CacheOptions { size: Some(1 << 63), ..NOTHING }, "Refcount cache size too big"),
        (CacheOptions { clean_interval: Some(1 << 32), ..NOTHING }, "Cache clean interval too big"),
    ];
    for (options, says) in cases {
        let refused = options.sizes(&header).expect_err(says);
        assert_eq!(refused.to_string(), says);
    }
}

/// `docs/formats/qcow2.md`, "Memory".
#[test]
fn memory_follows_the_options_and_the_image() {
    const C: u64 = 1 << 16;
    // L2 tables of 1 TiB at 64 KiB clusters: 2048 tables.
    let header = header(1 << 40);
    let of = |options: CacheOptions| options.sizes(&header).expect("possible");
    let sizes = of(NOTHING);
    assert_eq!((sizes.l2, sizes.refcount, sizes.entry_bits), (32 << 20, 4 * C, 14));
    assert_eq!(sizes.clean_interval, Some(Duration::from_secs(600)));
    assert_eq!(of(CacheOptions { clean_interval: Some(0), ..NOTHING }).clean_interval, None);
    let long = of(CacheOptions { clean_interval: Some(u32::MAX.into()), ..NOTHING });
    assert_eq!(long.clean_interval, Some(Duration::from_secs(u32::MAX.into())));

    // More than there are tables is not needed, less than works is raised.
    assert_eq!(of(CacheOptions { l2_size: Some(u64::MAX), ..NOTHING }).l2, 2048 * C);
    let least = of(CacheOptions { l2_size: Some(0), refcount_size: Some(0), ..NOTHING });
    assert_eq!((least.l2, least.refcount), (2 << 14, 4 * C));
    let small = of(CacheOptions { l2_size: Some(0), l2_entry_size: Some(512), ..NOTHING });
    assert_eq!((small.l2, small.entry_bits), (1024, 9));

    // What is given in all goes to L2 tables first.
    let all = |size| of(CacheOptions { size: Some(size), ..NOTHING });
    assert_eq!((all(1 << 20).l2, all(1 << 20).refcount), ((1 << 20) - 4 * C, 4 * C));
    let (l2, refcount) = (all(1 << 30).l2, all(1 << 30).refcount);
    assert_eq!((l2, refcount), (2048 * C, (1 << 30) - 2048 * C));
    assert_eq!((all(0).l2, all(0).refcount), (2 << 14, 4 * C));
    let both = of(CacheOptions { size: Some(8 << 20), l2_size: Some(1 << 20), ..NOTHING });
    assert_eq!((both.l2, both.refcount), (1 << 20, 7 << 20));
    let both = of(CacheOptions { size: Some(8 << 20), refcount_size: Some(1 << 20), ..NOTHING });
    assert_eq!((both.l2, both.refcount), (7 << 20, 1 << 20));
}

#[test]
fn modes_have_names_and_each_is_more_than_the_one_before() {
    let mut before = OverlapChecks::empty();
    for name in ["none", "constant", "cached", "all"] {
        let checks: OverlapChecks = name.parse::<OverlapCheckMode>().expect(name).into();
        assert!(checks.contains(before) && (checks != before || name == "none"), "{name}");
        before = checks;
    }
    assert_eq!(before, OverlapChecks::all());
    assert_eq!(OverlapChecks::default(), OverlapCheckMode::Cached.into());
    let refused = "Cached".parse::<OverlapCheckMode>().expect_err("no such mode");
    assert_eq!(
        refused.to_string(),
        "Unsupported value 'Cached' for qcow2 option 'overlap-check'. Allowed are any of the \
         following: none, constant, cached, all"
    );
}
