//! The decoder against the Python stack: logits, losses and every gradient of low-rank deltas, for each family.
//! Cases with other trained parameters go through `peft` and are tested there.

use std::path::Path;
use std::sync::Arc;

use engine::backend::Backend;
use engine::cpu::Cpu;
use engine::reference::Reference;
use engine::shapes::{ComputeDtype, Prefix, Segment};
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use lowrank_model::spec::DecoderSpec;
use lowrank_model::{Decoder, LoraInit, ModelError, PassKey, Target, TokenBatch};
use testkit::{Golden, Row, Tol, distance, golden};

mod checkpointing;
mod dropout;
mod padding;

const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];
const KEY: PassKey = PassKey {
    seed: 42,
    step: 0,
    first_token: 0,
    first_target: 0,
};

fn load<B: Backend>(case: &Golden, backend: B) -> Decoder<B> {
    load_with_dropout(case, backend, 0.0)
}

fn load_with_dropout<B: Backend>(case: &Golden, backend: B, dropout: f32) -> Decoder<B> {
    let weights = WeightStore::open(&case.path("model")).expect("the golden's weights");
    let mut decoder =
        Decoder::load(Arc::new(backend), spec_of(case), &weights).expect("weights that fit");
    add_adapter(&mut decoder, &case.path("adapter"), case, dropout);
    decoder
}

fn spec_of(case: &Golden) -> DecoderSpec {
    let config = HfConfig::open_file(&case.path("config")).expect("the golden's config");
    lowrank_model::families::spec_from_map(&config.raw, config.path()).expect("a known family")
}

fn cpu() -> Cpu {
    Cpu::new(Some(2), ComputeDtype::F32, None)
}

/// Deltas by name alone: rank from the shapes, one scaling for all.
fn add_adapter<B: Backend>(decoder: &mut Decoder<B>, folder: &Path, case: &Golden, dropout: f32) {
    let scaling = case.number("lora_config.lora_alpha") / case.number("lora_config.r");
    let tensors = WeightStore::open_adapter(folder).expect("the golden's adapter");
    for a in tensors.iter() {
        let Some(path) = a.name.strip_suffix(".lora_A.weight") else {
            continue;
        };
        let b = tensors
            .get(&format!("{path}.lora_B.weight"))
            .expect("the other half");
        let path = path
            .strip_prefix("base_model.model.")
            .expect("PEFT's prefix");
        let values = |tensor: &formats::weights::StoredTensor| tensor.to_f32().expect("f32");
        let init = LoraInit {
            rank: a.shape[0],
            scaling: scaling as f32,
            dropout,
            a: values(a),
            b: values(&b),
        };
        decoder.add_lora(path, init).expect("a projection");
    }
}

fn first_update_matches<B: Backend>(name: &str, backend: B) {
    let case = golden(name);
    let mut decoder = load(&case, backend);
    let weight = 1.0 / case.number("num_items_in_batch");
    let batch = TokenBatch::of_rows(case.rows().iter().map(Row::parts), weight as f32);
    let losses = decoder.forward_backward(&batch, KEY).expect("a pass");
    case.check_close(
        "losses",
        &losses,
        Tol {
            abs: 1e-5,
            rel: 1e-5,
        },
    );
    assert_eq!(
        losses,
        decoder.losses(&batch, 0.0).expect("a pass"),
        "training and evaluation see the same losses"
    );
    let mut missing = case.names("grad.");
    for parameter in decoder.trainable() {
        assert!(
            missing.remove(&parameter.name),
            "{name}: `{}` is not wanted",
            parameter.name
        );
        let want = &case.tensor(&format!("grad.{}", parameter.name)).values;
        let grad = decoder
            .backend()
            .download(&parameter.grad)
            .expect("a gradient");
        let off = distance(&grad, want).rel;
        assert!(
            off <= 1e-4,
            "{name}: the gradient of `{}` is off by {off:e}",
            parameter.name
        );
    }
    assert!(missing.is_empty(), "{name}: no gradient of {missing:?}");
}

#[test]
fn losses_and_gradients_match_peft_for_every_family() {
    for family in FAMILIES {
        for case in ["all_linear", "attention"] {
            first_update_matches(&format!("{family}/{case}"), Reference::default());
            first_update_matches(&format!("{family}/{case}"), cpu());
        }
    }
}

#[test]
fn blooms_residual_behind_its_norm_matches_peft() {
    first_update_matches("bloom/post_norm", Reference::default());
    first_update_matches("bloom/post_norm", cpu());
}

#[test]
fn logits_match_peft_for_every_family() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let decoder = load(&case, cpu());
        let mut logits = Vec::new();
        for row in case.rows() {
            let rows: Vec<u32> = (0..row.input_ids.len() as u32).collect();
            logits.extend(decoder.logits(&row.input_ids, &rows).expect("a pass"));
        }
        // Element by element against the f64 truth: torch's own f32 logits are up to 7e-6 away from it.
        case.check_close(
            "truth.logits",
            &logits,
            Tol {
                abs: 1e-5,
                rel: 1e-5,
            },
        );
        assert!(
            distance(&logits, &case.tensor("logits").values).rel <= 1e-5,
            "{family}"
        );
    }
}

#[test]
fn greedy_tokens_match_peft_with_and_without_the_cache() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let decoder = load(&case, cpu());
        for want in case.want()["greedy"].as_array().expect("a list") {
            let ids = |key: &str| -> Vec<u32> {
                want[key]
                    .as_array()
                    .expect("ids")
                    .iter()
                    .map(|id| id.as_u64().expect("an id") as u32)
                    .collect()
            };
            let (mut prompt, new) = (ids("prompt"), ids("new_ids"));
            let config = lowrank_model::GenerationConfig {
                max_new_tokens: Some(new.len()),
                ..Default::default()
            };
            let got = decoder.generate(&prompt, &config, |_| std::ops::ControlFlow::Continue(()));
            assert_eq!(got.expect("tokens"), new, "{family}");
            prompt.extend(&new[..new.len() - 1]);
            let last = decoder
                .logits(&prompt, &[prompt.len() as u32 - 1])
                .expect("a pass");
            let best = (0..last.len())
                .max_by(|a, b| last[*a].total_cmp(&last[*b]))
                .expect("logits");
            assert_eq!(best as u32, new[new.len() - 1], "{family}");
        }
    }
}

#[test]
fn no_token_behind_the_cache_is_refused_and_the_cache_goes_on() {
    let decoder = load(&golden("bloom/attention"), cpu());
    let mut cache = decoder.new_cache(4);
    for len in [0, 3] {
        let refused = decoder.extend(&mut cache, &[]).expect_err("no token");
        assert!(
            matches!(
                refused,
                ModelError::Generation {
                    name: "input_ids",
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(cache.len(), len);
        decoder.extend(&mut cache, &[5, 9, 33]).expect("logits");
    }
}

/// Three rows that begin with the same five tokens, each row whole, or the beginning once.
fn alike(share: bool) -> TokenBatch {
    let shared: [u32; 5] = [7, 40, 3, 22, 9];
    let own: [&[u32]; 3] = [&[11, 12, 30], &[5], &[17, 6, 21, 35, 8, 2]];
    let mut batch = TokenBatch {
        input_ids: Vec::new(),
        segments: Vec::new(),
        targets: Vec::new(),
    };
    let mut add = |ids: &[u32], prefix: Option<Prefix>, first: usize| {
        let start = batch.input_ids.len();
        let len = ids.len();
        batch.segments.push(Segment { start, len, prefix });
        batch.input_ids.extend(ids);
        batch.targets.extend((first..len).map(|at| Target {
            position: (start + at) as u32,
            id: 0,
            weight: 0.1,
        }));
    };
    let prefix = share.then_some(Prefix { start: 0, len: 5 });
    if share {
        add(&shared, None, 5);
    }
    for own in own {
        if share {
            add(own, prefix, 0);
        } else {
            add(&[&shared, own].concat(), None, 5);
        }
    }
    for (number, target) in batch.targets.iter_mut().enumerate() {
        target.id = (7 * number as u32 + 3) % 50;
    }
    batch
}

#[test]
fn a_beginning_computed_once_gives_the_losses_and_gradients_of_whole_rows() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let run = |share| {
            let mut decoder = load(&case, cpu());
            let batch = alike(share);
            let losses = decoder.forward_backward(&batch, KEY).expect("a pass");
            let grads = decoder.trainable().iter().map(|parameter| {
                let grad = decoder.backend().download(&parameter.grad);
                (parameter.name.clone(), grad.expect("a gradient"))
            });
            (losses, grads.collect::<Vec<_>>())
        };
        let ((losses, grads), (whole_losses, whole)) = (run(true), run(false));
        assert_eq!(losses.len(), 10);
        assert!(distance(&losses, &whole_losses).rel < 1e-6, "{family}");
        assert!(!grads.is_empty() && grads.len() == whole.len(), "{family}");
        for ((name, grad), (_, want)) in grads.iter().zip(&whole) {
            let off = distance(grad, want).rel;
            assert!(
                off < 1e-5,
                "{family}: the gradient of `{name}` is off by {off:e}"
            );
        }
    }
}
