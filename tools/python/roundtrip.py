"""Opens a folder of ours with the Python stack and compares greedy tokens with those that our binary printed.

    python roundtrip.py --model BASE [--adapter DIR] --ours OURS.json [--out REPORT.json]     compare
    python roundtrip.py --model BASE [--adapter DIR] --prompts PROMPTS.json [--out SAID.json] say only

Without `--adapter`, `--model` is opened alone: a merged folder. OURS.json: {"outputs": [{"prompt_ids" or "prompt", "new_ids"}]}.
PROMPTS.json: a list of texts or of lists of ids. All in f32 unless `--dtype`.

REPORT.json: {equal, different, all_equal, unused_tensors, untouched_parameters, outputs}; an entry of `different` has the
index, the position of the first other token, both ids there, and the margin that the Python stack saw between its best two.
Exit 0 when all are equal and every tensor of the adapter was used, 1 otherwise.
"""

import argparse
import sys
from pathlib import Path

import safetensors
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

import stack


def adapter_mismatch(model, folder):
    """Tensors of the file that landed nowhere (or not with their values), and parameters that no tensor filled."""
    with safetensors.safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    unused = [name for name, tensor in stored.items() if name not in held or not torch.equal(held[name].float(), tensor.float())]
    return unused, [name for name in held if name not in stored]


def compare(ours, outputs):
    different = []
    for index, (mine, theirs) in enumerate(zip(ours, outputs)):
        if mine["new_ids"] != theirs["new_ids"]:
            pairs = zip(mine["new_ids"], theirs["new_ids"])
            at = next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(mine["new_ids"]), len(theirs["new_ids"])))
            inside = at < len(theirs["margins"])
            different.append({"index": index, "position": at, "ours": mine["new_ids"][at:at + 1], "theirs": theirs["new_ids"][at:at + 1],
                              "margin": theirs["margins"][at] if inside else None})
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ours")
    source.add_argument("--prompts")
    parser.add_argument("--max-new-tokens", type=int, help="default: as many as ours has, else 32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out")
    options = parser.parse_args()
    stack.quiet()
    tokenizer = stack.open_tokenizer(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    unused, untouched = [], []
    if options.adapter:
        model = PeftModel.from_pretrained(model, options.adapter).eval()
        unused, untouched = adapter_mismatch(model, options.adapter)
    asked = stack.read_prompts(options.ours or options.prompts, tokenizer)
    longest = max((len(entry.get("new_ids", [])) for entry in asked), default=0)
    outputs = stack.say_all(model, tokenizer, asked, options.max_new_tokens or longest or 32)
    if options.prompts:
        stack.write_json(options.out, {"versions": stack.versions(), "outputs": outputs, "unused_tensors": unused, "untouched_parameters": untouched})
        return
    different = compare(asked, outputs)
    fine = not (different or unused or untouched)
    stack.write_json(options.out, {"versions": stack.versions(), "equal": len(outputs) - len(different), "different": different,
                                   "all_equal": not different, "unused_tensors": unused, "untouched_parameters": untouched, "outputs": outputs})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
