//! Exports that come and go.

use super::setup::{folder, text};
use sectora::export::RemoveMode;
use sectora::export::nbd::{Listener, NbdServer, ServerOptions};
use sectora::protocol::nbd::{NbdDevice, NbdOptions, Server};
use sectora::runtime::block_on;
use sectora_core::io::testing::{CallFilter, CallKinds, HoldDevice};
use sectora_core::io::{Access, BlockDevice, Device, MemoryDevice};
use sectora_core::nbd::{Export, ExportOptions};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// Exports come and go while the server runs; those that are used stay, or take their clients
/// along.
pub(crate) fn come_and_go() {
    let test = block_on(|_| async {
        let folder = folder();
        let path = folder.path().join("socket");
        let (tell, _told) = mpsc::unbounded_channel();
        let server = NbdServer::new(ServerOptions::default(), tell);
        let listener = UnixListener::bind(&path).expect("a socket");
        let serving = server.clone();
        let task = tokio::spawn(async move {
            serving.listen(vec![Listener::Unix(listener)]).await.expect("the server");
        });
        let export = |name: &str| {
            let device: Device = Arc::new(MemoryDevice::new(65536));
            Arc::new(Export::new(name, device, ExportOptions::default()).expect("an export"))
        };
        server.add(export("a")).expect("a name that is free");
        let error = server.add(export("a")).expect_err("the name is taken");
        assert_eq!(error.what(), "NBD server already has export named 'a'");
        server.add(export("b")).expect("a name that is free");
        let address = || Server::Unix { path: text(&path) };
        let connect = |name: &str| {
            let options = NbdOptions::new(address(), name);
            async move { NbdDevice::connect(&options, Access::ReadOnly).await }
        };
        let used = connect("a").await.expect("a connection");
        used.read(0, 512).await.expect("data");
        let error = server.remove("a", RemoveMode::Safe).await.expect_err("it is used");
        assert_eq!(error.what(), "export 'a' still in use");
        assert_eq!(server.exports().len(), 2);
        server.remove("b", RemoveMode::Safe).await.expect("nobody uses it");
        assert!(connect("b").await.is_err());
        server.remove("a", RemoveMode::Hard).await.expect("its client goes");
        assert!(used.read(0, 512).await.is_err());
        assert!(connect("a").await.is_err());
        assert!(server.remove("a", RemoveMode::Hard).await.is_err());
        server.add(export("a")).expect("the name is free again");
        connect("a").await.expect("a connection").read(0, 512).await.expect("data");
        task.abort();
    });
    test.expect("a runtime");
}

/// A request that takes its time holds up nothing else on its connection, and not the end of the
/// export; more clients than the server has threads for are served all the same.
pub(crate) fn slow_requests_and_many_clients() {
    let test = block_on(|runtime| async {
        let folder = folder();
        let path = folder.path().join("socket");
        let (tell, _told) = mpsc::unbounded_channel();
        let server =
            NbdServer::new(ServerOptions { max_connections: 0, ..Default::default() }, tell);
        let listener = UnixListener::bind(&path).expect("a socket");
        let serving = server.clone();
        let task = tokio::spawn(async move {
            serving.listen(vec![Listener::Unix(listener)]).await.expect("the server");
        });
        let memory: Device = Arc::new(MemoryDevice::new(65536));
        let slow = Arc::new(HoldDevice::new(memory, runtime.into()));
        let export = Export::new("a", slow.clone(), ExportOptions::default()).expect("an export");
        server.add(Arc::new(export)).expect("a name that is free");
        let connect = || async {
            let options = NbdOptions::new(Server::Unix { path: text(&path) }, "a");
            Arc::new(NbdDevice::connect(&options, Access::ReadOnly).await.expect("a connection"))
        };
        let client = connect().await;
        #[expect(clippy::async_yields_async, reason = "the read is waited for later")]
        let held_read = || async {
            slow.hold(CallFilter::of(CallKinds::READ));
            let reader = client.clone();
            let read = tokio::spawn(async move { reader.read(0, 512).await });
            while slow.held().is_empty() {
                tokio::task::yield_now().await;
            }
            slow.pass();
            read
        };
        let read = held_read().await;
        client.read(512, 512).await.expect("another request is done meanwhile");
        assert!(!read.is_finished());
        assert!(slow.release(slow.held()[0].id));
        read.await.expect("no panic").expect("data");
        let mut clients = Vec::new();
        for _ in 0..70 {
            clients.push(connect().await);
        }
        for client in &clients {
            client.read(0, 512).await.expect("data");
        }
        let read = held_read().await;
        server.remove("a", RemoveMode::Hard).await.expect("it does not wait for what never ends");
        read.await.expect("no panic").expect_err("the server has gone");
        task.abort();
    });
    test.expect("a runtime");
}
