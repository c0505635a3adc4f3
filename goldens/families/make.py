"""Rotary frequencies and ALiBi slopes that Transformers computes, for configs of every rope kind.

Run by hand with the Python stack of ../versions.json: `python make.py`. Rust only reads cases.json.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BASE = {"model_type": "llama", "vocab_size": 67, "hidden_size": 256, "intermediate_size": 28, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 131072}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
ROPES = [
    {},
    {"rope_theta": 1000000.0},
    {"rope_theta": 500000, "rope_scaling": None},
    {"rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                              "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    {"rope_parameters": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500000.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "head_dim": 96},
    {"rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 30000.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 20000.0},
    {"rope_scaling": YARN, "rope_theta": 1000000.0},
    {"rope_scaling": {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25}},
    {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}},
]
HEADS = [1, 2, 3, 6, 8, 12, 16, 20, 32, 40, 112]


def rope(extra):
    config = {**BASE, **extra}
    module = LlamaRotaryEmbedding(AutoConfig.for_model(**config))
    return {"config": config, "inv_freq": module.inv_freq.tolist(), "attention_scaling": module.attention_scaling}


def slopes(heads):
    # The bias of key position 1 is the slope itself.
    bias = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
    return {"heads": heads, "slopes": bias[:, 0, 1].tolist()}


cases = {"ropes": [rope(extra) for extra in ROPES], "alibi": [slopes(heads) for heads in HEADS]}
(Path(__file__).parent / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
