"""Trains as the mission does, with the real Trainer and PEFT, and writes everything that a run of ours is laid beside.

    python parity_train.py --model DIR --dataset PATH --adapter START_DIR --out RUN.json [--save-adapter DIR]
        [--split NAME] [--limit N] [--max-length 256] [--prompts PROMPTS.json] [--max-new-tokens 32] [--threads N]
        [--dtype float32] [--dump-rows ROWS.jsonl] [--argument max_steps=64] [--argument learning_rate=1e-4]

Batch 1, accumulation 8, a log line each step, no dropout; `--argument` sets any TrainingArguments by name.

RUN.json:
  versions, settings
  rows      number of rows, tokens and labelled tokens in all, rows cut at max_length, rows without a label
  order     row numbers in the order in which the run took them
  log       the Trainer's log_history: {loss, grad_norm, learning_rate, epoch, step} for each update, then the summary
  seconds   of the training
  outputs   for each prompt {prompt, prompt_ids, new_ids, text, smallest_margin, margins}: greedy, with the trained adapter
  base_outputs   the same before training, with the adapter switched off
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

import stack

MISSION = dict(per_device_train_batch_size=1, gradient_accumulation_steps=8, logging_steps=1, num_train_epochs=1, save_strategy="no",
               use_cpu=True, remove_unused_columns=False, disable_tqdm=True)


class RecordingCollator:
    """DataCollatorForSeq2Seq, noting which rows it was handed."""

    def __init__(self, tokenizer):
        self.inner = DataCollatorForSeq2Seq(tokenizer=tokenizer, padding=True)
        self.order = []

    def __call__(self, features):
        self.order += [feature["row"] for feature in features]
        return self.inner([{key: value for key, value in feature.items() if key != "row"} for feature in features])


class CountingTrainer(Trainer):
    """The Trainer, counting its micro-batches: its loader fetches one more than it takes."""

    taken = 0

    def training_step(self, *arguments, **named):
        self.taken += 1
        return super().training_step(*arguments, **named)


def encode_all(rows, tokenizer, options):
    encoded = [stack.encode(row, tokenizer, options.max_length, not options.plain_response) for row in rows]
    for number, row in enumerate(encoded):
        row["row"] = number
    if options.dump_rows:
        lines = (json.dumps({"input_ids": row["input_ids"], "labels": row["labels"]}) for row in encoded)
        Path(options.dump_rows).write_text("\n".join(lines) + "\n")
    return encoded


def count(encoded, max_length):
    labelled = [sum(label != -100 for label in row["labels"]) for row in encoded]
    return {"rows": len(encoded), "tokens": sum(len(row["input_ids"]) for row in encoded), "labelled": sum(labelled),
            "at_max_length": sum(len(row["input_ids"]) == max_length for row in encoded), "without_label": labelled.count(0)}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "dataset", "adapter", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("save-adapter", "split", "prompts", "dump-rows"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--plain-response", action="store_true",
                        help="no special tokens before the response, where the tokenizer would add them (the tutorial lets it)")
    parser.add_argument("--argument", action="append", default=[], metavar="NAME=JSON", help="one of TrainingArguments")
    return parser.parse_args()


def main():
    options = parse()
    stack.quiet()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = stack.open_tokenizer(options.model)
    encoded = encode_all(stack.open_rows(options.dataset, options.split, options.limit), tokenizer, options)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    model = PeftModel.from_pretrained(base, options.adapter, is_trainable=True)
    prompts = stack.read_prompts(options.prompts, tokenizer) if options.prompts else []
    model.eval()
    with model.disable_adapter():
        base_outputs = stack.say_all(model, tokenizer, prompts, options.max_new_tokens)
    collator = RecordingCollator(tokenizer)
    settings = MISSION | stack.key_values(options.argument)
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(output_dir=place, **settings)
        trainer = CountingTrainer(model=model, args=arguments, train_dataset=encoded, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    if options.save_adapter:
        model.save_pretrained(options.save_adapter)
    model.eval()
    stack.write_json(options.out, {
        "versions": stack.versions(),
        "settings": settings | {"dtype": options.dtype, "max_length": options.max_length, "threads": torch.get_num_threads()},
        "rows": count(encoded, options.max_length),
        "order": collator.order[:trainer.taken * arguments.per_device_train_batch_size],
        "log": trainer.state.log_history,
        "seconds": seconds,
        "outputs": stack.say_all(model, tokenizer, prompts, options.max_new_tokens),
        "base_outputs": base_outputs,
    })


if __name__ == "__main__":
    main()
