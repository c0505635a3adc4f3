//! What one pass through the decoder is given.

use engine::shapes::{Dropout, Segment};

/// A packed stream of tokens: rows one after another, no padding.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenBatch {
    /// T ids.
    pub input_ids: Vec<u32>,
    /// Who attends to whom; together they cover the stream in order, without gaps.
    pub segments: Vec<Segment>,
    /// The positions whose next token is learnt.
    pub targets: Vec<Target>,
}

impl TokenBatch {
    /// Rows of ids and labels one after another, as [`TokenBatch::push_row`] adds each.
    pub fn of_rows<'a>(
        rows: impl IntoIterator<Item = (&'a [u32], &'a [i32])>,
        weight: f32,
    ) -> Self {
        let mut batch = Self::default();
        for (input_ids, labels) in rows {
            batch.push_row(input_ids, labels, weight);
        }
        batch
    }

    /// Adds a row that shares nothing. A label is the id of the token at its own position, which the one before it
    /// predicts, or negative where nothing is learnt; one at position 0 has nothing that predicts it.
    pub fn push_row(&mut self, input_ids: &[u32], labels: &[i32], weight: f32) {
        let start = self.input_ids.len();
        self.input_ids.extend(input_ids);
        self.segments.push(Segment {
            start,
            len: input_ids.len(),
            prefix: None,
        });
        for (before, label) in labels.iter().skip(1).enumerate() {
            if let Ok(id) = u32::try_from(*label) {
                self.targets.push(Target {
                    position: (start + before) as u32,
                    id,
                    weight,
                });
            }
        }
    }
}

/// One labelled position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Index in the stream of the token whose hidden state predicts `id`; rising from target to target.
    pub position: u32,
    /// The token to predict.
    pub id: u32,
    /// Factor of this position's loss in the objective: `1 / num_items_in_batch` for a token mean.
    pub weight: f32,
}

/// What decides what dropout drops. Checkpoints of a run that drops anything say it, so that a version that draws other
/// masks refuses to go on with them: the run would not be the one that never stopped.
pub const DROPOUT_MASKS: &str = "by seed, step and place in the update, 24 of 32 mixed bits a draw";

/// Names an update and where in it a pass begins, so that dropout masks can be drawn again, and are the same
/// however the update is cut into passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassKey {
    /// The run's seed.
    pub seed: u64,
    /// Update number.
    pub step: u64,
    /// Tokens in the update's passes before this one.
    pub first_token: u64,
    /// Targets in them.
    pub first_target: u64,
}

/// Names rows of activations among all of an update: its tokens, or its targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masks {
    seed: u64,
    step: u64,
    first_row: u64,
}

impl PassKey {
    /// Masks of activations with a row for each token of the pass.
    pub(crate) fn tokens(self) -> Masks {
        let Self { seed, step, .. } = self;
        let first_row = self.first_token;
        Masks {
            seed,
            step,
            first_row,
        }
    }

    /// Masks of activations with a row for each target of the pass, from the target `first` on.
    pub(crate) fn targets(self, first: usize) -> Masks {
        let Self { seed, step, .. } = self;
        let first_row = self.first_target + first as u64;
        Masks {
            seed,
            step,
            first_row,
        }
    }
}

impl Masks {
    /// What one low-rank input drops.
    pub(crate) fn dropout(self, slot: u64, probability: f32) -> Dropout {
        let key =
            [self.seed, self.step, slot]
                .into_iter()
                .fold(0x6C6F_7772_616E_6B00, |key, part| {
                    let mixed = (key ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    mixed ^ (mixed >> 29)
                });
        Dropout {
            probability,
            key,
            first_row: self.first_row,
        }
    }
}

/// Positions inside each segment, as RoPE and learned positions count them.
pub(crate) fn positions(segments: &[Segment]) -> Vec<u32> {
    let own = |segment: &Segment| {
        let first = segment.first_position();
        (first..first + segment.len)
            .map(|position| position as u32)
            .collect::<Vec<_>>()
    };
    segments.iter().flat_map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::shapes::Prefix;

    #[test]
    fn a_label_is_learnt_where_the_token_before_it_is() {
        let mut batch = TokenBatch::default();
        batch.push_row(&[7, 8], &[7, 8], 0.5);
        batch.push_row(&[1, 2, 3], &[-100, -100, 3], 0.25);
        let targets: Vec<_> = batch
            .targets
            .iter()
            .map(|target| (target.position, target.id, target.weight))
            .collect();
        assert_eq!(targets, [(0, 8, 0.5), (3, 3, 0.25)]);
        assert_eq!(batch.input_ids, [7, 8, 1, 2, 3]);
        assert_eq!((batch.segments[1].start, batch.segments[1].len), (2, 3));
    }

    /// Checkpoints of runs with dropout stand for these masks: whoever changes them changes [`DROPOUT_MASKS`] too.
    #[test]
    fn masks_are_those_that_checkpoints_name() {
        let key = PassKey {
            seed: 42,
            step: 3,
            first_token: 5,
            first_target: 2,
        };
        let drawn = |masks: Masks| {
            let dropout = masks.dropout(1, 0.5);
            (0..32).fold(0u32, |bits, column| {
                bits | u32::from(dropout.keeps(1, column)) << column
            })
        };
        assert_eq!(
            [drawn(key.tokens()), drawn(key.targets(1))],
            [347_931_111, 2_189_448_959]
        );
        assert_eq!(
            DROPOUT_MASKS,
            "by seed, step and place in the update, 24 of 32 mixed bits a draw"
        );
    }

    #[test]
    fn positions_go_on_behind_a_shared_prefix() {
        let shared = Segment {
            start: 0,
            len: 3,
            prefix: None,
        };
        let own = Segment {
            start: 3,
            len: 2,
            prefix: Some(Prefix { start: 0, len: 3 }),
        };
        assert_eq!(positions(&[shared, own]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn every_slot_and_step_has_its_own_mask() {
        let mut keys = std::collections::BTreeSet::new();
        for step in 0..50 {
            for slot in 0..50 {
                let pass = PassKey {
                    seed: 42,
                    step,
                    first_token: 9,
                    first_target: 7,
                };
                let (tokens, targets) = (pass.tokens(), pass.targets(5));
                let [tokens, targets] = [tokens, targets].map(|rows| rows.dropout(slot, 0.1));
                assert_eq!((tokens.first_row, targets.first_row), (9, 12));
                assert_eq!(tokens.key, targets.key);
                keys.insert(tokens.key);
            }
        }
        assert_eq!(keys.len(), 2500);
    }
}
