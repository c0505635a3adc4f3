"""PEFT's and the Trainer's side of a drawn case."""

import copy
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, DataCollatorForSeq2Seq, EarlyStoppingCallback, PrinterCallback, Trainer,
                          TrainingArguments)

from random_arguments import batches, updates, updates_per_epoch
from random_compare import NOISE

PASSED_ON = "early_stopping_patience", "early_stopping_threshold"  # ours are arguments; the Trainer's are of a callback


def open_base(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def with_adapter(case, base):
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(case["lora"])))


@torch.no_grad()
def randomize(case, model):
    """Trained parameters away from their start, at which B is zero and saved modules are the base's."""
    generator = torch.Generator().manual_seed(case["seed"])
    for name, parameter in trained(model).items():
        noise = torch.randn(parameter.shape, generator=generator)
        if "lora_B" in name:
            parameter.copy_(noise * case["spread_of_b"])
        elif "lora_" in name:
            parameter.copy_(noise * parameter.shape[1] ** -0.5)
        else:
            parameter.add_(0.01 * noise)


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def values_of(model):
    return {name: parameter.detach().clone() for name, parameter in trained(model).items()}


def is_finite(model):
    return all(parameter.isfinite().all() for parameter in trained(model).values())


@torch.no_grad()
def with_values(case, folder, values, noise=0.0):
    """A new model whose trained parameters are `values`, each off by about `noise` of itself."""
    model = with_adapter(case, open_base(folder))
    generator = torch.Generator().manual_seed(99)
    for name, parameter in trained(model).items():
        parameter.copy_(values[name])
        parameter.mul_(1 + noise * torch.randn(parameter.shape, generator=generator))
    return model


def train(case, model, rows, eval_rows, tokenizer, place):
    """Trains `model` and gives the Trainer's state."""
    settings = {key: value for key, value in case["train"].items() if key not in PASSED_ON}
    arguments = TrainingArguments(output_dir=str(place), use_cpu=True, disable_tqdm=True, remove_unused_columns=False, report_to="none",
                                  **settings)
    patience, threshold = (case["train"].get(key) for key in PASSED_ON)
    callbacks = [EarlyStoppingCallback(patience, threshold or 0.0)] if patience else []
    collator = DataCollatorForSeq2Seq(tokenizer=tokenizer, padding=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=eval_rows or None, data_collator=collator,
                      callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state


def train_again(case, folder, values, rows, eval_rows, tokenizer):
    """The same run from a start a rounding away: its log and its model."""
    model = with_values(case, folder, values, NOISE)
    with tempfile.TemporaryDirectory() as place:
        log = train(case, model, rows, eval_rows, tokenizer, place).log_history
    return log, model


def first_masked_update(case, rows):
    """Number of the first update of which no row has a label, if any."""
    arguments = case["train"]
    per_epoch = updates_per_epoch(len(rows), arguments)
    for update in range(updates(len(rows), arguments)):
        epoch, number = divmod(update, per_epoch)
        if not any(label != -100 for row in rows_of(arguments, rows, epoch, number) for label in row["labels"][1:]):
            return update + 1
    return None


def rows_of(arguments, rows, epoch, number):
    """Rows of one update in the Trainer's order."""
    generator = torch.Generator().manual_seed(arguments.get("data_seed", arguments.get("seed", 42)) + epoch)
    is_random = arguments["train_sampling_strategy"] == "random"
    order = torch.randperm(len(rows), generator=generator).tolist() if is_random else list(range(len(rows)))
    size, together = arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]
    last = min((number + 1) * together, batches(len(rows), arguments))
    return [rows[index] for index in order[number * together * size:last * size]]


@torch.no_grad()
def row_losses(model, rows):
    """Labelled tokens and mean loss of each row."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits.float()[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        count = int((labels != -100).sum())
        total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        losses.append((count, total / count if count else None))
    return losses


def greedy(model, ids, new, penalty):
    """Greedy ids after the prompt and the margins of each choice. Without a cache: by the model alone."""
    prompt = torch.tensor([ids])
    out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new, use_cache=False,
                         repetition_penalty=penalty, pad_token_id=0, return_dict_in_generate=True, output_scores=True)
    best = [score[0].topk(2).values for score in out.scores]
    return out.sequences[0][len(ids):].tolist(), [(pair[0] - pair[1]).item() for pair in best]
