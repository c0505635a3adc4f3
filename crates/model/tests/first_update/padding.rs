//! The padding token's row of the embedding does not learn, as `nn.Embedding` has it. That PEFT's does not either is the golden
//! `llama/save_padding`, which the tests of `peft` and `train` read.

use engine::cpu::Cpu;
use lowrank_model::{Decoder, TokenBatch};
use testkit::{Golden, Row, golden};

use super::{KEY, cpu, spec_of};
use formats::weights::WeightStore;
use std::sync::Arc;

const TABLE: &str = "model.embed_tokens.weight";

/// The gradient of an embedding that learns, row by row.
fn gradient(case: &Golden, padding_idx: Option<u32>) -> Vec<Vec<f32>> {
    let spec = lowrank_model::spec::DecoderSpec {
        padding_idx,
        ..spec_of(case)
    };
    let hidden_size = spec.hidden_size;
    let weights = WeightStore::open(&case.path("model")).unwrap();
    let mut decoder: Decoder<Cpu> = Decoder::load(Arc::new(cpu()), spec, &weights).unwrap();
    decoder.make_trainable(TABLE, false).unwrap();
    let rows = case.rows();
    let batch = TokenBatch::of_rows(rows.iter().map(Row::parts), 0.1);
    decoder.forward_backward(&batch, KEY).unwrap();
    let [table] = decoder.trainable() else {
        panic!("the embedding alone learns")
    };
    let rows = table.grad.as_slice().chunks(hidden_size);
    rows.map(<[f32]>::to_vec).collect()
}

#[test]
fn the_padding_tokens_row_does_not_learn_and_the_others_learn_the_same() {
    let case = golden("llama/attention");
    let without = gradient(&case, None);
    let id = case.rows()[0].input_ids[1];
    assert!(without[id as usize].iter().any(|x| *x != 0.0));
    let mut want = without;
    want[id as usize].fill(0.0);
    assert_eq!(gradient(&case, Some(id)), want);
}
