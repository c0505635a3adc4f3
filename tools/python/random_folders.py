"""The stages of a random run after training: each side opens the other's adapter, generates with ours, and merges ours."""

import contextlib
import io

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import random_trainer
from random_models import write_rows
from random_setup import WEIGHTS, attempt, restore_patterns
from random_train import checkpoints

PROMPTS = ("Human: the cat\n\nAssistant: ", "Once upon a time 数据")
NEW_TOKENS = 10
UNPROVED = "the merged model is not the adapter's: logits differ"  # told after the folder is written
NEAR_TIE = 1e-4  # logits near 1, after f32 sums in another order
LOSS_TOLERANCE = 2e-5  # f32 sums in another order
# spacing of each dtype, and a sum's rounding near zero: f32's own products, or half a step of the smallest half-precision numbers
SPACING = {torch.float32: 2**-23, torch.bfloat16: 2**-7, torch.float16: 2**-10}
NEAR_ZERO = {torch.float32: 1e-7, torch.bfloat16: 1e-6, torch.float16: 1e-6}
STEPS = {torch.float32: 4, torch.bfloat16: 0.51, torch.float16: 0.51}  # a 16-bit tensor is the f32 one, rounded once; f32 sums round a few times


def with_adapter(run, folder, dtype=torch.float32):
    return PeftModel.from_pretrained(random_trainer.open_base(run.theirs, dtype), folder).eval()


def open_each_other(run):
    run.model = with_adapter(run, run.place / "ours")
    with contextlib.redirect_stdout(io.StringIO()):
        report = run.model.load_adapter(run.place / "ours", "default")
    missing = [key for key in report.missing_keys if "lora_" in key or "modules_to_save" in key]
    run.found.equal("our adapter in PEFT: keys missing or left over", ([], []), (missing, report.unexpected_keys))
    compare_losses(run, "our adapter in both", run.model, run.ours, "--adapter", run.place / "ours")
    for name in sorted(checkpoints(run.place / "trainer"))[-1:]:
        folder = run.place / "trainer" / name
        restore_patterns(run, folder)
        compare_losses(run, "PEFT's adapter in both", with_adapter(run, folder), run.ours, "--adapter", folder)


def compare_losses(run, what, model, folder, *adapter):
    """Loss of each row by `eval` and by the Python model."""
    dataset = write_rows(run.case["rows"] + run.case["eval_rows"], run.place / "all", "json")
    arguments = ("--dataset", dataset, "--max-length", run.case["max_length"], "--compute-dtype", "f32", *adapter)
    told = run.json_of(f"{what}: eval", "eval", "--model", folder, *arguments)
    if told is None:
        return
    ours = [(row["tokens"], row["loss"]) for row in told["rows"]]
    theirs = random_trainer.row_losses(model, run.rows + run.eval_rows)
    run.found.equal(f"{what}: labels of rows", [count for count, _ in theirs], [count for count, _ in ours])
    for number, ((_, left), (_, right)) in enumerate(zip(theirs, ours)):
        same = left == right if None in (left, right) else abs(left - right) <= LOSS_TOLERANCE * (1 + max(left, right))
        if not same:
            run.found.differs(f"{what}: loss of row {number}", left, right)


def generate(run):
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt.replace("\n", "\\n"))]
    settings = ("--compute-dtype", "f32", "--max-new-tokens", NEW_TOKENS, "--repetition-penalty", run.case["repetition_penalty"])
    told = run.json_of("generate", "generate", "--model", run.ours, "--adapter", run.place / "ours", *settings, *prompts)
    for prompt, ours in zip(PROMPTS, told or []):
        ids = run.tokenizer(prompt)["input_ids"]
        run.found.equal(f"ids of {prompt!r}", ids, ours["prompt_ids"])
        new, margins = random_trainer.greedy(run.model, ids, NEW_TOKENS, run.case["repetition_penalty"])
        compare_generated(run, new, margins, ours)


def compare_generated(run, new, margins, ours):
    if new == ours["new_ids"]:
        run.found.equal("generated text", run.tokenizer.decode(new, skip_special_tokens=True), ours["text"])
        return
    pairs = enumerate(zip(new, ours["new_ids"]))
    apart = next((index for index, (left, right) in pairs if left != right), None)
    if apart is None or margins[apart] > NEAR_TIE:
        run.found.differs("generated ids", new, ours["new_ids"])


def merge(run):
    """Our merge of our adapter beside PEFT's: whether it can be done, tensors, configs, losses."""
    case, folder = run.case, run.place / "merged"
    dtype = getattr(torch, case["storage"])
    code, _, errors = run.lowrank("merge", "--model", run.ours, "--adapter", run.place / "ours", "--output", folder)
    theirs, refusal = attempt(lambda: with_adapter(run, run.place / "ours", dtype).merge_and_unload())
    if refusal and code:
        return
    if code and not refusal and dtype != torch.float32 and UNPROVED in errors:
        run.found.differs("merge: proof", "none", errors[-600:], "merge in 16 bits")
    elif refusal or code:
        run.found.differs("merge: refused by one", repr(refusal), errors[-600:] or "merged")
        return
    ours, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    run.found.equal("merged: what transformers tells when loading", {}, {key: value for key, value in told.items() if value})
    run.found.equal("merged: dtype", dtype, ours.dtype)
    compare_losses(run, "merged", AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), folder)
    theirs.save_pretrained(run.place / "theirs_merged")
    is_tied = random_trainer.open_base(run.theirs).config.tie_word_embeddings
    if is_tied and any("lm_head.lora_A" in key for key in load_file(run.place / "ours" / WEIGHTS)):
        run.found.differs("merged: head", "tied", "untied", "tied head merged")
        return
    compare_tensors(run, ours, dtype)
    compare_configs(run, theirs, ours)


def compare_tensors(run, ours, dtype):
    """Each merged tensor beside the one that PEFT merges in f32."""
    exact = with_adapter(run, run.place / "ours").merge_and_unload().state_dict()
    ours = ours.state_dict()
    run.found.equal("merged: keys", sorted(exact), sorted(ours))
    for key in exact.keys() & ours.keys():
        left, right = exact[key].double(), ours[key].double()
        excess = (left - right).abs() - STEPS[dtype] * SPACING[dtype] * left.abs() - NEAR_ZERO[dtype]
        if excess.numel() and not excess.max() <= 0:  # a NaN is no agreement
            at = excess.argmax()
            run.found.differs(f"merged: {key}", left.flatten()[at].item(), right.flatten()[at].item())


def compare_configs(run, theirs, ours):
    configs = [AutoConfig.from_pretrained(run.place / name).to_dict() for name in ("theirs_merged", "merged")]
    generation = [model.generation_config.to_dict() for model in (theirs, ours)]
    for what, pair in (("config.json", configs), ("generation config", generation)):
        for found in pair:
            for key in ("_name_or_path", "transformers_version", "_from_model_config"):
                found.pop(key, None)
        run.found.equal_maps(f"merged: {what}", *pair)
