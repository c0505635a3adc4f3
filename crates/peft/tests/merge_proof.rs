//! A merge is proved where it says what the adapter says, and refused where it does not.

use std::sync::Arc;

use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use lowrank_peft::{
    MergeProof, MergeWitness, PeftError, ProofPrompt, load_adapter, merge_weights, merged_config,
    trained_values,
};
use model::Decoder;
use model::families::{decoder_spec, module_tree};
use testkit::{Golden, golden};

const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

struct Model {
    config: HfConfig,
    weights: WeightStore,
    decoder: Decoder<Cpu>,
}

impl Model {
    fn new(config: HfConfig, weights: WeightStore) -> Self {
        let backend = Arc::new(Cpu::new(Some(2), ComputeDtype::F32, None));
        let spec = decoder_spec(&config).expect("a known family");
        Self {
            decoder: Decoder::load(backend, spec, &weights).expect("weights that fit"),
            config,
            weights,
        }
    }

    fn base(case: &Golden) -> Self {
        let config = HfConfig::open_file(&case.path("config")).expect("the golden's config");
        let weights = WeightStore::open(&case.path("model")).expect("the golden's weights");
        Self::new(config, weights)
    }
}

/// What the adapter of a golden says, and the model that it is merged into.
fn heard_and_merged(case: &Golden) -> (MergeWitness, Model) {
    let mut adapted = Model::base(case);
    let tree = module_tree(&adapted.config).expect("a known family");
    let (weights, decoder) = (&adapted.weights, &mut adapted.decoder);
    let plan = load_adapter(decoder, &tree, &case.path("adapter"), Some(weights));
    let plan = plan.expect("PEFT's adapter");
    let witness = MergeWitness::hear(decoder, prompts()).expect("prompts that fit");
    let values = trained_values(decoder, &plan).expect("values");
    let merged = merge_weights(decoder.spec(), weights, &plan, &values);
    let (merged, untied) = merged.expect("finite values");
    let config = merged_config(&adapted.config, untied);
    (witness, Model::new(config, merged))
}

fn prompts() -> Vec<ProofPrompt> {
    let prompt = |input_ids: &[u32]| ProofPrompt {
        text: format!("{input_ids:?}"),
        input_ids: input_ids.to_vec(),
    };
    vec![prompt(&[5, 9, 33, 2]), prompt(&[40])]
}

fn prove(witness: MergeWitness, model: &Model) -> Result<MergeProof, PeftError> {
    witness.prove(&model.decoder, &model.weights)
}

#[test]
fn a_merge_in_f32_says_the_same_greedy_tokens() {
    for family in FAMILIES {
        let (witness, merged) = heard_and_merged(&golden(&format!("{family}/all_linear")));
        let proof = prove(witness, &merged).expect("they agree");
        assert_eq!(proof.bound, 1e-3, "{family}");
        let texts = proof.prompts.iter().map(|one| one.prompt.clone());
        assert!(texts.eq(prompts().into_iter().map(|one| one.text)));
        for one in &proof.prompts {
            assert_eq!(one.adapter_ids.len(), 24, "{family}");
            assert_eq!(one.merged_ids, one.adapter_ids, "{family}");
            assert_eq!(one.first_difference, None, "{family}");
            assert!(one.max_logit > 0.1, "{family}: {one:?}");
        }
        assert!(proof.largest_difference < 1e-4, "{family}: {proof:?}");
    }
}

#[test]
fn a_merge_rounded_to_bf16_may_differ_by_more() {
    let (witness, merged) = heard_and_merged(&golden("llama/bf16"));
    let proof = prove(witness, &merged).expect("they agree");
    assert_eq!(proof.bound, 5e-2);
    assert!(
        proof.largest_difference > 1e-5,
        "nothing was rounded: {proof:?}"
    );
}

#[test]
fn a_base_without_the_adapter_is_not_its_merge() {
    for family in FAMILIES {
        let case = golden(&format!("{family}/all_linear"));
        let (witness, _) = heard_and_merged(&case);
        let refused = prove(witness, &Model::base(&case)).expect_err("the adapter does something");
        let PeftError::MergeDiffers { difference, bound } = refused else {
            panic!("{family}: {refused}");
        };
        assert!(difference > bound, "{family}");
        assert_eq!(
            refused.to_string(),
            format!(
                "the merged model is not the adapter's: logits differ by {difference:e} of the largest, the bound is {bound:e}"
            )
        );
    }
}

#[test]
fn a_proof_by_no_prompt_is_none() {
    let model = Model::base(&golden("llama/all_linear"));
    let refused = MergeWitness::hear(&model.decoder, Vec::new()).err();
    assert!(matches!(refused, Some(PeftError::NoPrompts)));
}
