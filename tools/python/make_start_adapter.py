"""Writes a start adapter as PEFT initialises and saves it, for runs that begin from the same weights.

    python make_start_adapter.py --model DIR --out DIR [--seed 0] [--random-b 0.02] [--lora r=8 --lora 'target_modules=["q_proj"]']

Prints {"out", "report", "modules"} as JSON.
"""

import argparse
import contextlib
import io

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import stack


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random-b", type=float, default=0.0, metavar="STD", help="fill lora_B with noise of this spread instead of zeros")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME=JSON", help="an argument of LoraConfig")
    options = parser.parse_args()
    stack.quiet()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    torch.manual_seed(options.seed)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **stack.key_values(options.lora)))
    if options.random_b:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=options.random_b)
    model.save_pretrained(options.out)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        model.print_trainable_parameters()
    stack.write_json(None, {"out": options.out, "report": report.getvalue().strip(), "modules": list(model.targeted_module_names)})


if __name__ == "__main__":
    main()
