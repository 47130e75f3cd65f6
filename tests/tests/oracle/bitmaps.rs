//! Persistent bitmaps go back and forth: what one records, the other finds and keeps.

use super::{Files, env, open_image};
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::format::Layer;
use sectora_core::image::{BitmapAction, bitmap};
use sectora_core::io::testing::{Rng, SimRuntime};
use sectora_core::io::{Access, BlockDevice, Device, WriteFlags};
use sectora_tests::{load, save, succeed};
use std::path::Path;
use std::sync::Arc;

const SIZE: u64 = 3 * 1024 * 1024 + 512;

/// Which granules must be dirty.
struct Model {
    granularity: u64,
    dirty: Vec<bool>,
}

impl Model {
    fn new(granularity: u64) -> Self {
        let len = usize::try_from(SIZE.div_ceil(granularity)).expect("small");
        Self { granularity, dirty: vec![false; len] }
    }

    fn write(&mut self, start: u64, len: u64) {
        for (i, dirty) in (0u64..).zip(&mut self.dirty) {
            let from = i * self.granularity;
            *dirty |= from < start + len && start < from + self.granularity;
        }
    }

    fn compare(&self, bitmap: &DirtyBitmap, what: &str) {
        for (i, dirty) in (0u64..).zip(&self.dirty) {
            assert_eq!(bitmap.get(i * self.granularity), *dirty, "{what}: granule {i}");
        }
    }
}

fn place(rng: &mut Rng) -> (u64, u64) {
    let start = rng.next_u64() % (SIZE / 512);
    let len = 1 + rng.next_u64() % 300;
    (start * 512, (len * 512).min(SIZE - start * 512))
}

fn opened(runtime: &SimRuntime, path: &Path) -> (Arc<Layer>, Arc<sectora_core::io::MemoryDevice>) {
    let file = Arc::new(load(path));
    let device: Device = file.clone();
    let env = env(runtime, Files::default());
    (runtime.block_on(open_image(&env, device, Access::ReadWrite)), file)
}

pub(super) fn bitmaps_go_back_and_forth() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, path) = (folder.path(), folder.path().join("image.qcow2"));
    let runtime = SimRuntime::new(1);
    let mut rng = Rng::new(11);
    for cluster_size in ["512", "4k", "64k", "2M"] {
        for granularity in [512u64, 4096, 0x1_0000, 0x40_0000] {
            let what = format!("clusters of {cluster_size}, granules of {granularity}");
            let options = format!("cluster_size={cluster_size}");
            let size = SIZE.to_string();
            let create = ["create", "-q", "-f", "qcow2", "-o", &options, "image.qcow2", &size];
            succeed(dir, "qemu-img", &create);
            let unit = granularity.to_string();
            succeed(dir, "qemu-img", &["bitmap", "--add", "-g", &unit, "image.qcow2", "theirs"]);
            let (layer, file) = opened(&runtime, &path);
            let add = BitmapAction::Add { granularity: Some(granularity) };
            bitmap(&layer, "ours", add).expect("added");
            runtime.block_on(layer.close()).expect("closed");
            save(&file, &path);

            let mut model = Model::new(granularity);
            for round in 0..3 {
                for _ in 0..3 {
                    let (start, len) = place(&mut rng);
                    let write = format!("write {start} {len}");
                    succeed(dir, "qemu-io", &["-f", "qcow2", "-c", &write, "image.qcow2"]);
                    model.write(start, len);
                }
                let (layer, file) = opened(&runtime, &path);
                for name in ["theirs", "ours"] {
                    let found = layer.bitmaps().find(name).expect("kept");
                    assert!(found.status().recording && !found.status().inconsistent, "{what}");
                    model.compare(&found, &format!("{what}, round {round}, {name}"));
                }
                let (start, len) = place(&mut rng);
                let bytes = vec![7; usize::try_from(len).expect("small")];
                runtime
                    .block_on(async {
                        layer.write(start, bytes.into(), WriteFlags::empty()).await?;
                        layer.close().await
                    })
                    .expect("written");
                model.write(start, len);
                save(&file, &path);
                succeed(dir, "qemu-img", &["check", "-q", "-f", "qcow2", "image.qcow2"]);
            }
        }
    }
}
