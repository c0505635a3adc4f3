//! What PEFT computes, through this crate and the `cpu` engine: every golden case in f32, the cases of `bf16`
//! against the f64 truth, and where gradients arrive from a fresh adapter.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::backend::Backend;
use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::adapter_config::OneOrMany;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use lowrank_peft::{LoraConfig, get_peft_model, load_adapter};
use model::families::{decoder_spec, module_tree};
use model::tree::ModuleTree;
use model::{Decoder, PassKey, TokenBatch};
use testkit::{Distance, Golden, Row, Tol, distance, golden};

const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

/// No case has dropout, so the key decides nothing.
const KEY: PassKey = PassKey {
    seed: 42,
    step: 0,
    first_token: 0,
    first_target: 0,
};

/// A golden's model without an adapter.
fn base(case: &Golden, compute: ComputeDtype) -> (Decoder<Cpu>, ModuleTree, WeightStore) {
    let config = HfConfig::open_file(&case.path("config")).expect("the golden's config");
    let spec = decoder_spec(&config).expect("a known family");
    let tree = module_tree(&config).expect("a known family");
    let weights = WeightStore::open(&case.path("model")).expect("the golden's weights");
    let backend = Arc::new(Cpu::new(Some(2), compute, None));
    let decoder = Decoder::load(backend, spec, &weights).expect("weights that fit");
    (decoder, tree, weights)
}

/// The same with the adapter that PEFT saved.
fn adapted(case: &Golden, compute: ComputeDtype) -> Decoder<Cpu> {
    let (mut decoder, tree, weights) = base(case, compute);
    load_adapter(&mut decoder, &tree, &case.path("adapter"), Some(&weights))
        .expect("PEFT's adapter");
    decoder
}

/// All rows of a golden, weighing what they do in its first update.
fn first_update(case: &Golden) -> TokenBatch {
    let weight = 1.0 / case.number("num_items_in_batch");
    TokenBatch::of_rows(case.rows().iter().map(Row::parts), weight as f32)
}

fn gradients(decoder: &Decoder<Cpu>) -> Vec<(String, Vec<f32>)> {
    let download = |buffer| decoder.backend().download(buffer).expect("a gradient");
    let trainable = decoder.trainable().iter();
    trainable
        .map(|parameter| (parameter.name.clone(), download(&parameter.grad)))
        .collect()
}

#[test]
fn losses_and_every_trainable_gradient_of_every_case_are_pefts() {
    let mut cases = 0;
    for name in FAMILIES.iter().flat_map(|family| testkit::cases(family)) {
        first_update_matches(&name);
        cases += 1;
    }
    assert!(cases >= 20, "{cases} cases");
}

fn first_update_matches(name: &str) {
    let case = golden(name);
    let mut decoder = adapted(&case, ComputeDtype::F32);
    let batch = first_update(&case);
    let losses = decoder.forward_backward(&batch, KEY).expect("a pass");
    let tol = Tol {
        abs: 1e-5,
        rel: 1e-5,
    };
    case.check_close("losses", &losses, tol);
    let mut missing = case.names("grad.");
    for (name_of, grad) in gradients(&decoder) {
        assert!(
            missing.remove(&name_of),
            "{name}: `{name_of}` is not wanted"
        );
        // Whole tensors, so that elements which are zero but for rounding (a key's bias without RoPE) weigh nothing.
        let off = distance(&grad, &case.tensor(&format!("grad.{name_of}")).values).rel;
        assert!(
            off <= 1e-4,
            "{name}: gradient of `{name_of}` is off by {off:e}"
        );
    }
    assert!(missing.is_empty(), "{name}: no gradient of {missing:?}");
}

/// `logits`, `losses` and `grads` in each family. The mean `loss` is one number a family, in which rounding errors
/// cancel by chance (torch's own are between 1e-5 and 7e-4): it is compared over the five families together.
#[test]
fn bf16_is_no_further_from_the_truth_than_torchs_bf16() {
    let (mut our_losses, mut torchs_losses) = (0.0, 0.0);
    for family in FAMILIES {
        let case = golden(&format!("{family}/bf16"));
        for (whole, ours) in distances_from_truth(&case, ComputeDtype::Bf16) {
            let torchs = case.number(&format!("torch_bf16_from_f64.{whole}.rel"));
            if whole == "loss" {
                our_losses += ours.rel.powi(2);
                torchs_losses += torchs.powi(2);
            } else {
                let ours = ours.rel;
                assert!(
                    ours <= torchs,
                    "{family}: {whole} is {ours:e} off, torch's {torchs:e}"
                );
            }
        }
    }
    assert!(
        our_losses <= torchs_losses,
        "{our_losses:e} {torchs_losses:e}"
    );
}

/// That bf16 is really in use above, and that f32 on the same files is far closer.
#[test]
fn bf16_rounds_and_f32_on_the_same_weights_does_not() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/bf16"));
        let rounded = distances_from_truth(&case, ComputeDtype::Bf16);
        let exact = distances_from_truth(&case, ComputeDtype::F32);
        for ((whole, bf16), (_, f32)) in rounded.iter().zip(&exact) {
            assert!(
                f32.rel < 1e-4,
                "{family}: {whole} in f32 is {:e} off",
                f32.rel
            );
            let is_one_number = *whole == "loss";
            assert!(
                is_one_number || bf16.rel > 10.0 * f32.rel,
                "{family}: {whole}"
            );
        }
    }
}

/// Of `logits`, `losses`, `loss` and `grads` (all gradients as one vector).
fn distances_from_truth(case: &Golden, compute: ComputeDtype) -> [(&'static str, Distance); 4] {
    let rows = case.rows();
    let mut decoder = adapted(case, compute);
    let items = case.number("label_tokens");
    let weight = 1.0 / counted(case, items);
    let batch = TokenBatch::of_rows(rows.iter().map(Row::parts), weight as f32);
    let losses = decoder.forward_backward(&batch, KEY).expect("a pass");
    let (mut grads, mut true_grads) = (Vec::new(), Vec::new());
    for (name, grad) in gradients(&decoder) {
        grads.extend(grad);
        true_grads.extend(&case.tensor(&format!("truth.grad.{name}")).values);
    }
    let every: Vec<u32> = (0..batch.input_ids.len() as u32).collect();
    let mut logits = Vec::new();
    for segment in &batch.segments {
        let ids = &batch.input_ids[segment.start..segment.start + segment.len];
        logits.extend(decoder.logits(ids, &every[..segment.len]).expect("a pass"));
    }
    let truth = |name: &str| &case.tensor(&format!("truth.{name}")).values;
    let mean = |losses: &[f32]| {
        let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        sum / counted(case, items)
    };
    let off = (mean(&losses) - case.number("f64.loss")).abs();
    let loss = Distance {
        max_abs: off,
        rel: off / case.number("f64.loss").abs(),
    };
    [
        ("logits", distance(&logits, truth("logits"))),
        ("losses", distance(&losses, truth("losses"))),
        ("loss", loss),
        ("grads", distance(&grads, &true_grads)),
    ]
}

/// The Trainer counts the label of position 0 for gpt2; see `goldens/README.md`.
fn counted(case: &Golden, items: f64) -> f64 {
    let family = case.want()["family"].as_str().expect("a family");
    if family == "gpt2" { items + 1.0 } else { items }
}

#[test]
#[allow(clippy::print_stdout, reason = "the count is for the fault suites")]
fn gradients_reach_every_b_at_step_one_and_every_a_from_step_two() {
    let mut tally = durable::faults::Tally::new();
    for family in FAMILIES {
        let projections = projections(family);
        assert!(projections.len() >= 4, "{family}: {projections:?}");
        for projection in projections {
            reach(family, &projection);
            tally.inject();
        }
    }
    println!("{}", tally.line(43, "each family's targets, one by one"));
}

/// What the modules that `all-linear` adapts are called within a block, as `attn.c_proj`.
fn projections(family: &str) -> BTreeSet<String> {
    let case = golden(&format!("{family}/all_linear"));
    let plan = {
        let (mut decoder, tree, _) = base(&case, ComputeDtype::F32);
        let config = LoraConfig {
            target_modules: Some(OneOrMany::One("all-linear".into())),
            ..LoraConfig::default()
        };
        get_peft_model(&mut decoder, &tree, &config, 1).expect("a plan")
    };
    let within = |path: &str| {
        let parts: Vec<&str> = path.rsplitn(3, '.').take(2).collect();
        parts.into_iter().rev().collect::<Vec<_>>().join(".")
    };
    let targets = plan.targets.iter();
    targets.map(|target| within(&target.path)).collect()
}

fn reach(family: &str, projection: &str) {
    let case = golden(&format!("{family}/all_linear"));
    let (mut decoder, tree, _) = base(&case, ComputeDtype::F32);
    let config = LoraConfig {
        target_modules: Some(OneOrMany::Many(vec![projection.to_owned()])),
        ..LoraConfig::default()
    };
    get_peft_model(&mut decoder, &tree, &config, 7).expect("a fresh adapter");
    let batch = first_update(&case);
    for step in 1..=3 {
        decoder.zero_grad();
        decoder.forward_backward(&batch, KEY).expect("a pass");
        for (name, grad) in gradients(&decoder) {
            let arrives = grad.iter().any(|value| value.abs() > 1e-9);
            let wanted = step > 1 || name.ends_with("lora_B.weight");
            assert_eq!(
                arrives, wanted,
                "{family}, {projection}: `{name}` at step {step}"
            );
        }
        descend(&mut decoder);
    }
}

/// A step down the slope, long enough to leave zero.
fn descend(decoder: &mut Decoder<Cpu>) {
    let moved: Vec<(String, Vec<f32>)> = decoder
        .trainable()
        .iter()
        .map(|parameter| {
            let download = |buffer| decoder.backend().download(buffer).expect("values");
            let (value, grad) = (download(&parameter.value), download(&parameter.grad));
            let step = value
                .iter()
                .zip(&grad)
                .map(|(value, grad)| value - 0.1 * grad);
            (parameter.name.clone(), step.collect())
        })
        .collect();
    for (name, values) in moved {
        decoder.set_values(&name, &values).expect("the same shape");
    }
}
