//! Votes: which answer most children give.

use alloc::vec::Vec;

/// The answer that most of `answers` are equal to, and how many are; of answers with as many votes
/// the one whose first voter comes last. `None` where there is none.
pub(super) fn winner<T>(answers: &[T], equal: impl Fn(&T, &T) -> bool) -> Option<(usize, usize)> {
    // The first of each kind, with its votes.
    let mut kinds: Vec<(usize, usize)> = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        match kinds.iter_mut().find(|(first, _)| equal(&answers[*first], answer)) {
            Some((_, votes)) => *votes += 1,
            None => kinds.push((index, 1)),
        }
    }
    kinds.into_iter().max_by_key(|(_, votes)| *votes)
}
