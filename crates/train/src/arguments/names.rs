//! Names that have no field: those of `transformers` that mean nothing here, and misspellings.

use std::borrow::Cow;

use model::near::nearest_name;
use serde_json::Value;

use super::{ArgumentValue, FIELDS};
use crate::error::Problem;

const DTYPE: &str = "the arithmetic is chosen by `compute_dtype` beside the `train` section";
const REPORT: &str = "no service is reported to; `metrics.jsonl` and `loss.svg` are always written";
const HUB: &str = "nothing is uploaded from here; upload the output folder afterwards";
const RANKS: &str = "one process trains on one machine";
const LOADER: &str = "rows are encoded before the run and need no loader processes";
const TORCH: &str = "it is a switch of PyTorch";
const MEMORY: &str = "memory is bounded by `max_tokens_per_pass`, whatever the batch";
const BLOCKS: &str = "with `activation_checkpointing` every block but the last is computed again";
const PRINT: &str = "what is printed is for the command line to say, not for the run";
const EVAL: &str = "an evaluation keeps only the sum of losses, so there is nothing to collect";

/// Names that `transformers` 5.23 still reads for those of today.
const OLD: &[(&str, &str)] = &[("gradient_checkpointing", "activation_checkpointing")];

/// Names of `transformers` 5.23 and 4.x without meaning here, and why.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("accelerator_config", RANKS),
    ("activation_checkpointing_kwargs", BLOCKS),
    ("adafactor", "use `optim`"),
    ("auto_find_batch_size", MEMORY),
    ("average_tokens_across_devices", RANKS),
    ("batch_eval_metrics", EVAL),
    ("bf16", DTYPE),
    ("bf16_full_eval", DTYPE),
    ("dataloader_in_order", LOADER),
    ("dataloader_multiprocessing_context", LOADER),
    ("dataloader_num_workers", LOADER),
    ("dataloader_persistent_workers", LOADER),
    ("dataloader_pin_memory", LOADER),
    ("dataloader_prefetch_factor", LOADER),
    ("ddp_backend", RANKS),
    ("ddp_broadcast_buffers", RANKS),
    ("ddp_bucket_cap_mb", RANKS),
    ("ddp_find_unused_parameters", RANKS),
    ("ddp_static_graph", RANKS),
    ("ddp_timeout", RANKS),
    ("debug", TORCH),
    ("deepspeed", RANKS),
    ("disable_tqdm", PRINT),
    (
        "do_eval",
        "give an evaluation set and `eval_strategy`, or use `lowrank eval`",
    ),
    ("do_predict", "use `lowrank generate`"),
    ("do_train", "`lowrank train` trains"),
    (
        "enable_jit_checkpoint",
        "SIGINT and SIGTERM always end in a checkpoint",
    ),
    ("eval_accumulation_steps", EVAL),
    ("eval_do_concat_batches", EVAL),
    ("eval_use_gather_object", RANKS),
    (
        "evaluation_strategy",
        "its name is `eval_strategy` since transformers 4.46",
    ),
    ("fp16", DTYPE),
    ("fp16_full_eval", DTYPE),
    ("fsdp", RANKS),
    ("fsdp_config", RANKS),
    (
        "full_determinism",
        "a run always gives the same bytes again",
    ),
    ("gradient_checkpointing_kwargs", BLOCKS),
    (
        "group_by_length",
        "rows of an update are packed without padding, so nothing is won by it",
    ),
    ("hub_always_push", HUB),
    ("hub_model_id", HUB),
    ("hub_private_repo", HUB),
    ("hub_revision", HUB),
    ("hub_strategy", HUB),
    ("hub_token", HUB),
    (
        "ignore_data_skip",
        "a resumed run always continues at the row where it stopped",
    ),
    ("include_for_metrics", EVAL),
    (
        "include_num_input_tokens_seen",
        "`num_input_tokens_seen` is always counted",
    ),
    (
        "include_tokens_per_second",
        "tokens per second are always shown",
    ),
    ("label_names", "labels are made by the template"),
    ("length_column_name", "lengths are counted"),
    ("liger_kernel_config", TORCH),
    ("local_rank", RANKS),
    ("log_level", PRINT),
    ("log_level_replica", PRINT),
    ("log_on_each_node", RANKS),
    ("logging_dir", "logs lie in `output_dir`"),
    (
        "logging_nan_inf_filter",
        "a loss that is not finite stops the run and is never hidden",
    ),
    ("neftune_noise_alpha", "noise on embeddings is not built"),
    ("no_cuda", TORCH),
    (
        "optim_args",
        "AdamW is set by `adam_beta1`, `adam_beta2`, `adam_epsilon`",
    ),
    (
        "optim_target_modules",
        "it belongs to GaLore and APOLLO, which are not built",
    ),
    (
        "overwrite_output_dir",
        "an output folder with another run's files is never overwritten",
    ),
    ("parallelism_config", RANKS),
    (
        "past_index",
        "it was for models that this tool does not read",
    ),
    (
        "per_gpu_train_batch_size",
        "its name is `per_device_train_batch_size`",
    ),
    ("prediction_loss_only", EVAL),
    ("project", REPORT),
    ("push_to_hub", HUB),
    ("ray_scope", RANKS),
    (
        "remove_unused_columns",
        "the template names the columns that it reads",
    ),
    ("report_to", REPORT),
    (
        "restore_callback_states_from_checkpoint",
        "early stopping is always resumed",
    ),
    ("run_name", REPORT),
    ("save_on_each_node", RANKS),
    ("save_safetensors", "safetensors is the only format written"),
    ("skip_memory_metrics", PRINT),
    ("tf32", DTYPE),
    ("torch_compile", TORCH),
    ("torch_compile_backend", TORCH),
    ("torch_compile_mode", TORCH),
    ("torch_empty_cache_steps", TORCH),
    ("trackio_bucket_id", REPORT),
    ("trackio_space_id", REPORT),
    ("trackio_static_space_id", REPORT),
    ("use_cache", "training never uses a KV cache"),
    ("use_cpu", TORCH),
    ("use_liger_kernel", TORCH),
];

/// A value that asks for nothing: `fp16: false`, `report_to: none`.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => matches!(
            text.as_str(),
            "" | "no" | "none" | "None" | "false" | "False"
        ),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The name of today.
pub(super) fn current(name: &str) -> &str {
    let known = OLD.iter().find(|(old, _)| *old == name);
    known.map_or(name, |(_, current)| current)
}

/// What `current` was called before.
pub(super) fn old(current: &str) -> impl Iterator<Item = &'static str> {
    OLD.iter()
        .filter(move |(_, name)| *name == current)
        .map(|(old, _)| *old)
}

/// A value as its argument spells it: the Trainer takes true for the newest checkpoint, and false for none.
pub(super) fn spelled<'v>(name: &str, value: &'v Value) -> Cow<'v, Value> {
    let switch = (name == "resume_from_checkpoint").then(|| bool::from_value(value));
    match switch.flatten() {
        None => Cow::Borrowed(value),
        Some(true) => Cow::Owned(Value::from("latest")),
        Some(false) => Cow::Owned(Value::Null),
    }
}

/// Names that are refused with a reason, unless they ask for nothing.
pub fn unsupported() -> impl Iterator<Item = &'static str> {
    UNSUPPORTED.iter().map(|(name, _)| *name)
}

pub(super) fn without_field(name: &str, value: &Value) -> Result<(), Problem> {
    match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        Some(_) if asks_for_nothing(value) => Ok(()),
        Some((_, reason)) => {
            Err(Problem::new(name, format!("is not supported: {reason}")).mend("remove it"))
        }
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Problem {
    let known = FIELDS.iter().map(|field| field.name);
    match nearest_name(name, known) {
        Some(near) => Problem::new(name, format!("is not known, did you mean `{near}`")),
        None => Problem::new(name, "is not known".into())
            .mend("`lowrank train --help` lists every argument"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_both_supported_and_refused() {
        for (name, _) in UNSUPPORTED {
            assert!(FIELDS.iter().all(|field| field.name != *name), "{name}");
        }
    }
}
