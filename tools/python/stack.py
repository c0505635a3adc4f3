"""What the parity and bench scripts share: rows, the tutorial's preprocessing, greedy decoding, versions."""

import json
import sys
from pathlib import Path

import datasets
import peft
import torch
import transformers
from transformers import AutoTokenizer


def quiet():
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def versions():
    return {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
            "peft": peft.__version__, "datasets": datasets.__version__}


def open_rows(path, split=None, limit=None):
    """A folder of `save_to_disk`, or a .json, .jsonl or .csv file."""
    path = Path(path)
    if path.is_dir():
        rows = datasets.load_from_disk(str(path))
        rows = rows[split or "train"] if isinstance(rows, datasets.DatasetDict) else rows
    elif path.suffix == ".csv":
        rows = datasets.Dataset.from_csv(str(path))
    else:
        text = path.read_text(encoding="utf-8")
        rows = datasets.Dataset.from_list(json.loads(text) if text.lstrip().startswith("[") else
                                          [json.loads(line) for line in text.splitlines() if line.strip()])
    return rows.select(range(min(limit, len(rows)))) if limit else rows


def open_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # the collator wants one; batches of one row are never padded
    return tokenizer


def encode(example, tokenizer, max_length, response_special_tokens=True):
    """The tutorial's `process_func`, to the letter."""
    prompt = "\n".join(["Human: " + example["instruction"], example["input"]]).strip() + "\n\nAssistant: "
    prompt = tokenizer(prompt)["input_ids"]
    response = tokenizer(example["output"] + tokenizer.eos_token, add_special_tokens=response_special_tokens)["input_ids"]
    ids = (prompt + response)[:max_length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * len(prompt) + response)[:max_length]}


def read_prompts(path, tokenizer):
    """A list of texts, of lists of ids, or of objects with `prompt_ids` or `prompt`; or such a list under `outputs`."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    entries = entries["outputs"] if isinstance(entries, dict) else entries
    found = []
    for entry in entries:
        entry = {"prompt": entry} if isinstance(entry, str) else {"prompt_ids": entry} if isinstance(entry, list) else dict(entry)
        if "prompt_ids" not in entry:
            entry["prompt_ids"] = tokenizer(entry["prompt"])["input_ids"]
        found.append(entry)
    return found


@torch.no_grad()
def greedy(model, prompt_ids, max_new_tokens, eos_token_ids):
    """Greedy ids after the prompt (the EOS included), and at each the margin between the best two logits.

    Spelled out, so that nothing in a generation_config.json (a penalty, a temperature) takes part.
    """
    ids = torch.tensor([prompt_ids])
    new_ids, margins, cache = [], [], None
    for _ in range(max_new_tokens):
        out = model(input_ids=ids if cache is None else ids[:, -1:], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].float().topk(2)
        new_ids.append(best.indices[0].item())
        margins.append((best.values[0] - best.values[1]).item())
        if new_ids[-1] in eos_token_ids:
            break
        ids = torch.cat([ids, best.indices[:1].view(1, 1)], dim=1)
    return new_ids, margins


def eos_ids(model, tokenizer):
    found = model.generation_config.eos_token_id if model.generation_config else None
    found = found if found is not None else tokenizer.eos_token_id
    return set(found if isinstance(found, list) else [found])


def say_all(model, tokenizer, prompts, max_new_tokens):
    stop = eos_ids(model, tokenizer)
    outputs = []
    for prompt in prompts:
        new_ids, margins = greedy(model, prompt["prompt_ids"], max_new_tokens, stop)
        outputs.append({"prompt": prompt.get("prompt"), "prompt_ids": prompt["prompt_ids"], "new_ids": new_ids,
                        "text": tokenizer.decode(new_ids, skip_special_tokens=True), "smallest_margin": min(margins), "margins": margins})
    return outputs


def write_json(path, value):
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    if path is None or str(path) == "-":
        print(text, end="")
    else:
        Path(path).write_text(text, encoding="utf-8")


def key_values(pairs):
    """`name=json` pairs of a command line; what is no JSON is a string."""
    found = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
