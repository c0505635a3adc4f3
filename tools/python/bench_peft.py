"""Times the peer on the mission's run: PEFT and the Trainer, rows of given lengths and random ids.

    python bench_peft.py --model DIR --lengths LENGTHS.json [--updates 5] [--warmup 1] [--dtype bfloat16|float32] [--threads N]
        [--adapter DIR | --r 8 --target-modules query_key_value] [--compile] [--padded] [--attention sdpa|eager] [--rows-per-update 8]
        [--opening N]

LENGTHS.json: a list of token counts, or of [prompt, all] pairs; rows are taken from its beginning, again and again.
With --opening the first N ids are the same in all rows, as a template's opening is; they count in the lengths.
Prints one line of JSON:
  seconds_per_update       list, warm-up left out; median_seconds_per_update
  tokens_per_second        tokens of those updates over their seconds
  first_update_seconds     from the launch of the process to the first update done
  load_seconds, peak_rss_bytes, tokens (of each timed update), trainable, losses, machine, settings
"""

import argparse
import statistics
import tempfile
import time

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import peer


class Clock(TrainerCallback):
    def __init__(self):
        self.ends = []
        self.first = None

    def on_train_begin(self, *_, **__):
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())
        self.first = self.first or peer.since_launch()


def make_rows(lengths, count, vocab, opening):
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(4, vocab, (opening,), generator=generator)
    rows = []
    for number in range(count):
        prompt, every = lengths[number % len(lengths)]
        ids = torch.randint(4, vocab, (every,), generator=generator)
        ids[:opening] = first[:every]
        labels = ids.clone()
        labels[:prompt] = -100
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def collate(rows):
    """Rows padded on the right to the longest; a single row is not padded."""
    longest = max(len(row["input_ids"]) for row in rows)
    fit = lambda row, key, value: torch.nn.functional.pad(row[key], (0, longest - len(row[key])), value=value)
    mask = [torch.nn.functional.pad(torch.ones(len(row["input_ids"]), dtype=torch.long), (0, longest - len(row["input_ids"]))) for row in rows]
    return {"input_ids": torch.stack([fit(row, "input_ids", 3) for row in rows]), "attention_mask": torch.stack(mask),
            "labels": torch.stack([fit(row, "labels", -100) for row in rows])}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.add_options(parser)
    parser.add_argument("--lengths", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--target-modules", nargs="*", help="default: PEFT's for the architecture")
    parser.add_argument("--compile", action="store_true", help="torch.compile(dynamic=True); needs a C++ compiler")
    parser.add_argument("--padded", action="store_true", help="one padded batch an update instead of accumulating single rows")
    for name, default in (("updates", 5), ("warmup", 1), ("r", 8), ("rows-per-update", 8), ("opening", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main():
    options = parse()
    model = peer.open_model(options)
    model = PeftModel.from_pretrained(model, options.adapter, is_trainable=True) if options.adapter else get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=options.r, target_modules=options.target_modules))
    load_seconds = peer.since_launch()
    if options.compile:
        model.get_base_model().compile(dynamic=True)
    steps = options.warmup + options.updates
    rows = make_rows(peer.read_lengths(options.lengths), steps * options.rows_per_update, model.config.vocab_size, options.opening)
    batch, accumulate = (options.rows_per_update, 1) if options.padded else (1, options.rows_per_update)
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(output_dir=place, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, max_steps=steps,
                                      logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential")
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:])][options.warmup:]
    size = options.rows_per_update
    tokens = [sum(len(row["input_ids"]) for row in rows[step * size:(step + 1) * size]) for step in range(options.warmup, steps)]
    peer.say({
        "seconds_per_update": seconds, "median_seconds_per_update": statistics.median(seconds), "tokens": tokens,
        "tokens_per_second": sum(tokens) / sum(seconds), "first_update_seconds": clock.first, "load_seconds": load_seconds,
        "peak_rss_bytes": peer.peak_rss_bytes(), "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], "machine": peer.machine(),
        "settings": {key: value for key, value in vars(options).items()},
    })


if __name__ == "__main__":
    main()
