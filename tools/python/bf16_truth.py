"""Real rows in f64 and in torch's bf16: the loss of every token and every gradient of an adapter.

    python bf16_truth.py --model DIR --adapter START_DIR --dataset PATH [--dataset PATH] --out DIR
        [--updates 2] [--rows 8] [--max-length 256] [--threads N]

Of each data set the first `updates * rows` rows, as updates of `rows` rows; a row is one pass, as the mission has it.
The truth is the stored weights and the adapter computed in f64 all the way; bf16 is the base in bf16 with the adapter
in f32, as PEFT loads it.

Writes to --out, and prints {"versions", "threads", "settings", "updates", "tokens", "labelled"}:
  rows.json                  for each update its rows, {input_ids, labels}
  model/                     the base rounded to bf16, where it is not stored so
  {truth,torch}.safetensors  f32: `<update>.losses`, every target's in order of rows, and `<update>.grad.<name>`,
                             the gradient of their mean
"""

import argparse
import json
from pathlib import Path

import safetensors.torch
import torch
from transformers import AutoConfig

import stack
from make_goldens import as_f32, load_base, open_adapted, trainable, wide
from truth import everything_in_f64


def targets(row):
    return sum(label != -100 for label in row["labels"][1:])


def updates_of(options, tokenizer):
    """Rows with nothing to learn are passed over."""
    found = []
    for path in options.dataset:
        encoded = (stack.encode(row, tokenizer, options.max_length) for row in stack.open_rows(path))
        rows = [row for row, _ in zip((row for row in encoded if targets(row)), range(options.updates * options.rows))]
        found += [rows[first:first + options.rows] for first in range(0, len(rows), options.rows)]
    return found


def update(model, rows):
    """Losses and gradients of one update, a row at a time: gradients add up as in the Trainer."""
    model.zero_grad()
    items, losses = sum(map(targets, rows)), []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        labels = torch.tensor(row["labels"])[1:]
        every = torch.nn.functional.cross_entropy(wide(logits[:-1]), labels, ignore_index=-100, reduction="none")
        (every.sum() / items).backward()
        losses.append(every[labels != -100].detach())
    return {"losses": torch.cat(losses)} | {f"grad.{name}": parameter.grad.clone() for name, parameter in trainable(model).items()}


def rounded_base(options):
    """The folder of the base whose weights every side computes with."""
    if AutoConfig.from_pretrained(options.model).dtype == torch.bfloat16:
        return options.model
    load_base(options.model, None, torch.bfloat16).save_pretrained(options.out / "model")
    return options.out / "model"


def every_update(model, updates):
    return {f"{number}.{name}": tensor for number, rows in enumerate(updates) for name, tensor in update(model, rows).items()}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--dataset", required=True, action="append")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def main():
    options = parse()
    stack.quiet()
    if options.threads:
        torch.set_num_threads(options.threads)
    updates = updates_of(options, stack.open_tokenizer(options.model))
    options.out.mkdir(parents=True, exist_ok=True)
    kept = [[{key: row[key] for key in ("input_ids", "labels")} for row in rows] for rows in updates]
    (options.out / "rows.json").write_text(json.dumps(kept))
    base = rounded_base(options)
    found = every_update(open_adapted(base, None, options.adapter, torch.bfloat16), updates)
    safetensors.torch.save_file(as_f32(found), options.out / "torch.safetensors")
    model = open_adapted(base, None, options.adapter, torch.bfloat16)
    with everything_in_f64():
        found = every_update(model.double(), updates)
    # Outside, where f32 means f32 again.
    safetensors.torch.save_file(as_f32(found), options.out / "truth.safetensors")
    rows = [row for rows in updates for row in rows]
    stack.write_json(None, {"versions": stack.versions(), "threads": torch.get_num_threads(),
                            "settings": {"model": options.model, "updates": options.updates}, "updates": len(updates),
                            "tokens": sum(len(row["input_ids"]) for row in rows), "labelled": sum(map(targets, rows))})


if __name__ == "__main__":
    main()
