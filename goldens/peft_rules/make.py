"""What PEFT does to the five families for many LoraConfigs: targets, counts, names on disk, printed tree.

Run by hand with the Python stack of ../versions.json: `python make.py`. Rust only reads cases.json.
"""

import contextlib
import copy
import io
import json
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent

MODELS = {
    "bloom": {"model_type": "bloom", "vocab_size": 67, "hidden_size": 24, "n_layer": 12, "n_head": 4},
    "bloom-1b4": {"model_type": "bloom", "vocab_size": 46145, "hidden_size": 2048, "n_layer": 24, "n_head": 16},
    "gpt2": {"model_type": "gpt2", "vocab_size": 67, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 40,
             "bos_token_id": 1, "eos_token_id": 1},
    "llama": {"model_type": "llama", "vocab_size": 67, "hidden_size": 40, "intermediate_size": 28,
              "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
              "max_position_embeddings": 64},
    "llama-biased": {"model_type": "llama", "vocab_size": 67, "hidden_size": 40, "intermediate_size": 28,
                     "num_hidden_layers": 2, "num_attention_heads": 4, "attention_bias": True, "mlp_bias": True,
                     "tie_word_embeddings": True, "pad_token_id": 3},
    "mistral": {"model_type": "mistral", "vocab_size": 67, "hidden_size": 36, "intermediate_size": 28,
                "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "sliding_window": 4},
    "qwen2": {"model_type": "qwen2", "vocab_size": 67, "hidden_size": 40, "intermediate_size": 28,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
              "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
}

QKV = {"target_modules": ["query_key_value"]}
CASES = [
    ("bloom", {}),
    ("bloom", {"lora_alpha": 32, "lora_dropout": 0.05}),
    ("bloom", {**QKV, "bias": "all"}),
    ("bloom", {**QKV, "bias": "lora_only"}),
    ("bloom", {"target_modules": ".*\\.1.*query_key_value", "modules_to_save": ["word_embeddings"]}),
    ("bloom", {"target_modules": [".*\\.1.*query_key_value"]}),
    ("bloom", {"target_modules": "all-linear", "r": 3}),
    ("bloom", {"target_modules": "All-Linear", "exclude_modules": ["dense"]}),
    ("bloom", {"target_modules": ["dense"], "exclude_modules": ".*h\\.[0-9]\\..*"}),
    ("bloom", {"target_modules": ["query_key_value"], "exclude_modules": ["query_key_value"]}),
    ("bloom", {"target_modules": ["query_key_value"], "layers_to_transform": 3}),
    ("bloom", {"target_modules": ["query_key_value"], "layers_to_transform": [0, 11], "layers_pattern": "h"}),
    ("bloom", {"target_modules": ["query_key_value"], "layers_to_transform": [0, 11], "layers_pattern": ["layers"]}),
    ("bloom", {"target_modules": ["query_key_value"], "layers_to_transform": []}),
    ("bloom", {"target_modules": ["transformer.h.4.mlp.dense_h_to_4h", "dense_4h_to_h"], "layers_to_transform": [2]}),
    ("bloom", {"target_modules": ["query_key_values"]}),
    ("bloom", {"target_modules": ["query_key_value", "no_such"]}),
    ("bloom", {"target_modules": ["word_embeddings"]}),
    ("bloom", {"target_modules": ["mlp"]}),
    ("bloom", {"target_modules": ["ln_f"]}),
    ("bloom", {**QKV, "modules_to_save": ["lm_head", "ln_f"]}),
    ("bloom", {**QKV, "modules_to_save": ["layernorm"]}),
    ("bloom", {**QKV, "modules_to_save": ["mlp"]}),
    ("bloom", {"target_modules": ["dense_h_to_4h"], "modules_to_save": ["mlp"]}),
    ("bloom", {"target_modules": ["dense_h_to_4h", "dense"], "modules_to_save": ["mlp"]}),
    ("bloom", {**QKV, "modules_to_save": ["nothing"]}),
    ("bloom", {**QKV, "modules_to_save": ["word_embeddings"], "ensure_weight_tying": True}),
    ("bloom", {"r": 4, "lora_alpha": 6, "target_modules": ["query_key_value", "dense"],
               "rank_pattern": {"h\\.[0-3]\\..*dense": 2, "query_key_value": 5},
               "alpha_pattern": {"dense": 12, ".*\\.1\\..*": 7}}),
    ("bloom", {**QKV, "r": 4, "lora_alpha": 6, "use_rslora": True}),
    ("bloom-1b4", {**QKV}),
    ("bloom-1b4", {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
    ("bloom-1b4", {"target_modules": ".*\\.1.*query_key_value", "modules_to_save": ["word_embeddings"]}),
    ("gpt2", {}),
    ("gpt2", {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only", "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": "all-linear", "lora_dropout": 0.1, "bias": "all"}),
    ("gpt2", {"target_modules": ["c_fc"], "modules_to_save": ["wte", "lm_head"]}),
    ("gpt2", {"target_modules": ["c_fc"], "modules_to_save": ["wpe", "ln_f"]}),
    ("llama", {}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    ("llama", {"target_modules": "(?i).*Q_PROJ"}),
    ("llama", {"target_modules": ".*layers\\.(0|2)\\.(self_attn|mlp)\\.[a-z]+_proj"}),
    ("llama", {"target_modules": "q_proj"}),
    ("llama", {"target_modules": ["q_proj"], "exclude_modules": ["v_proj"]}),
    ("llama", {"target_modules": ["model.layers.1.self_attn.q_proj"]}),
    ("llama", {"target_modules": ["self_attn.k_proj", "layers.2.mlp.up_proj"]}),
    ("llama", {"target_modules": []}),
    ("llama", {"target_modules": ["q_proj"], "rank_pattern": {"proj": 3}, "alpha_pattern": {"self_attn.q_proj": 3}}),
    ("llama", {"target_modules": ["q_proj"], "rank_pattern": {"^model.layers.0.self_attn.q_proj": 3}}),
    ("llama-biased", {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    ("llama-biased", {"target_modules": ["q_proj", "down_proj"], "bias": "lora_only"}),
    ("llama-biased", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    ("llama-biased", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("llama-biased", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
    ("llama-biased", {"target_modules": ["q_proj"], "modules_to_save": ["o_proj"], "bias": "all"}),
    ("mistral", {}),
    ("mistral", {"target_modules": "all-linear", "exclude_modules": ["down_proj", "layers.1.self_attn.q_proj"]}),
    ("mistral", {"target_modules": ["gate_proj"], "layers_to_transform": [1, 2], "layers_pattern": "layers"}),
    ("qwen2", {}),
    ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "all"}),
    ("qwen2", {"target_modules": "all-linear", "bias": "lora_only", "modules_to_save": ["lm_head"]}),
    ("qwen2", {"target_modules": ["k_proj", "lm_head"]}),
]


def plain(name):
    model = MODELS[name]
    config = AutoConfig.for_model(**model)
    with torch.device("meta" if name == "bloom-1b4" else "cpu"):
        built = AutoModelForCausalLM.from_config(config)
    built.tie_weights()
    return built


def case(name, kwargs):
    model = plain(name)
    out = {"model": name, "lora": kwargs}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config = LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(kwargs))
            wrapped = get_peft_model(model, config, low_cpu_mem_usage=name == "bloom-1b4")
            saved = get_peft_model_state_dict(wrapped)
        except Exception as error:
            return {**out, "error": f"{type(error).__name__}: {error}"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        wrapped.print_trainable_parameters()
    targets = wrapped.peft_config["default"].target_modules
    lora = {n: m for n, m in wrapped.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    return {
        **out,
        "warnings": [str(w.message) for w in caught if "deprecated" not in str(w.message)],
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "fan_in_fan_out": wrapped.peft_config["default"].fan_in_fan_out,
        "modules_to_save": wrapped.peft_config["default"].modules_to_save,
        "targeted": [[n, m.r["default"], m.scaling["default"]] for n, m in lora.items()],
        "line": printed.getvalue().strip(),
        "trainable": [n for n, p in wrapped.named_parameters() if p.requires_grad],
        "saved": {k: list(v.shape) for k, v in sorted(saved.items())},
        "tree": str(wrapped),
    }


def main():
    models = {
        name: {
            "config": config,
            "tree": str(plain(name)),
            "modules": [n for n, _ in plain(name).named_modules()],
            "parameters": [[n, list(p.shape)] for n, p in plain(name).named_parameters()],
        }
        for name, config in MODELS.items()
    }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    cases = [case(*one) for one in CASES]
    text = json.dumps({"versions": versions, "models": models, "cases": cases}, indent=1, ensure_ascii=False)
    (HERE / "cases.json").write_text(text + "\n")


main()
