//! Filters below one image, and nodes nested in others.

use super::options::{folder, open_list};
use super::world::World;
use crate::Error;
use crate::format::Env;
use crate::graph::{WithFilters, node_info};
use crate::image::info;
use crate::io::testing::SimRuntime;
use crate::io::{Access, BlockDevice, Deny, Runtime, WriteFlags};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

#[test]
fn what_is_written_through_nested_nodes_is_there_afterwards() {
    let sim = SimRuntime::new(1);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let env = Env { runtime, policy: Arc::new(Deny) };
        for (i, text) in [
            "driver=qcow2,file.driver=raw,file.file.filename=base.qcow2",
            "driver=raw,file.driver=qcow2,file.file.filename=base.qcow2",
            "driver=qcow2,file.driver=blkdebug,file.image.filename=base.qcow2",
            "driver=qcow2,file.driver=preallocate,file.file.filename=base.qcow2",
            "driver=qcow2,file.driver=blkdebug,file.align=4096,file.image.driver=raw,\
             file.image.file.filename=base.qcow2",
            "driver=copy-on-read,file.driver=qcow2,file.file.filename=base.qcow2",
            "driver=quorum,vote-threshold=1,children.0.file.filename=base.qcow2",
        ]
        .into_iter()
        .enumerate()
        {
            let byte = u8::try_from(i).unwrap() + 1;
            let filters = WithFilters::new(env.clone(), Arc::new(files.clone()));
            let image = open_list(&env, &*filters, text, Access::ReadWrite).await.unwrap();
            image.write(512, alloc::vec![byte; 512].into(), WriteFlags::empty()).await.unwrap();
            image.close().await.unwrap();
            drop(image);
            let plain = "driver=qcow2,file.filename=base.qcow2";
            let plain = open_list(&env, &*filters, plain, Access::ReadOnly).await.unwrap();
            assert_eq!(plain.read(512, 512).await.unwrap().to_vec(), [byte; 512], "{text}");
        }
    });
}

#[test]
fn nested_nodes_are_told_of_from_the_top_to_the_files() {
    let sim = SimRuntime::new(2);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let env = Env { runtime, policy: Arc::new(Deny) };
        let filters = WithFilters::new(env.clone(), Arc::new(files));
        for (text, filename, formats) in [
            (
                "driver=raw,file.driver=qcow2,file.file.filename=base.qcow2",
                r#"json:{"driver": "raw", "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "base.qcow2"}}}"#,
                "raw qcow2 memory",
            ),
            (
                "driver=qcow2,file.driver=blkdebug,file.image.filename=base.qcow2",
                "blkdebug::base.qcow2",
                "qcow2 blkdebug file",
            ),
            (
                "driver=quorum,vote-threshold=1,children.0.file.filename=disk.raw",
                r#"json:{"children": [{"driver": "raw", "file": {"driver": "file", "filename": "disk.raw"}}], "driver": "quorum", "vote-threshold": "1"}"#,
                "quorum raw file",
            ),
            ("driver=null-co,size=4k", r#"json:{"driver": "null-co", "size": "4k"}"#, "null-co"),
        ] {
            let image = open_list(&env, &*filters, text, Access::ReadOnly).await.unwrap();
            let mut told = info(&image).await.unwrap();
            assert_eq!(told.base.filename, filename);
            let mut found: Vec<String> = Vec::new();
            loop {
                found.push(told.base.format);
                match told.children.into_iter().next() {
                    Some(child) => told = child.info,
                    None => break,
                }
            }
            assert_eq!(found.join(" "), formats, "{text}");
        }
        assert!(filters.blkdebug().is_some());
        assert_eq!(filters.guessed_raw(), ["disk.raw"]);
    });
}

#[test]
fn mistakes_below_filters_are_named() {
    let sim = SimRuntime::new(3);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let env = Env { runtime, policy: Arc::new(Deny) };
        let filters = WithFilters::new(env.clone(), Arc::new(files));
        for (text, want) in [
            ("driver=blkdebug", "A block device must be specified for \"image\""),
            ("driver=throttle,file.filename=disk.raw", "Please specify a throttle group"),
            ("driver=blkreplay,image.filename=disk.raw", "Unknown driver 'blkreplay'"),
            ("driver=null-co,x=1", "Block protocol 'null-co' doesn't support the option 'x'"),
            (
                "driver=preallocate,file.filename=disk.raw,x=1",
                "Block format 'preallocate' does not support the option 'x'",
            ),
            (
                "driver=quorum,vote-threshold=1,children.0.filename=disk.raw",
                "Must specify either driver or file",
            ),
        ] {
            let refused = open_list(&env, &*filters, text, Access::ReadOnly).await;
            assert_eq!(refused.map(drop).map_err(|e: Error| e.to_string()), Err(want.into()));
        }
        let deep = alloc::format!(
            "driver=raw{}",
            (1..80).fold(String::new(), |text, i| {
                alloc::format!("{text},{}driver=raw", "file.".repeat(i))
            })
        );
        let refused = open_list(&env, &*filters, &deep, Access::ReadOnly).await.unwrap_err();
        assert!(refused.to_string().contains("nest deeper"), "{refused}");
    });
}

#[test]
fn each_of_many_nested_nodes_is_looked_at_once() {
    let world = World::new(4);
    let mut below = world.add("{'driver': 'null-co', 'node-name': 'n0'}").unwrap();
    for i in 1..40 {
        let node = alloc::format!("{{'driver': 'raw', 'node-name': 'n{i}', 'file': 'n{}'}}", i - 1);
        below = world.add(&node).unwrap();
    }
    let told = world.sim.block_on(async { node_info(&below).await }).unwrap();
    assert_eq!(told.format, "raw");
}
