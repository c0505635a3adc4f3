"""Writes goldens/trainer: short runs of the real Trainer on the tiny llama, in its own row order, with evaluation and checkpoints.

    PYTHONHASHSEED=0 python tools/python/make_trainer_goldens.py [--out goldens]     (after make_goldens.py)
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainingArguments

from make_goldens import as_f32, open_adapted, trainable
from tiny import tiny_rows

COMMON = dict(use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1, remove_unused_columns=False, learning_rate=1e-2)
# updates that end short, epochs that are no whole number, logs over several updates, batches that need padding
RUNS = {
    "short_last_update": dict(per_device_train_batch_size=1, gradient_accumulation_steps=3, num_train_epochs=2, eval_strategy="steps",
                              eval_steps=2, per_device_eval_batch_size=2),
    "part_of_an_epoch": dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=1.5, lr_scheduler_type="cosine",
                             warmup_steps=0.34, weight_decay=0.1, seed=7),
    "max_steps_over_epochs": dict(per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=7, logging_steps=3,
                                  logging_first_step=True, data_seed=3),
    "drop_last": dict(per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=2, dataloader_drop_last=True,
                      eval_strategy="epoch", per_device_eval_batch_size=4),  # which drops the last two of evaluation too
    "no_clipping": dict(per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=6, max_grad_norm=0.0, adam_beta1=0.8,
                        adam_beta2=0.95, adam_epsilon=1e-3, weight_decay=0.2, lr_scheduler_type="constant"),
    "in_order": dict(per_device_train_batch_size=1, gradient_accumulation_steps=3, num_train_epochs=1, train_sampling_strategy="sequential",
                     lr_scheduler_type="constant_with_warmup", warmup_steps=2),
    # the Trainer smooths what it evaluates too
    "smoothed": dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=4, label_smoothing_factor=0.1,
                     eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4),
    "best_kept": dict(per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=8, eval_strategy="steps", eval_steps=2,
                      save_strategy="steps", save_steps=2, save_total_limit=2, load_best_model_at_end=True, save_only_model=True,
                      metric_for_best_model="eval_loss", greater_is_better=True),  # so that an early one is the best
}


class Collator:
    """Pads on the right and notes which rows it was handed, and whether to train or to evaluate."""

    def __init__(self):
        self.taken = []

    def __call__(self, rows):
        self.taken += [row["row"] for row in rows]
        longest = max(len(row["input_ids"]) for row in rows)
        fill = lambda key, value: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])
        mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
        return {"input_ids": fill("input_ids", 0), "labels": fill("labels", -100), "attention_mask": torch.tensor(mask)}


class Recording(Trainer):
    """The Trainer, noting the rows of each of its training steps and leaving out what differs from run to run."""

    def __init__(self, evaluation, **named):
        super().__init__(**named)
        self.steps = 0
        self.evaluation = evaluation

    # The Trainer's own loader, not a plain one: it alone says where the last batch ends short, which weighs that batch's loss.
    def get_eval_dataloader(self, eval_dataset=None):
        training, self.data_collator = self.data_collator, self.evaluation
        loader = super().get_eval_dataloader(eval_dataset)
        self.data_collator = training
        return loader

    def training_step(self, *arguments, **named):
        self.steps += 1
        return super().training_step(*arguments, **named)


def timeless(entry):
    return {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}


def run(name, extra, folder, root):
    model = open_adapted(root / "model", None, root / "attention" / "adapter", torch.float32)
    rows = [{**row, "row": number} for number, row in enumerate(tiny_rows())]
    training, evaluation = Collator(), Collator()
    settings = COMMON | extra
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(output_dir=place, **settings)
        trainer = Recording(evaluation, model=model, args=arguments, train_dataset=rows, eval_dataset=rows[1:7], data_collator=training)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        kept = sorted(path.name for path in Path(place).glob("checkpoint-*"))
        if kept:
            keep_state(Path(place) / kept[-1] / "trainer_state.json", folder / f"{name}.trainer_state.json", place)
    final = {f"{name}.{key}": parameter for key, parameter in trainable(model).items()}
    state = trainer.state
    micro_batch = arguments.per_device_train_batch_size
    return {"name": name, "arguments": settings, "rows": len(rows), "eval_rows": list(range(1, 7)), "max_steps": state.max_steps,
            "num_train_epochs": state.num_train_epochs, "global_step": state.global_step, "epoch": state.epoch,
            "order": training.taken[:trainer.steps * micro_batch], "checkpoints_kept": kept,
            "best_metric": state.best_metric, "best_global_step": state.best_global_step,
            "log_history": [timeless(entry) for entry in state.log_history]}, final


def keep_state(source, target, place):
    """`trainer_state.json` as the Trainer wrote it, but for the times and the temporary folder's name."""
    state = json.loads(source.read_text().replace(place, "OUT"))
    state["log_history"] = [timeless(entry) for entry in state["log_history"]]
    target.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "goldens")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = options.out / "trainer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    runs, finals = [], {}
    for name, extra in RUNS.items():
        said, final = run(name, extra, folder, options.out / "llama")
        runs.append(said)
        finals |= final
    (folder / "runs.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in runs) + "\n]\n")
    safetensors.torch.save_file(as_f32(finals), folder / "final.safetensors")


if __name__ == "__main__":
    main()
