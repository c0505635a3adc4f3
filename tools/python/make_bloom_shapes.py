"""Writes a model folder in the shapes of bloom-1b4-zh with random weights: for timing and memory, not for sense.

    python make_bloom_shapes.py OUT [--dtype bf16|f16|f32] [--tokenizer DIR] [--layers 24] [--hidden 2048] [--heads 16]
        [--vocab 46145] [--seed 0]

Tensors are made and written one after the other, so memory stays at the largest. Same seed, same bytes. As the published
BLOOMs: names with `transformer.`, tied head left out.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

DTYPES = {"bf16": (torch.bfloat16, "BF16", "bfloat16"), "f16": (torch.float16, "F16", "float16"), "f32": (torch.float32, "F32", "float32")}


def shapes(layers, hidden, vocab):
    """Name and shape of each tensor, in the order of the file: by name."""
    found = {"transformer.word_embeddings.weight": (vocab, hidden)}
    norms = ["transformer.word_embeddings_layernorm", "transformer.ln_f"]
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        norms += [f"{block}.input_layernorm", f"{block}.post_attention_layernorm"]
        for name, rows, columns in (("self_attention.query_key_value", 3 * hidden, hidden), ("self_attention.dense", hidden, hidden),
                                    ("mlp.dense_h_to_4h", 4 * hidden, hidden), ("mlp.dense_4h_to_h", hidden, 4 * hidden)):
            found |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
    found |= {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}
    return dict(sorted(found.items()))


def fill(name, shape, generator):
    """Norm weights near 1, everything else small, so that activations keep their size through all blocks."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return noise.mul_(0.01).add_(1.0 if "norm" in name or "ln_f" in name else 0.0) if name.endswith(".weight") else noise.mul_(0.01)
    return noise.mul_(0.02)


def write_weights(path, found, dtype, code, seed):
    size = torch.empty(0, dtype=dtype).element_size()
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in found.items():
        end = at + size * torch.Size(shape).numel()
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in found.items():
            file.write(fill(name, shape, generator).to(dtype).contiguous().view(torch.uint8).numpy().data)
    return at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied")
    for name, default in (("layers", 24), ("hidden", 2048), ("heads", 16), ("vocab", 46145), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    dtype, code, torch_name = DTYPES[options.dtype]
    options.out.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "apply_residual_connection_post_layernorm": False,
              "attention_dropout": 0.0, "hidden_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
              "unk_token_id": 0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True,
              "n_embed": options.hidden, "n_layer": options.layers, "num_attention_heads": options.heads, "pretraining_tp": 1,
              "slow_but_exact": False, "skip_bias_add": True, "torch_dtype": torch_name, "use_cache": True, "vocab_size": options.vocab}
    (options.out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    found = shapes(options.layers, options.hidden, options.vocab)
    size = write_weights(options.out / "model.safetensors", found, dtype, code, options.seed)
    for file in options.tokenizer.glob("*token*.json") if options.tokenizer else []:
        shutil.copyfile(file, options.out / file.name)
    parameters = sum(torch.Size(shape).numel() for shape in found.values())
    print(json.dumps({"out": str(options.out), "parameters": parameters, "bytes": size}))


if __name__ == "__main__":
    main()
