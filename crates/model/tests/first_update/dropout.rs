//! Dropout: what an update drops does not depend on how it is cut into passes, and nothing else drops anything.

use std::ops::ControlFlow;

use engine::cpu::Cpu;
use lowrank_model::{Decoder, GenerationConfig, LoraInit, PassKey, TokenBatch};
use testkit::{Golden, Row, distance, golden};

use super::{FAMILIES, KEY, cpu, load_with_dropout};

/// Deltas on every projection, the head's among them where it is a module of its own.
fn with_dropout(case: &Golden, dropout: f32) -> (Decoder<Cpu>, bool) {
    let mut decoder = load_with_dropout(case, cpu(), dropout);
    let (hidden_size, vocab_size) = (decoder.spec().hidden_size, decoder.spec().vocab_size);
    let init = LoraInit {
        rank: 1,
        scaling: 1.0,
        dropout,
        a: vec![0.1; hidden_size],
        // Not all alike: a gradient of logits sums to zero.
        b: (0..vocab_size).map(|i| (i % 7) as f32 / 20.0).collect(),
    };
    let head = decoder.add_lora("lm_head", init).is_ok();
    (decoder, head)
}

fn decoder(case: &Golden) -> (Decoder<Cpu>, bool) {
    with_dropout(case, 0.3)
}

fn pass(rows: &[Row]) -> TokenBatch {
    TokenBatch::of_rows(rows.iter().map(Row::parts), 1.0 / 40.0)
}

/// Losses and gradients of an update in these passes.
fn update(case: &Golden, passes: &[TokenBatch]) -> (Vec<f32>, Vec<(String, Vec<f32>)>) {
    let mut decoder = decoder(case).0;
    let (mut key, mut losses) = (KEY, Vec::new());
    for batch in passes {
        losses.extend(decoder.forward_backward(batch, key).expect("a pass"));
        key = PassKey {
            first_token: key.first_token + batch.input_ids.len() as u64,
            first_target: key.first_target + batch.targets.len() as u64,
            ..key
        };
    }
    let grads = decoder.trainable().iter();
    let grads = grads.map(|one| (one.name.clone(), one.grad.as_slice().to_vec()));
    (losses, grads.collect())
}

#[test]
fn an_update_in_one_pass_or_a_pass_a_row_drops_the_same_elements() {
    let mut heads = 0;
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        heads += usize::from(decoder(&case).1);
        let rows = case.rows();
        assert!(rows.len() > 1);
        let each: Vec<TokenBatch> = rows.chunks(1).map(pass).collect();
        let (losses, grads) = update(&case, &[pass(&rows)]);
        let (cut_losses, cut_grads) = update(&case, &each);
        assert!(distance(&cut_losses, &losses).rel <= 1e-6, "{family}");
        assert!(
            !grads.is_empty() && cut_grads.len() == grads.len(),
            "{family}"
        );
        for ((name, cut), (_, whole)) in cut_grads.iter().zip(&grads) {
            let off = distance(cut, whole).rel;
            // Sums in another order: most in the keys' A, whose gradients are small differences of large terms.
            assert!(off <= 2e-5, "{family}, {name}: {off:e}");
        }
    }
    assert!(heads > 0, "no family with a delta on its head");
}

/// The case above would pass without masks, or with the first row's for all.
#[test]
fn every_row_has_masks_of_its_own() {
    let case = golden("llama/all_linear");
    let row = &case.rows()[..1];
    let (losses, _) = update(&case, &[pass(&[row, row].concat())]);
    let (first, second) = losses.split_at(losses.len() / 2);
    assert_ne!(first, second);
}

#[test]
fn losses_logits_and_tokens_outside_training_drop_nothing() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let row = &case.rows()[0];
        let batch = pass(std::slice::from_ref(row));
        let told = |decoder: &Decoder<Cpu>| {
            let last = [row.input_ids.len() as u32 - 1];
            let (prompt, config) = (&row.input_ids[..2], GenerationConfig::default());
            (
                decoder.losses(&batch, 0.0).expect("a pass"),
                decoder.logits(&row.input_ids, &last).expect("a pass"),
                decoder
                    .generate(prompt, &config, |_| ControlFlow::Continue(()))
                    .expect("tokens"),
            )
        };
        let mut dropping = decoder(&case).0;
        let without = told(&with_dropout(&case, 0.0).0);
        assert_eq!(told(&dropping), without, "{family}");
        let trained = dropping.forward_backward(&batch, KEY).expect("a pass");
        assert_ne!(
            trained, without.0,
            "{family}: nothing was dropped in training"
        );
    }
}
