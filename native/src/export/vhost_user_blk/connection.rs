//! One frontend: what it asks for, and the queues that it has.

use super::Disk;
use super::layout::{
    CONFIG_CHANGE_MSG, Features, MAX_CONFIG, MAX_SLOTS, MessageFlags, NO_FD, ProtocolFeatures,
    WRITEBACK, request,
};
use super::memory::{Memory, Region};
use super::message::{Message, send};
use super::ring::{Common, Ring};
use rustix::fd::OwnedFd;
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

/// A frontend that is connected.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    common: Arc<Common>,
    memory: Memory,
    rings: Vec<Ring>,
    features: Features,
    protocol: ProtocolFeatures,
    /// What the backend tells goes there.
    back: Option<UnixStream>,
}

/// Serves a frontend until it goes, it breaks the rules, or `going` says so. No request is under way
/// then.
pub(super) async fn serve(
    stream: UnixStream,
    disk: Arc<Disk>,
    mut going: watch::Receiver<bool>,
    mut len: watch::Receiver<u64>,
) -> Result<()> {
    let common = Arc::new(Common {
        disk,
        guest: Mutex::default(),
        broken: Notify::new(),
        why: Mutex::default(),
    });
    let mut connection = Connection {
        stream,
        common: common.clone(),
        memory: Memory::default(),
        rings: Vec::new(),
        features: Features::empty(),
        protocol: ProtocolFeatures::empty(),
        back: None,
    };
    for _ in 0..common.disk.options.queues {
        connection.rings.push(Ring::new(common.clone())?);
    }
    len.mark_unchanged();
    let ended = loop {
        let next = {
            let connection = &connection;
            // A message that has begun is not given up for anything but the end.
            let mut message = std::pin::pin!(Message::receive(&connection.stream));
            loop {
                tokio::select! {
                    message = &mut message => break message,
                    () = common.broken.notified() => {
                        let why = common.why.lock().take();
                        break Err(why.unwrap_or_else(|| Error::bug("nothing broke")));
                    }
                    () = told(&mut going) => break Ok(None),
                    Ok(()) = len.changed() => connection.tell_change().await,
                }
            }
        };
        let answered = match next {
            Ok(Some(message)) => connection.answer(message).await,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if let Err(error) = answered {
            break Err(error);
        }
    };
    for ring in &mut connection.rings {
        ring.rest().await;
    }
    ended
}

/// Completes when `it` is true.
pub(super) async fn told(it: &mut watch::Receiver<bool>) {
    // Without a sender nothing goes on either.
    let _ = it.wait_for(|it| *it).await;
}

impl Connection {
    /// Tells that the configuration is another one. What it does not read it does not want to know.
    async fn tell_change(&self) {
        if let Some(back) = &self.back {
            let told = send(back, CONFIG_CHANGE_MSG, MessageFlags::empty(), &[]);
            let _ = tokio::time::timeout(super::PATIENCE, told).await;
        }
    }

    async fn answer(&mut self, mut message: Message) -> Result<()> {
        let (request, needs_reply) = (message.request, message.needs_reply());
        let payload = match self.carry_out(&mut message).await {
            Ok(Some(payload)) => payload,
            Ok(None) if !needs_reply => return Ok(()),
            Ok(None) => 0_u64.to_le_bytes().to_vec(),
            // It is told where it wants to know, and loses the connection where it does not.
            Err(_) if needs_reply => 1_u64.to_le_bytes().to_vec(),
            Err(error) => return Err(error),
        };
        send(&self.stream, request, MessageFlags::REPLY, &payload).await
    }

    /// Does what a message asks for; the payload of its answer, where it has one.
    async fn carry_out(&mut self, message: &mut Message) -> Result<Option<Vec<u8>>> {
        let number = |n: u64| Ok(Some(n.to_le_bytes().to_vec()));
        let disk = self.common.disk.clone();
        match message.request {
            request::GET_FEATURES => return number(disk.features().bits()),
            request::SET_FEATURES => self.set_features(message.u64(0)?)?,
            request::SET_OWNER => {}
            request::RESET_OWNER => self.reset().await,
            request::GET_PROTOCOL_FEATURES => return number(ProtocolFeatures::all().bits()),
            request::SET_PROTOCOL_FEATURES => {
                let wanted = ProtocolFeatures::from_bits(message.u64(0)?);
                self.protocol = wanted.ok_or_else(|| not_offered("protocol features"))?;
            }
            request::GET_QUEUE_NUM => return number(self.rings.len() as u64),
            request::GET_MAX_MEM_SLOTS => return number(MAX_SLOTS as u64),
            request::SET_MEM_TABLE => self.set_memory(message)?,
            request::ADD_MEM_REG => {
                self.memory.add(region(message, 8)?, message.fd()?)?;
                *self.common.guest.lock() = self.memory.guest()?;
            }
            request::REM_MEM_REG => {
                self.memory.remove(region(message, 8)?)?;
                *self.common.guest.lock() = self.memory.guest()?;
            }
            request::SET_VRING_NUM => self.ring(message.u32(0)?)?.set_size(message.u32(4)?)?,
            request::SET_VRING_ADDR => self.set_addresses(message)?,
            request::SET_VRING_BASE => {
                let base = u16::try_from(message.u32(4)?);
                let base = base.map_err(|_| Error::invalid("an index of a ring has 16 bits"))?;
                self.ring(message.u32(0)?)?.set_base(base);
            }
            request::GET_VRING_BASE => {
                let index = message.u32(0)?;
                let base = self.ring(index)?.rest().await;
                let mut payload = index.to_le_bytes().to_vec();
                payload.extend_from_slice(&u32::from(base).to_le_bytes());
                return Ok(Some(payload));
            }
            request::SET_VRING_KICK => {
                let (index, fd) = ring_fd(message)?;
                let fd = fd.ok_or_else(|| Error::unsupported("queues that are polled"))?;
                self.ring(index)?.set_kick(fd).await?;
            }
            request::SET_VRING_CALL => {
                let (index, fd) = ring_fd(message)?;
                self.ring(index)?.set_call(fd)?;
            }
            // Errors end the connection, which tells it better.
            request::SET_VRING_ERR => drop(ring_fd(message)?),
            request::SET_VRING_ENABLE => {
                let enable = message.u32(4)? != 0;
                let ring = self.ring(message.u32(0)?)?;
                ring.enabled = enable;
                match enable {
                    true => ring.start()?,
                    false => drop(ring.stop().await),
                }
            }
            request::SET_BACKEND_REQ_FD => self.set_back(message.fd()?)?,
            request::GET_CONFIG => return self.config(message).map(Some),
            request::SET_CONFIG => {
                let (offset, len) = (message.u32(0)?, message.u32(4)?);
                if (offset, len) != (WRITEBACK, 1) {
                    let what = "only the cache mode of the configuration can be changed";
                    return Err(Error::invalid(what));
                }
                let [writeback] = message.bytes(12)?;
                disk.writeback.store(writeback != 0, Ordering::SeqCst);
            }
            other => return Err(Error::unsupported(format!("vhost-user request {other}"))),
        }
        Ok(None)
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let found = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        found.ok_or_else(|| Error::invalid(format!("there is no queue {index}")))
    }

    fn set_features(&mut self, bits: u64) -> Result<()> {
        let offered = self.common.disk.features();
        let wanted = Features::from_bits(bits).filter(|wanted| offered.contains(*wanted));
        self.features = wanted.ok_or_else(|| not_offered("features"))?;
        self.common.disk.flushes.store(self.features.contains(Features::FLUSH), Ordering::SeqCst);
        let enabled = !self.features.contains(Features::PROTOCOL_FEATURES);
        let event_idx = self.features.contains(Features::EVENT_IDX);
        for ring in &mut self.rings {
            ring.set_event_idx(event_idx);
            if enabled {
                ring.enabled = true;
                ring.start()?;
            }
        }
        Ok(())
    }

    async fn reset(&mut self) {
        for ring in &mut self.rings {
            ring.enabled = false;
            ring.rest().await;
        }
        self.features = Features::empty();
    }

    fn set_memory(&mut self, message: &mut Message) -> Result<()> {
        let count = message.u32(0)?;
        let mut memory = Memory::default();
        for i in 0..count as usize {
            // A message has room for few.
            let region = region(message, 8_usize.saturating_add(i.saturating_mul(32)))?;
            memory.add(region, message.fd()?)?;
        }
        *self.common.guest.lock() = memory.guest()?;
        self.memory = memory;
        Ok(())
    }

    fn set_addresses(&mut self, message: &Message) -> Result<()> {
        let [descriptors, used, available] = [8, 16, 24].map(|at| {
            let user = message.u64(at)?;
            self.memory.guest_address(user)
        });
        let (descriptors, used, available) = (descriptors?, used?, available?);
        self.ring(message.u32(0)?)?.set_addresses(descriptors, available, used)
    }

    fn set_back(&mut self, fd: OwnedFd) -> Result<()> {
        let wrong = |e: std::io::Error| Error::invalid(format!("the backend's channel: {e}"));
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true).map_err(wrong)?;
        self.back = Some(UnixStream::from_std(stream).map_err(wrong)?);
        Ok(())
    }

    fn config(&self, message: &Message) -> Result<Vec<u8>> {
        let (offset, len) = (message.u32(0)?, message.u32(4)?);
        let end = offset.checked_add(len).filter(|end| *end as usize <= MAX_CONFIG);
        let end = end.ok_or_else(|| Error::invalid("the configuration is not so long"))?;
        let all = self.common.disk.config().emit();
        let mut payload = Vec::new();
        for field in [offset, len, message.u32(8)?] {
            payload.extend_from_slice(&field.to_le_bytes());
        }
        payload.extend_from_slice(&all[offset as usize..end as usize]);
        Ok(payload)
    }
}

fn not_offered(what: &str) -> Error {
    Error::invalid(format!("the frontend wants {what} that were not offered"))
}

/// A description of a region at `at` of a payload.
fn region(message: &Message, at: usize) -> Result<Region> {
    Ok(Region {
        guest: message.u64(at)?,
        len: message.u64(at.saturating_add(8))?,
        user: message.u64(at.saturating_add(16))?,
        offset: message.u64(at.saturating_add(24))?,
    })
}

/// The queue, and the descriptor that comes for it.
fn ring_fd(message: &mut Message) -> Result<(u32, Option<OwnedFd>)> {
    let value = message.u64(0)?;
    let fd = if value & NO_FD == 0 { Some(message.fd()?) } else { None };
    Ok(((value & 0xff) as u32, fd))
}
