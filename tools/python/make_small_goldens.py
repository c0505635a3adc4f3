"""Writes the goldens that need no model: schedules, row order, rotary frequencies, Python's JSON text, torch's files.

    python tools/python/make_small_goldens.py [--out goldens]
"""

import argparse
import collections
import json
import random
import struct
from pathlib import Path

import safetensors.torch
import torch
from transformers import LlamaConfig, TrainingArguments
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.optimization import get_scheduler


def lines(entries):
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def schedules():
    """Learning rates that the Trainer would log: the rate that each update is made with."""
    asked = [(kind, warmup, {}) for kind in ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant",
                                             "constant_with_warmup", "inverse_sqrt")
             for warmup in (0, 3, 0.1, 0.07, 60)]
    asked += [("cosine_with_restarts", 3, {"num_cycles": 3}), ("cosine", 3, {"num_cycles": 1.25}), ("cosine", 0, {"num_cycles": 0.25}),
              ("polynomial", 3, {"power": 2.0}), ("polynomial", 0, {"power": 0.5, "lr_end": 1e-5}), ("polynomial", 2, {"lr_end": 0.0}),
              ("inverse_sqrt", 3, {"timescale": 7}), ("inverse_sqrt", 0, {"timescale": 10})]
    return [schedule(kind, warmup, extra, total) for kind, warmup, extra in asked for total in (50,)] + [
        schedule("linear", 0, {}, 1), schedule("linear", 2, {}, 2), schedule("cosine", 0, {}, 1), schedule("linear", 10, {}, 4)]


def schedule(kind, warmup, extra, total):
    arguments = TrainingArguments(output_dir="unused", lr_scheduler_type=kind, warmup_steps=warmup, learning_rate=3e-4,
                                  lr_scheduler_kwargs=extra or None, use_cpu=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(total), total, dict(extra))
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return {"lr_scheduler_type": kind, "warmup_steps": warmup, "lr_scheduler_kwargs": extra, "max_steps": total,
            "learning_rate": arguments.learning_rate, "rates": rates}


def orders():
    """`torch.randperm` as accelerate's seedable sampler draws it: generator seeded with seed + epoch."""
    found = []
    for seed, count in ((42, 1), (42, 2), (42, 10), (43, 10), (0, 10), (42, 623), (42, 624), (7, 625), (2**32 - 1, 9), (2**32 + 5, 9),
                        (2**40 + 1, 9), (42, 1300)):
        generator = torch.Generator()
        generator.manual_seed(seed)
        found.append({"seed": seed, "count": count, "order": torch.randperm(count, generator=generator).tolist()})
    return found


def ropes():
    """`inv_freq` and the attention factor of every rope type, for a head of 16 and another of 6."""
    kinds = [dict(rope_type="default"), dict(rope_type="linear", factor=4.0), dict(rope_type="dynamic", factor=2.0),
             dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
             dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
             dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0, attention_factor=1.3),
             dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.0)]
    found = []
    for theta in (10000.0, 500000.0):
        for head_dim in (16, 6):
            for kind in kinds:
                config = LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, max_position_embeddings=256,
                                     rope_parameters={**kind, "rope_theta": theta})
                make = ROPE_INIT_FUNCTIONS.get(kind["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
                inv_freq, factor = make(config, device=None)
                found.append({"rope_parameters": {**kind, "rope_theta": theta}, "head_dim": head_dim, "max_position_embeddings": 256,
                              "inv_freq": inv_freq.double().tolist(), "attention_factor": float(factor)})
    return found


def pyjson():
    """Floats by their bits, strings and documents, each with the text of `json.dumps`."""
    rng = random.Random(5)
    floats = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 2.5, 100.0, 1e15, 1e16, 1e17, 123456789012345680.0, 9007199254740993.0, 1e-4, 1e-5, 5e-5,
              0.00012, 1e22, 1e23, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 3e-4, 4.9e-05, 0.30000000000000004,
              float("inf"), float("-inf"), float("nan")]
    floats += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(120)]
    floats += [rng.uniform(-10, 10) for _ in range(30)]
    floats += [float(struct.unpack("<f", struct.pack("<f", rng.uniform(0, 5)))[0]) for _ in range(30)]
    floats += [10.0**power for power in range(-8, 20)]
    strings = ["", "plain", 'quote " back \\ slash /',
               "\b\f\n\r\t\x00\x1f\x7f\x80\xff", "Ärger", "指令", "😀 pair", "\u2028\u2029", "a\ud7ffb\ue000"]
    documents = [{}, [], {"b": 1, "a": [1, 2.0, None, True, False], "c": {"z": {}, "y": []}}, [[], [1], {"é": "é"}],
                 {"10": 1, "9": 2, "a": 3, "B": 4},
                 {"big": 2**70, "small": -5, "float": 1e100}, {"ä": 1, "z": 2, "𝄞": 3, "\uffff": 4}]
    return {
        "floats": [{"bits": struct.pack(">d", value).hex(), "text": json.dumps(value)} for value in floats],
        "strings": [{"value": value, "text": json.dumps(value), "text_utf8": json.dumps(value, ensure_ascii=False)} for value in strings],
        "documents": [{"value": value, "compact": json.dumps(value), "indent_sorted": json.dumps(value, indent=2, sort_keys=True),
                       "indent_sorted_utf8": json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)} for value in documents],
    }


def torch_files(folder):
    """What torch.save writes, in the forms that are found in the wild, and some that must be refused."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(6)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    whole = draw(6, 4)
    plain = collections.OrderedDict([("a.weight", draw(3, 5)), ("a.bias", draw(5)), ("half", draw(2, 3).half()),
                                     ("bfloat", draw(2, 3).bfloat16()), ("double", draw(2).double()), ("long", torch.arange(4)),
                                     ("byte", torch.arange(3, dtype=torch.uint8)), ("flags", torch.tensor([True, False])),
                                     ("scalar", torch.tensor(2.5)), ("empty", draw(0, 3))])
    views = {"whole": whole, "rows": whole[2:5], "transposed": whole.t(), "column": whole[:, 1], "again": whole, "expanded": draw(1, 3).expand(2, 3)}
    torch.save(plain, folder / "plain.bin")
    torch.save(views, folder / "views.bin")
    torch.save({name: torch.nn.Parameter(draw(2, 3)) for name in ("p", "q")}, folder / "parameters.bin")
    torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "state_dict_with_metadata.bin")
    torch.save({"model": dict(plain), "step": 3}, folder / "nested.bin")
    if not (folder / "legacy.bin").exists():  # it holds addresses of memory: never the same bytes twice
        torch.save(plain, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"x": Runs()}, folder / "runs_code.bin")
    want = {f"plain.{name}": tensor for name, tensor in plain.items()}
    want |= {f"views.{name}": tensor.contiguous().clone() for name, tensor in views.items()}
    want |= {f"{name}.{key}": tensor.detach() for name in ("parameters", "state_dict_with_metadata")
             for key, tensor in torch.load(folder / f"{name}.bin").items()}
    safetensors.torch.save_file(want, folder / "want.safetensors")


class Runs:
    """Would call print when unpickled."""

    def __reduce__(self):
        return print, ("a reader must never run this",)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "goldens")
    out = parser.parse_args().out
    torch.manual_seed(0)
    (out / "schedules.json").write_text(lines(schedules()))
    (out / "orders.json").write_text(lines(orders()))
    (out / "rope.json").write_text(lines(ropes()))
    (out / "pyjson.json").write_text(json.dumps(pyjson(), indent=1) + "\n")
    torch_files(out / "torch_bin")


if __name__ == "__main__":
    main()
