//! The steps of the table, dropped at any await: what is left is what a crash may leave, and the
//! image that stays open can be closed as ever.

use super::operations::story;
use super::steps::Step;
use super::world::{Files, World};
use super::{Tally, jobs, judge};
use crate::io::testing::{Rng, SimRuntime, YieldDevice, abandon_at};
use crate::io::{Access, Device, MemoryDevice};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Of each operation on each kind of image one step, by `seed`: it is dropped at every second await
/// or so. Where an operation compacts, that is the step: it is dropped at each of its first hundred
/// awaits, and then ever less often. One in `rarely` of the results is judged.
pub(crate) fn drop_anywhere(seed: u64, rarely: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    for (operation, kind) in jobs() {
        let seed = rng.next_u64();
        let mut rng = Rng::new(seed);
        let runtime = SimRuntime::new(seed);
        let result = runtime.block_on(async {
            let world = World::new(&runtime, kind, &mut rng).await;
            let (mut steps, watched) = story(operation, &world, &mut rng);
            let compacts =
                (0..watched.len()).filter(|place| matches!(watched[*place], Step::Compact));
            let compacts: Vec<usize> = compacts.collect();
            let place = match compacts.is_empty() {
                true => rng.index(watched.len()),
                false => *rng.pick(&compacts),
            };
            steps.extend_from_slice(&watched[..place]);
            if !matches!(steps.last(), Some(Step::Close | Step::Break(_))) {
                steps.push(Step::Close);
            }
            let step = &watched[place];
            let run = Run { world: &world, steps: &steps, step, copied: operation.copied };
            run.drop_here_and_there(&mut rng, rarely, &mut tally)
                .await
                .map_err(|why| format!("step {place}, {step:?}: {why}"))
        });
        *tally.operations.entry(operation.name).or_default() += 1;
        if let Err(why) = result {
            tally.broken.push(format!("{} ({kind:?}, {seed:#x}), {why}", operation.name));
        }
    }
    tally
}

struct Run<'a> {
    world: &'a World,
    steps: &'a [Step],
    step: &'a Step,
    copied: bool,
}

impl Run<'_> {
    async fn drop_here_and_there(
        &self,
        rng: &mut Rng,
        rarely: u64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let (world, step) = (self.world, self.step);
        let (state, made) = world.make(self.steps).await?;
        let allowed = state.during(step, world);
        let mut waits = 0;
        loop {
            let plain: Vec<Arc<MemoryDevice>> =
                made.iter().map(|file| Arc::new(file.fork())).collect();
            let slow = plain
                .iter()
                .map(|file| Arc::new(YieldDevice::new(file.clone() as Device)) as Device);
            let files = Files(world.names().iter().copied().zip(slow).collect());
            let closed = matches!(step, Step::Commit(_) | Step::Break(_) | Step::Repair(_));
            let mut open = None;
            if !closed {
                let key = state.keys.first().copied();
                let layer = world.open(&files, Access::ReadWrite, key, None, false).await;
                open = Some(layer.map_err(|e| format!("it does not open: {e:?}"))?);
            }
            let layer = open.clone();
            let result = abandon_at(step.perform(world, &files, &state, &mut open), waits).await;
            let completed = result.is_some();
            if let Some(Err(e)) = result {
                return Err(format!("it fails: {e:?}"));
            }
            let mut allowed = allowed.clone();
            if completed {
                allowed = alloc::vec![state.after(step, world)];
            }
            let close = rng.chance(50) && (!completed || open.is_some());
            drop(open);
            if let (Some(layer), true) = (layer, close) {
                let closing = layer.close().await;
                closing.map_err(|e| format!("dropped at {waits}, it does not close: {e:?}"))?;
                for state in &mut allowed {
                    *state = state.after(&Step::Close, world);
                    state.touched = true;
                }
            }
            tally.moments += 1;
            if completed || rng.below(rarely) == 0 {
                let left = plain.iter().map(|file| file.fork()).collect();
                let files = world.named(left);
                let seed = rng.next_u64();
                tally.points += 1;
                judge::judge(world, &files, &allowed, self.copied, seed).await.map_err(|why| {
                    format!("dropped at {waits}, closed {close}, seed {seed:#x}: {why}")
                })?;
            }
            if completed {
                return Ok(());
            }
            waits += match step {
                Step::Compact => rng.index(1 + waits / 100) + 1,
                _ => rng.index(3) + 1,
            };
        }
    }
}
