//! Options as text, and nodes opened from them.

use super::Files;
use crate::format::{BackingRef, Env, FormatName, Layer, OpenOptions, qcow2};
use crate::graph::{ChildOptions, Inherited, OptionValue, Options, Protocols, by_options, open};
use crate::image::{NewImage, create};
use crate::io::testing::SimRuntime;
use crate::io::{
    Access, BlockDevice, BoxFuture, Deny, Device, MemoryDevice, OpenPolicy, Opened, Reference,
    Runtime, WriteFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

fn list(text: &str) -> Options {
    Options::parse_list(text).options
}

fn names(options: &Options) -> Vec<String> {
    let mut rest = options.clone();
    let mut out = Vec::new();
    while let Some(name) = rest.first().map(ToString::to_string) {
        let value = rest.take_text(&name).unwrap_or_else(|| "null".into());
        out.push(alloc::format!("{name}={value}"));
    }
    out
}

#[test]
fn lists_have_escaped_commas_an_unnamed_file_and_short_flags() {
    assert_eq!(names(&list("a,,b,x=1,,2,y=")), ["file=a,b", "x=1,2", "y="]);
    assert_eq!(names(&list("")), [""; 0]);
    assert_eq!(names(&list("driver=raw,")), ["driver=raw"]);
    let short = Options::parse_list("driver=raw,read-only,nofoo");
    assert_eq!(names(&short.options), ["driver=raw", "foo=off", "read-only=on"]);
    assert_eq!(short.short_flags, [("read-only".into(), true), ("foo".into(), false)]);
    assert_eq!(names(&list("driver=a,driver=b")), ["driver=b"], "the last one counts");
}

#[test]
fn nested_json_is_the_same_as_dotted_names() {
    let nested =
        Options::parse_json("{'driver': 'qcow2', 'file': {'filename': 'a', 'x': [1, true]}}");
    let want = ["driver=qcow2", "file.filename=a", "file.x.0=1", "file.x.1=on"];
    assert_eq!(names(&nested.unwrap()), want);
    let e = Options::parse_json("[]").unwrap_err().to_string();
    assert_eq!(e, "Invalid JSON object given");
}

#[test]
fn a_child_is_named_described_or_denied() {
    let mut options = list("file.filename=a,file.b.c=1,file2=x,backing=");
    options.set("data-file", OptionValue::Null);
    let Ok(ChildOptions::Inline(file)) = options.take_child("file") else { panic!("not inline") };
    assert_eq!(names(&file), ["b.c=1", "filename=a"]);
    assert_eq!(options.take_child("file2").unwrap(), ChildOptions::Node("x".into()));
    assert_eq!(options.take_child("data-file").unwrap(), ChildOptions::Null);
    assert_eq!(options.take_child("other").unwrap(), ChildOptions::Absent);
    let both = list("file=n,file.filename=a").take_child("file").unwrap_err();
    assert!(both.to_string().starts_with("Cannot reference an existing block device"));
}

#[test]
fn values_have_the_kinds_their_takers_want() {
    let mut options = list("a=on,b=2k,c=0x10,d=maybe,e=1k");
    assert_eq!(options.take_flag("a").unwrap(), Some(true));
    assert_eq!(options.take_size("b").unwrap(), Some(2048));
    assert_eq!(options.take_number("c").unwrap(), Some(16));
    assert_eq!(
        options.take_flag("d").unwrap_err().to_string(),
        "Parameter 'd' expects 'on' or 'off'"
    );
    assert_eq!(options.take_number("e").unwrap_err().to_string(), "Parameter 'e' expects a number");
    assert_eq!(options.take_flag("nothing").unwrap(), None);
    assert!(options.is_empty());
}

#[test]
fn a_json_name_reads_back() {
    let options = list("size=512,driver=raw,file.filename=a\"b,file.driver=file");
    let name = options.to_json_name();
    assert_eq!(
        name,
        r#"json:{"driver": "raw", "size": "512", "file": {"driver": "file", "filename": "a\"b"}}"#
    );
    assert_eq!(Options::parse_json(&name["json:".len()..]).unwrap(), options);
}

/// A folder with a raw disk, an image and one that stands on it.
pub(super) async fn folder(runtime: &Arc<dyn Runtime>) -> Files {
    let mut files = Files::default();
    let raw = Arc::new(MemoryDevice::new(8192));
    raw.write(512, alloc::vec![7; 512].into(), WriteFlags::empty()).await.unwrap();
    files.0.insert("disk.raw".into(), raw);
    for (name, backing) in [("base.qcow2", None), ("top.qcow2", Some("base.qcow2"))] {
        let file: Device = Arc::new(MemoryDevice::new(0));
        let backing =
            backing.map(|name| BackingRef { name: name.into(), format: Some("qcow2".into()) });
        let image = qcow2::CreateOptions { size: 8192, backing, ..qcow2::CreateOptions::default() };
        create(runtime, &file, None, &NewImage::Qcow2(image)).await.unwrap();
        files.0.insert(name.into(), file);
    }
    files
}

pub(super) async fn open_list(
    env: &Env,
    protocols: &dyn Protocols,
    text: &str,
    access: Access,
) -> Result<Arc<Layer>> {
    let how = Inherited { access, direct: false, no_flush: false, force_share: false };
    open(env, protocols, list(text), OpenOptions::default(), how).await
}

#[test]
fn trees_open_and_mistakes_are_named() {
    let sim = SimRuntime::new(1);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
        let part = "driver=raw,offset=512,size=1k,file.filename=disk.raw";
        let layer = open_list(&env, &files, part, Access::ReadOnly).await.unwrap();
        assert_eq!(layer.len(), 1024);
        assert_eq!(layer.read(0, 512).await.unwrap().to_vec(), [7; 512]);
        assert!(layer.filename().starts_with("json:{"), "{}", layer.filename());

        let probed = open_list(&env, &files, "file.filename=base.qcow2", Access::ReadWrite).await;
        let probed = probed.unwrap();
        assert_eq!((probed.driver().name(), probed.filename()), ("qcow2", "base.qcow2"));

        // The policy denies what the image names, the options allow it.
        let over = "driver=qcow2,file.filename=top.qcow2,backing.driver=raw,\
                    backing.file.filename=disk.raw";
        let layer = open_list(&env, &files, over, Access::ReadOnly).await.unwrap();
        assert_eq!(layer.read(512, 512).await.unwrap().to_vec(), [7; 512]);
        let named = "driver=qcow2,file.filename=top.qcow2,backing.discard=unmap";
        let layer = open_list(&env, &files, named, Access::ReadOnly).await.unwrap();
        assert_eq!(layer.backing().unwrap().filename(), "base.qcow2");
        let alone = "driver=qcow2,file.filename=top.qcow2,backing=";
        let layer = open_list(&env, &files, alone, Access::ReadOnly).await.unwrap();
        assert!(layer.backing().is_none());
        let nested = "driver=qcow2,file.driver=raw,file.file.filename=base.qcow2";
        let layer = open_list(&env, &files, nested, Access::ReadOnly).await.unwrap();
        assert_eq!(layer.len(), 8192);

        for (text, want) in [
            ("driver=qcow2", "A block device must be specified for \"file\""),
            ("foo", "Cannot find device='foo' nor node-name='foo'"),
            ("filename=a", "Must specify either driver or file"),
            ("driver=nope,file.filename=a", "Unknown driver 'nope'"),
            (
                "driver=raw,file.filename=disk.raw,foo=1",
                "Block format 'raw' does not support the option 'foo'",
            ),
            (
                "driver=raw,file.filename=disk.raw,file.foo=1",
                "Block protocol 'file' doesn't support the option 'foo'",
            ),
            ("driver=raw,file.filename=disk.raw,node-name=1x", "Invalid node-name: '1x'"),
            ("driver=raw,file.filename=disk.raw,discard=x", "Invalid discard option"),
            (
                "driver=raw,file.filename=disk.raw,offset=1M",
                "Offset (1048576) cannot be greater than size of the containing file (8192)",
            ),
            ("driver=raw,file.filename=disk.raw,size=513", "Specified size is not multiple of 512"),
            ("driver=raw,file.filename=disk.raw,backing=x", "Driver doesn't support backing files"),
        ] {
            let e = open_list(&env, &files, text, Access::ReadOnly).await.unwrap_err();
            assert_eq!(e.to_string(), want, "{text}");
        }
        // That there is none can be said of what cannot have one.
        let none = "driver=raw,file.filename=disk.raw,backing=";
        open_list(&env, &files, none, Access::ReadOnly).await.unwrap();
        let read_only = "driver=raw,file.filename=disk.raw,read-only=on";
        let e = open_list(&env, &files, read_only, Access::ReadWrite).await.unwrap_err();
        assert_eq!(e.to_string(), "Block node is read-only");
    });
}

impl OpenPolicy for Files {
    fn open<'a>(&'a self, r: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let device = r.name.strip_prefix("file:").and_then(|name| self.0.get(name)).cloned();
        let opened = device.map(|device| Opened { device, filename: r.name.to_string() });
        Box::pin(core::future::ready(opened.ok_or_else(|| Error::denied(r.name.to_string()))))
    }
}

/// An image that names its backing file by options gets what the policy allows, and no more.
#[test]
fn backing_files_named_by_options_are_opened_through_the_policy() {
    let sim = SimRuntime::new(3);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let over = async |name: &str, format: Option<&str>| {
            let file: Device = Arc::new(MemoryDevice::new(0));
            let options = qcow2::CreateOptions {
                size: 1024,
                backing: Some(BackingRef {
                    name: alloc::format!("json:{name}"),
                    format: format.map(ToString::to_string),
                }),
                ..qcow2::CreateOptions::default()
            };
            qcow2::create(&runtime, &file, None, &options).await.expect("made");
            file
        };
        let policy = Arc::new(files);
        let allowed = Env { runtime: runtime.clone(), policy: policy.clone() };
        let denied = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
        let open = async |env: &Env, file: &Device| {
            let by_options = Some(by_options());
            let options = OpenOptions { by_options, ..OpenOptions::default() };
            crate::format::open(env, file.clone(), "over", options).await
        };
        let disk =
            r#"{"driver":"raw","offset":512,"file":{"driver":"file","filename":"disk.raw"}}"#;
        let file = over(disk, Some("raw")).await;
        let layer = open(&allowed, &file).await.expect("it opens");
        assert_eq!(layer.read(0, 512).await.expect("readable").to_vec(), [7; 512]);
        let refused = open(&denied, &file).await.expect_err("denied");
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(refused.to_string().contains("'file:disk.raw'"), "{refused}");

        let base = r#"{"file":{"driver":"file","filename":"base.qcow2"}}"#;
        let layer = open(&allowed, &over(base, Some("qcow2")).await).await.expect("it opens");
        assert_eq!(layer.backing().expect("it has").filename(), "base.qcow2");
        for (name, format, want) in [
            (r#"{"driver":"nope"}"#, None, "Unknown driver 'nope'"),
            (base, Some("nope"), "Unknown driver 'nope'"),
            (r#"{"driver":"raw","file":{"driver":"file","filename":"x"}}"#, None, "file:x"),
            (
                r#"{"driver":"raw","file":{"driver":"nbd","path":"/a b","export":"c?"}}"#,
                None,
                "nbd+unix:///c%3F?socket=/a%20b",
            ),
            (
                r#"{"driver":"raw","file":{"driver":"nbd","host":"::1","port":"7","foo":"1"}}"#,
                None,
                "Block protocol 'nbd' doesn't support the option 'foo'",
            ),
        ] {
            let e = open(&allowed, &over(name, format).await).await.expect_err(name);
            assert_eq!(e.to_string(), alloc::format!("Could not open backing file: {want}"));
        }
    });
}

/// An image that stands on itself by its options does not open.
#[test]
fn loops_through_options_end() {
    let sim = SimRuntime::new(4);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let file: Device = Arc::new(MemoryDevice::new(0));
        let name = r#"json:{"file":{"driver":"file","filename":"loop"}}"#.to_string();
        let options = qcow2::CreateOptions {
            size: 1024,
            backing: Some(BackingRef { name, format: Some("qcow2".into()) }),
            ..qcow2::CreateOptions::default()
        };
        qcow2::create(&runtime, &file, None, &options).await.expect("made");
        let files = Files(BTreeMap::from([("loop".to_string(), file.clone())]));
        let env = Env { runtime, policy: Arc::new(files) };
        for name in ["loop", "another name"] {
            let by_options = Some(by_options());
            let options = OpenOptions { by_options, ..OpenOptions::default() };
            let opened = crate::format::open(&env, file.clone(), name, options);
            let e = opened.await.expect_err("it does not end").to_string();
            assert!(e.contains("'loop' creates an infinite loop"), "{e}");
        }
    });
}

#[test]
fn part_of_a_file_keeps_to_itself() {
    let sim = SimRuntime::new(2);
    let runtime: Arc<dyn Runtime> = Arc::new(sim.clone());
    sim.block_on(async move {
        let files = folder(&runtime).await;
        let env = Env { runtime, policy: Arc::new(Deny) };
        let part = "driver=raw,offset=1k,size=1k,file.filename=disk.raw,detect-zeroes=on";
        let layer = open_list(&env, &files, part, Access::ReadWrite).await.unwrap();
        let file = &files.0["disk.raw"];
        file.write(0, alloc::vec![1; 8192].into(), WriteFlags::empty()).await.unwrap();
        layer.write(0, alloc::vec![2; 512].into(), WriteFlags::empty()).await.unwrap();
        layer.write(512, alloc::vec![0; 512].into(), WriteFlags::empty()).await.unwrap();
        assert!(layer.write(1024, alloc::vec![2; 1].into(), WriteFlags::empty()).await.is_err());
        let bytes = file.read(0, 8192).await.unwrap().to_vec();
        let want = [[1; 512], [1; 512], [2; 512], [0; 512], [1; 512]].concat();
        assert_eq!(bytes[..2560], want);
        let grown = layer.set_len(4096, crate::io::Preallocation::Off).await.unwrap_err();
        assert_eq!(grown.to_string(), "Cannot resize fixed-size raw disks");
        assert_eq!(layer.driver().name(), FormatName::Raw.as_str());
    });
}
