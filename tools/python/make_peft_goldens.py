"""Writes goldens/peft: which modules PEFT adapts, what it prints, what it writes as adapter_config.json.

    PYTHONHASHSEED=0 python tools/python/make_peft_goldens.py [--out goldens]
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from transformers import AutoModelForCausalLM, BloomConfig

from cases import ALL, ATTENTION, cases
from tiny import CONFIGS, tiny_model

LLAMAS = ("llama", "mistral", "qwen2")


def matching_cases(family):
    """Arguments of LoraConfig, each a question to the matching rules."""
    one = ATTENTION[family][0]
    blocks = "model.layers" if family in LLAMAS else "transformer.h"
    attention = {"bloom": "self_attention", "gpt2": "attn"}.get(family, "self_attn")
    embedding = {"bloom": "word_embeddings", "gpt2": "wte"}.get(family, "embed_tokens")
    norm = {"bloom": "ln_f", "gpt2": "ln_f"}.get(family, "norm")
    return [
        dict(),
        dict(target_modules=[one]),
        dict(target_modules=ALL[family]),
        dict(target_modules=[f"{attention}.{one}"]),
        dict(target_modules=[f"{blocks}.1.{attention}.{one}"]),
        dict(target_modules=[f"{blocks}.1.{attention}.{one}", one], layers_to_transform=0),
        dict(target_modules=[f"{blocks}.1.{attention}.{one}"], layers_to_transform=0),
        dict(target_modules=rf".*\.1.*{one}"),
        dict(target_modules=rf"{blocks}\.(0|1)\.{attention}\.{one}"),
        dict(target_modules=one),
        dict(target_modules=[rf".*\.1.*{one}"]),
        dict(target_modules=[one, "nowhere"]),
        dict(target_modules=["nowhere"]),
        dict(target_modules=[one[1:]]),
        dict(target_modules=[]),
        dict(target_modules="all-linear"),
        dict(target_modules="ALL-LINEAR"),
        dict(target_modules="all-linear", exclude_modules=[one]),
        dict(target_modules=ALL[family], exclude_modules=[f"{blocks}.0.{attention}.{one}"]),
        dict(target_modules=ALL[family], exclude_modules=rf".*\.0\..*"),
        dict(target_modules=ALL[family], exclude_modules=ALL[family]),
        dict(target_modules=ALL[family], exclude_modules="nowhere"),
        dict(target_modules=[one], layers_to_transform=[1]),
        dict(target_modules=[one], layers_to_transform=1),
        dict(target_modules=[one], layers_to_transform=[]),
        dict(target_modules=[one], layers_to_transform=[7]),
        dict(target_modules=[one], layers_to_transform=[0], layers_pattern=blocks.split(".")[-1]),
        dict(target_modules=[one], layers_to_transform=[0], layers_pattern=["nowhere", blocks.split(".")[-1]]),
        dict(target_modules=[one], layers_to_transform=[0], layers_pattern="nowhere"),
        dict(target_modules=[one], layers_pattern="h"),
        dict(target_modules=rf".*{one}", layers_to_transform=[0]),
        dict(target_modules=rf".*{one}", layers_pattern="h"),
        dict(target_modules=[one], modules_to_save=[embedding]),
        dict(target_modules=[one], modules_to_save=["lm_head"]),
        dict(target_modules=[one], modules_to_save=[norm]),
        dict(target_modules=[one], modules_to_save=["nowhere"]),
        dict(target_modules=ALL[family], modules_to_save=[f"1.{attention}"]),
        dict(target_modules=[one, embedding]),
        dict(target_modules=[one, "lm_head"]),
        dict(target_modules=[one, norm]),
        dict(target_modules=ALL[family], rank_pattern={one: 3}, alpha_pattern={one: 5}),
        dict(target_modules=ALL[family], rank_pattern={f"{blocks}.0.{attention}.{one}": 3, one: 2}),
        dict(target_modules=ALL[family], rank_pattern={one: 2, f"{blocks}.0.{attention}.{one}": 3}),
        dict(target_modules=ALL[family], rank_pattern={rf".*\.1\..*": 5}, alpha_pattern={rf"^{blocks}\.0\..*": 20}),
        dict(target_modules=[one], rank_pattern={"nowhere": 5}),
        dict(target_modules=[one], rank_pattern={one[1:]: 5}),
        dict(target_modules=[one], r=3, lora_alpha=5, use_rslora=True),
        dict(target_modules=[one], r=0),
        dict(target_modules=[one], r=-1),
        dict(target_modules=[one], bias="all"),
        dict(target_modules=[one], bias="lora_only"),
        dict(target_modules=[one], bias="some"),
        dict(target_modules=[one], fan_in_fan_out=True),
        dict(target_modules="(" + one),
        dict(target_modules=[one], init_lora_weights="gaussian"),
        dict(target_modules=[one], init_lora_weights="nonsense"),
        dict(target_modules=[one], lora_dropout=0.1),
    ]


def answer(family, arguments):
    """What PEFT does with these arguments: modules, parameters, the printed line; or the error."""
    said = {"family": family, "lora_config": arguments}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = get_peft_model(tiny_model(family), LoraConfig(task_type="CAUSAL_LM", **arguments))
        except Exception as error:  # whatever PEFT raises is the answer
            return said | {"error": type(error).__name__, "message": " ".join(str(error).split())[:300]}
    named = dict(model.base_model.model.named_modules())
    said["adapted"] = {
        name: {"r": layer.r["default"], "lora_alpha": layer.lora_alpha["default"], "scaling": layer.scaling["default"]}
        for name, layer in named.items() if "default" in getattr(layer, "r", {})
    }
    said["saved"] = [name for name, layer in named.items() if isinstance(layer, ModulesToSaveWrapper)]
    if said["saved"] or "bias" in arguments:
        said["trainable"] = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    said["report"] = printed(model.print_trainable_parameters)
    said["num_parameters_without_embeddings"] = model.num_parameters(exclude_embeddings=True)
    kept = [str(one.message) for one in caught if one.category in (UserWarning, RuntimeWarning)]
    said["warnings"] = [" ".join(text.split())[:200] for text in kept]
    return said


def printed(action):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        action()
    return text.getvalue().rstrip("\n")


def shown(model):
    """`print(model)` and the list of parameters, each `name<TAB>shape<TAB>trainable`."""
    lines = [f"{name}\t{list(parameter.shape)}\t{parameter.requires_grad}" for name, parameter in model.named_parameters()]
    return f"{model}\n", "\n".join(lines) + "\n"


def write_shown(folder, name, model):
    tree, parameters = shown(model)
    (folder / f"{name}.tree.txt").write_text(tree)
    (folder / f"{name}.parameters.txt").write_text(parameters)


def write_trees(folder):
    for family in CONFIGS:
        plain = tiny_model(family)
        write_shown(folder, family, plain)
        modules = {name: type(module).__name__ for name, module in plain.named_modules()}
        (folder / f"{family}.modules.json").write_text(json.dumps(modules, indent=1) + "\n")
        for case, (arguments, _) in cases(family).items():
            if case == "attention":
                arguments = {**arguments, "lora_dropout": 0.1}
            adapted = get_peft_model(tiny_model(family), LoraConfig(task_type="CAUSAL_LM", **arguments))
            (folder / f"{family}.{case}.tree.txt").write_text(shown(adapted)[0])
            if case in ("all_linear", "bias_all", "save_embeddings", "save_ends"):
                (folder / f"{family}.{case}.parameters.txt").write_text(shown(adapted)[1])


def write_mission(folder):
    """The counts and the tree of the mission's model, in its real shapes and without its weights."""
    config = BloomConfig(vocab_size=46145, hidden_size=2048, n_layer=24, n_head=16)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
        (folder / "bloom-1b4.tree.txt").write_text(f"{plain}\n")
        lines = []
        for arguments in (dict(target_modules=["query_key_value"]), dict(target_modules=["query_key_value", "dense_4h_to_h"]),
                          dict(target_modules=r".*\.1.*query_key_value", modules_to_save=["word_embeddings"])):
            adapted = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(task_type="CAUSAL_LM", **arguments))
            lines.append({"lora_config": arguments, "report": printed(adapted.print_trainable_parameters)})
            (folder / f"bloom-1b4.{len(lines)}.tree.txt").write_text(f"{adapted}\n")
    (folder / "bloom-1b4.reports.json").write_text(json.dumps(lines, indent=1) + "\n")


def write_adapter_configs(folder):
    """`adapter_config.json` as PEFT writes it; lists that are sets in Python hold one entry, so that order cannot differ."""
    asked = [dict(), dict(target_modules=["query_key_value"], r=4, lora_alpha=32, lora_dropout=0.05),
             dict(target_modules=r".*\.1.*query_key_value", modules_to_save=["word_embeddings"]),
             dict(target_modules=["query_key_value"], bias="all", use_rslora=True, init_lora_weights="gaussian"),
             dict(target_modules=["query_key_value"], rank_pattern={"b.query": 3, "a.query": 1}, alpha_pattern={"é": 2.5}),
             dict(target_modules=["query_key_value"], layers_to_transform=[0, 1], layers_pattern=["h"], exclude_modules=["dense"]),
             dict(target_modules=["query_key_value"], layers_to_transform=1, layers_pattern="h", lora_alpha=1e-7, lora_dropout=1)]
    said = []
    for arguments in asked:
        model = get_peft_model(tiny_model("bloom"), LoraConfig(task_type="CAUSAL_LM", **arguments))
        model.peft_config["default"].base_model_name_or_path = "bloom-1b4-zh"
        with tempfile.TemporaryDirectory() as place:
            model.save_pretrained(place)
            said.append({"lora_config": arguments, "text": (Path(place) / "adapter_config.json").read_text()})
    (folder / "adapter_configs.json").write_text(json.dumps(said, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "goldens")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    folder = options.out / "peft"
    folder.mkdir(parents=True, exist_ok=True)
    answers = [answer(family, arguments) for family in CONFIGS for arguments in matching_cases(family)]
    (folder / "matching.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in answers) + "\n]\n")
    write_trees(folder)
    write_mission(folder)
    write_adapter_configs(folder)


if __name__ == "__main__":
    main()
