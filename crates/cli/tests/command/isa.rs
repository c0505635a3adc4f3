//! `--isa`: what it forces is used, says so, and gives the bits of every other instruction set.

use serde_json::Value;

use crate::sandbox::{Sandbox, bytes};

/// Lowest first.
const NAMES: [&str; 4] = ["scalar", "avx2", "avx512", "avx512bf16"];

/// The model and the rows that the program carries: its widths fill vectors and leave tails.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");

/// Trains into a folder of its own; gives the instruction set that was told, the losses and the adapter's bytes.
fn trained(
    sandbox: &Sandbox,
    dtype: &str,
    isa: Option<&str>,
) -> (Option<String>, Vec<Value>, Vec<u8>) {
    let folder = format!("{dtype}-{}", isa.unwrap_or("default"));
    let forced = isa.map_or(String::new(), |isa| format!("--isa {isa}"));
    let line = format!(
        "train --model {DEMO} --dataset {DEMO}/instructions.json --output-dir {folder} --max-steps 2 --logging-steps 1 \
         --per-device-train-batch-size 2 --lora-dropout 0.1 --compute-dtype {dtype} {forced}"
    );
    let output = sandbox.run(&line);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {talk}");
    let told = talk.lines().find_map(|line| line.strip_prefix("isa: "));
    let state = bytes(&sandbox.path(&format!("{folder}/trainer_state.json")));
    let state: Value = serde_json::from_slice(&state).unwrap();
    let log = state["log_history"].as_array().unwrap().iter();
    let numbers = |entry: &Value| {
        entry
            .get("loss")
            .map(|loss| serde_json::json!([loss, entry["grad_norm"]]))
    };
    let losses: Vec<Value> = log.filter_map(numbers).collect();
    assert_eq!(losses.len(), 2, "{state}");
    let adapter = bytes(&sandbox.path(&format!("{folder}/adapter_model.safetensors")));
    (told.map(str::to_owned), losses, adapter)
}

#[test]
fn a_forced_instruction_set_is_used_and_trains_the_same_bits() {
    let sandbox = Sandbox::new("bloom");
    for dtype in ["f32", "bf16"] {
        let (told, losses, adapter) = trained(&sandbox, dtype, None);
        assert_eq!(told, None, "nothing was forced");
        // From the highest down: what that comes to is what the processor has.
        let mut best = None;
        for (at, name) in NAMES.iter().enumerate().rev() {
            let (told, its_losses, its_adapter) = trained(&sandbox, dtype, Some(name));
            let used = NAMES.iter().position(|name| told.as_deref() == Some(name));
            let used = used.expect("the instruction set is told");
            assert_eq!(used, at.min(*best.get_or_insert(used)), "{name}: {told:?}");
            assert_eq!(its_losses, losses, "{dtype}, {name}");
            assert!(its_adapter == adapter, "{dtype}, {name}: other bytes");
        }
    }
}
