//! Making a failure small.

use super::{Failure, ModelOptions, Op, Plan, Subject, run};
use crate::io::WriteFlags;
use alloc::vec::Vec;

/// Drops operations, in ever smaller pieces, as long as what is left still fails; then members of
/// batches; then tries what remains with shorter ranges.
pub(super) async fn shrink(
    subject: &dyn Subject,
    options: &ModelOptions,
    align: u64,
    first: Failure,
) -> Failure {
    let mut search = Search { subject, options, align, best: first, runs: 0 };
    // What came after the failing step has no part in it.
    let keep = search.best.step.saturating_add(1);
    let mut ops = search.best.plan.0.clone();
    ops.truncate(keep);
    search.attempt(ops).await;
    while search.runs < options.shrink_runs {
        let before = search.best.plan.clone();
        search.drop_operations().await;
        search.drop_members().await;
        search.shorten().await;
        if search.best.plan == before {
            break;
        }
    }
    search.best
}

struct Search<'a> {
    subject: &'a dyn Subject,
    options: &'a ModelOptions,
    /// What the ranges of reads and writes have to be multiples of.
    align: u64,
    best: Failure,
    runs: usize,
}

impl Search<'_> {
    /// Runs these operations on a fresh device, and keeps them if they fail too.
    async fn attempt(&mut self, ops: Vec<Op>) -> bool {
        if self.runs >= self.options.shrink_runs {
            return false;
        }
        self.runs += 1;
        match run(self.subject, self.options.window, &Plan(ops)).await {
            Ok(()) => false,
            Err(failure) => {
                self.best = failure;
                true
            }
        }
    }

    async fn drop_operations(&mut self) {
        let mut piece = self.best.plan.0.len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < self.best.plan.0.len() {
                let mut ops = self.best.plan.0.clone();
                ops.drain(at..(at + piece).min(ops.len()));
                if !self.attempt(ops).await {
                    at += piece;
                }
            }
            piece /= 2;
        }
    }

    async fn drop_members(&mut self) {
        let mut at = 0;
        while at < self.best.plan.0.len() {
            let mut member = 0;
            while let Some(Op::Batch(members)) = self.best.plan.0.get(at) {
                if member >= members.len() {
                    break;
                }
                let mut fewer = members.clone();
                fewer.remove(member);
                let mut ops = self.best.plan.0.clone();
                match fewer.as_slice() {
                    [only] => ops[at] = only.clone(),
                    _ => ops[at] = Op::Batch(fewer),
                }
                if !self.attempt(ops).await {
                    member += 1;
                }
            }
            at += 1;
        }
    }

    async fn shorten(&mut self) {
        let limits = self.options.shrink_runs;
        let mut at = 0;
        while at < self.best.plan.0.len() && self.runs < limits {
            let mut ops = self.best.plan.0.clone();
            let shorter = ops.get_mut(at).is_some_and(|op| halve(op, self.align));
            if !(shorter && self.attempt(ops).await) {
                at += 1;
            }
        }
    }
}

/// Halves the range of an operation, as far as the device takes that; false where it cannot be.
fn halve(op: &mut Op, align: u64) -> bool {
    let (range, align) = match op {
        Op::Write { flags, .. } if flags.contains(WriteFlags::COMPRESSED) => return false,
        Op::Read(range) | Op::Write { range, .. } => (range, align),
        Op::Zero { range, .. } | Op::Discard(range) | Op::Extents(range) => (range, 1),
        _ => return false,
    };
    let half = (range.end - range.start) / 2 / align * align;
    if half == 0 {
        return false;
    }
    range.end = range.start + half;
    true
}
