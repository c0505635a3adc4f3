"""The stages of a random run that train on both sides and compare the two runs."""

import json
from pathlib import Path

from safetensors.torch import load_file

import random_trainer
from random_arguments import updates
from random_compare import Ended, Findings, adapter_config, compare_keys, compare_logs, compare_weights, is_finite, is_mixed
from random_models import write_rows
from random_setup import WEIGHTS, attempt, encode_rows, end_refused, train_ours

ELSEWHERE = ("log_history", "best_metric", "best_model_checkpoint", "best_global_step")  # of trainer_state.json: compared by themselves


def train_both(run):
    encode_rows(run)
    run.masked = random_trainer.first_masked_update(run.case, run.rows)
    code, errors = ours_trains(run)
    run.model = random_trainer.with_values(run.case, run.theirs, run.values)
    arguments = (run.model, run.rows, run.eval_rows, run.tokenizer, run.place / "trainer")
    run.state, refusal = attempt(lambda: random_trainer.train(run.case, *arguments))
    if not refusal and not is_run_finite(run):
        raise Ended("not finite in the Trainer")  # ours stops there, or leaves the update out
    if refusal or code:
        end_refused(run, "training", refusal, code, errors)


def before_masked(run, log):
    return [entry for entry in log if entry["step"] < run.masked]


def is_run_finite(run):
    """As far as it is compared: label smoothing makes NaN of an update without a label."""
    log = run.state.log_history
    if run.masked:
        return is_finite(before_masked(run, log))
    return is_finite(log) and random_trainer.is_finite(run.model)


def ours_trains(run):
    case = run.case
    train = case["train"] | {"output_dir": str(run.place / "ours"), "max_tokens_per_pass": case["max_tokens_per_pass"],
                             "activation_checkpointing": case["activation_checkpointing"]}
    config = {"model": str(run.ours), "adapter": str(run.place / "start"), "dataset": str(run.dataset), "max_length": case["max_length"],
              "compute_dtype": "f32", "train": train}
    if train["eval_strategy"] != "no" or train.get("eval_on_start"):
        config["eval_dataset"] = str(write_rows(case["eval_rows"], run.place / "eval", "json"))
    return train_ours(run, "train", config, "--threads", case["threads"])


def our_state(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def compare_runs(run):
    """Logs and trained weights; where they are not near enough, again beside how far the Trainer's own rounding takes it."""
    theirs, ours = run.state.log_history, our_state(run.place / "ours")["log_history"]
    mixed = is_mixed(run.case["train"])
    if run.masked:
        compare_logs(run.found, before_masked(run, theirs), before_masked(run, ours), mixed=mixed)
        run.found.differs("an update without a label", "moves", "does not", "masked update")
        raise Ended("agree")
    run.model.save_pretrained(run.place / "theirs")
    tensors = [load_file(run.place / side / WEIGHTS) for side in ("theirs", "ours")]
    compare_keys(run.found, "trained adapter", *tensors)
    rate = run.case["train"]["learning_rate"]
    strict = Findings()
    compare_logs(strict, theirs, ours, mixed=mixed)
    compare_weights(strict, *tensors, rate)
    if strict.differences:
        arguments = (run.theirs, run.values, run.rows, run.eval_rows, run.tokenizer)
        log, model = random_trainer.train_again(run.case, *arguments)
        model.save_pretrained(run.place / "again")
        strict = Findings()
        compare_logs(strict, theirs, ours, log, mixed)
        compare_weights(strict, *tensors, rate, load_file(run.place / "again" / WEIGHTS))
    run.found.differences += strict.differences
    run.found.known |= strict.known
    configs = [adapter_config(run.place / side / "adapter_config.json") for side in ("theirs", "ours")]
    run.found.equal_maps("adapter_config.json of the trained adapter", *configs)


def checkpoints(folder):
    return {path.name for path in folder.glob("checkpoint-*")}


def compare_checkpoints(run):
    theirs, ours = run.place / "trainer", run.place / "ours"
    kept = [sorted(checkpoints(folder)) for folder in (theirs, ours)]
    run.found.equal("checkpoints kept", *kept, known_of_kept(run, *map(set, kept)))
    for name in set(kept[0]) & set(kept[1]):
        compare_state(run, name, theirs / name, ours / name)
        compare_keys(run.found, f"{name}: tensors", *(load_file(folder / name / WEIGHTS) for folder in (theirs, ours)))


def known_of_kept(run, theirs, ours):
    train = run.case["train"]
    last = run.state.global_step
    if is_mixed(train):
        return "order in a step"
    if "early_stopping_patience" in train and last < updates(len(run.rows), train) and ours - theirs == {f"checkpoint-{last}"}:
        return "stop is saved"
    if train.get("save_total_limit") == 1 and theirs <= ours:
        return "limit of one"
    return None


def compare_state(run, name, theirs, ours):
    """trainer_state.json of a checkpoint: its form, its values, which checkpoint is best, and how much is logged in it."""
    text = (ours / "trainer_state.json").read_text()
    left, right = our_state(theirs), json.loads(text)
    run.found.equal(f"{name}: form of trainer_state.json", json.dumps(right, indent=2, sort_keys=True) + "\n", text)
    known = "order in a step" if is_mixed(run.case["train"]) else None
    run.found.equal(f"{name}: entries of its log", len(left["log_history"]), len(right["log_history"]), known)
    best = [Path(state["best_model_checkpoint"] or "").name for state in (left, right)]
    run.found.equal(f"{name}: best checkpoint", *best, known)
    run.found.equal(f"{name}: best_global_step", *(state["best_global_step"] for state in (left, right)), known)
    run.found.equal(f"{name}: whether there is a best metric", *(state["best_metric"] is None for state in (left, right)), known)
    run.found.equal(f"{name}: num_input_tokens_seen", left.pop("num_input_tokens_seen"), right.pop("num_input_tokens_seen"), "tokens seen")
    if run.case["train"]["logging_strategy"] != "steps":
        left.pop("logging_steps")  # without effect then, and kept as given on one side only
        right.pop("logging_steps")
    rest = [{key: value for key, value in state.items() if key not in ELSEWHERE} for state in (left, right)]
    run.found.equal_maps(f"{name}: trainer_state.json", *rest)
