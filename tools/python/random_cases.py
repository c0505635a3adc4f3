"""What `random_runs.py` draws: a model, a tokenizer, rows, a LoraConfig and TrainingArguments, as plain data.

`case(seed)` is a pure function of the seed, so that a case is named by its number. Not drawn, because this project refuses it or
PEFT cannot do it: activations, window layouts and scales that are refused by name, deltas on embeddings, patterns with look-around,
modules to save inside one another, BLOOM's `slow_but_exact`. What both sides refuse is drawn: that they both do is compared.
"""

import random

from random_arguments import draw_train

FAMILIES = ("bloom", "gpt2", "llama", "mistral", "qwen2")
LEARNED_POSITIONS = 128  # gpt2 refuses longer texts: the longest row, a prompt and what is generated have room
ACTIVATIONS = ("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh",
               "silu", "swish", "relu")
WORDS = ("the cat sat on mat one two three four five red blue green house tree river sings and then why how what is it "
         "once upon a time little girl big dog happy sad ran away Give three tips 数据 分析 师 你好 世界 naïve café Ünïcode 🙂 "
         "1234 3.14 foo_bar x=y; \"quoted\" it's don't </s> <s> end.").split()
GAPS = (" ",) * 8 + ("\n", "  ", "\n\n", "\t")

LINEAR = {"bloom": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
          "gpt2": ("c_attn", "c_proj", "c_fc", "mlp.c_proj", "attn.c_proj"),
          "gated": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}
SAVED = {"bloom": ("word_embeddings", "lm_head", "ln_f", "input_layernorm", "post_attention_layernorm", "word_embeddings_layernorm"),
         "gpt2": ("wte", "wpe", "lm_head", "ln_f", "ln_1", "ln_2"),
         "gated": ("embed_tokens", "lm_head", "norm", "model.norm", "input_layernorm", "post_attention_layernorm", "nothing_here")}
SAVED_BLOCKS = {"bloom": ("h.0.mlp", "h.0", "transformer"),
                "gpt2": ("h.0.mlp", "h.0.attn", "h.0"),
                "gated": ("layers.0.mlp", "layers.0", "self_attn")}
LAYERS = {"bloom": "h", "gpt2": "h", "gated": "layers"}
FIRST_QUERY = {"bloom": "self_attention.query_key_value", "gpt2": "attn.c_attn", "gated": "self_attn.q_proj"}
LAYER_PATH = {"bloom": "transformer.h", "gpt2": "transformer.h", "gated": "model.layers"}
FIRST_UP = {"bloom": "mlp.dense_h_to_4h", "gpt2": "mlp.c_fc", "gated": "mlp.up_proj"}


def case(seed):
    """The case of that number. Families take turns."""
    r = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    rows = draw_rows(r, r.choice((1, 3, 5, 7, 8, 12, 17)))
    eval_rows = draw_rows(r, r.choice((0, 1, 4, 5, 7)))
    model = MODELS.get(family, gated)(r, family)
    layers = model.get("n_layer") or model["num_hidden_layers"]
    drawn = {"seed": seed, "family": family, "model": model, "rows": rows, "eval_rows": eval_rows}
    drawn["lora"] = draw_lora(r, family if family in LINEAR else "gated", layers)
    drawn["train"] = draw_train(r, len(rows), len(eval_rows))
    return drawn | files(r, family) | ways(r)


def files(r, family):
    """How the same model and rows lie in files."""
    # a qwen2 folder's tokenizer is opened by a class of its own, which adds a padding token: the table needs a row for it
    return {"tokenizer": r.choice(("plain", "plain", "bos") + (("no_pad",) if family != "qwen2" else ())),
            "vocab_extra": r.choice((3, 40) if family == "qwen2" else (0, 0, 3, 40)),
            "padding_side": r.choice(("right", "right", "right", "left")) if family != "gpt2" else "right",
            "eos_token_id": r.choice((2, 2, [2, 5])),
            "old_rope_keys": r.random() < 0.3,
            "storage": r.choice(("float32", "float32", "bfloat16", "float16")),
            "layout": r.choice(("one", "one", "shards", "bin", "bin_shards")),
            "data_form": r.choice(("json", "jsonl", "disk")),
            "max_length": r.choice((28, 48, 64, 64))}


def ways(r):
    """What must not change a result, and what is asked of the trained adapter."""
    return {"threads": r.choice((1, 2)),
            "max_tokens_per_pass": r.choice((576, 16, 64)),
            "activation_checkpointing": r.random() < 0.3,
            "spread_of_b": r.choice((0.02, 0.1)),
            "repetition_penalty": r.choice((1.0, 1.0, 1.3))}


def text(r, least, most):
    words = [r.choice(WORDS)]
    for _ in range(r.randint(least, most) - 1):
        words += [r.choice(GAPS), r.choice(WORDS)]
    return "".join(words)


def draw_rows(r, count):
    """Rows of which some are empty, too long, without a label once cut, or the same as another."""
    rows = []
    for _ in range(count):
        row = {"instruction": text(r, 1, 4), "input": text(r, 1, 2) if r.random() < 0.4 else "", "output": text(r, 1, 6)}
        kind = r.random()
        if kind < 0.08:
            row["output"] = ""
        elif kind < 0.14:
            row["instruction"] = ""
        elif kind < 0.17:
            row["instruction"] = text(r, 20, 40)
        elif kind < 0.26:
            row["output"] = text(r, 20, 40)
        elif kind < 0.32 and rows:
            row = dict(r.choice(rows))
        elif kind < 0.36:
            row["instruction"] = "  " + row["instruction"] + " \n"
        rows.append(row)
    return rows


def bloom(r, _family):
    heads = r.choice((1, 2, 3, 4, 5, 6, 7, 8, 12))
    return {"hidden_size": heads * r.choice((2, 3, 4, 5, 8, 9)), "n_head": heads, "n_layer": r.randint(1, 3),
            "layer_norm_epsilon": r.choice((1e-5, 1e-3, 1e-6)),
            "apply_residual_connection_post_layernorm": r.random() < 0.4,
            "tie_word_embeddings": r.random() < 0.7}


def gpt2(r, _family):
    heads = r.choice((1, 2, 3, 5, 6))
    return {"n_embd": heads * r.choice((2, 4, 5, 8, 11)), "n_head": heads, "n_layer": r.randint(1, 3),
            "n_positions": LEARNED_POSITIONS, "n_inner": r.choice((None, None, 24, 37)),
            "activation_function": r.choice(ACTIVATIONS + ("gelu_new",) * 5),
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
            "layer_norm_epsilon": r.choice((1e-5, 1e-3)),
            "scale_attn_weights": r.random() < 0.7, "reorder_and_upcast_attn": r.random() < 0.2,
            "tie_word_embeddings": r.random() < 0.7}


def gated(r, family):
    groups = r.choice((1, 1, 2, 3))
    heads = groups * r.choice((1, 2, 3))
    width = r.choice((2, 4, 6, 8, 10, 16))
    model = {"num_attention_heads": heads, "num_key_value_heads": groups, "hidden_size": heads * width,
             "intermediate_size": r.choice((7, 16, 24, 33, 50)), "num_hidden_layers": r.randint(1, 3),
             "max_position_embeddings": r.choice((64, 128, 256)), "rms_norm_eps": r.choice((1e-6, 1e-5, 1e-2)),
             "hidden_act": r.choice(ACTIVATIONS + ("silu",) * 10), "tie_word_embeddings": r.random() < 0.5}
    if r.random() < 0.4:
        model["head_dim"] = width
        model["hidden_size"] = heads * r.choice((2, 4, 5, 6, 7, 9))
    model["rope_parameters"] = rope(r, width)
    if family == "llama":
        model |= {"attention_bias": r.random() < 0.3, "mlp_bias": r.random() < 0.3}
    elif family == "mistral":
        # not 1: what a token then attends to has no choice, and the gradient of the choice is rounding alone, which Adam makes a step
        model["sliding_window"] = r.choice((None, 2, 3, 5, 8, 17, 64, 4096))
    else:
        # all layers slide or none does
        model |= {"use_sliding_window": r.random() < 0.3, "sliding_window": r.choice((3, 6, 20)), "max_window_layers": r.choice((0, 28))}
    if r.random() < 0.35:
        model["pad_token_id"] = r.choice((3, 2, 7, -1))
    return model


MODELS = {"bloom": bloom, "gpt2": gpt2}


def rope(r, width):
    # transformers divides by (width - 2) for `dynamic`
    kind = r.choice(("default",) * 3 + ("linear", "llama3", "yarn", "yarn") + (("dynamic",) if width > 2 else ()))
    drawn = {"rope_type": kind, "rope_theta": r.choice((10000.0, 500000.0, 100.0, 1000000, 10000))}
    if kind != "default":
        drawn["factor"] = r.choice((2.0, 4.0, 8, 1.5, 40.0))
    if kind == "llama3":
        drawn |= {"low_freq_factor": r.choice((1.0, 1, 0.5)), "high_freq_factor": r.choice((4.0, 2.0)),
                  "original_max_position_embeddings": r.choice((16, 64, 8192))}
    if kind == "yarn":
        drawn["original_max_position_embeddings"] = r.choice((16, 32, 64, 2048))
        sometimes = {"beta_fast": (32, 16.0, 4), "beta_slow": (1, 2.0), "truncate": (True, False), "attention_factor": (0.7, 1.3)}
        drawn |= {key: r.choice(values) for key, values in sometimes.items() if r.random() < 0.3}
        if "attention_factor" not in drawn and r.random() < 0.3:
            drawn |= {"mscale": r.choice((0.7, 1.0)), "mscale_all_dim": r.choice((1.0, 0.8))}
    return drawn


def draw_lora(r, kind, layers):
    names = LINEAR[kind]
    lora = {"r": r.choice((1, 2, 3, 4, 8)), "lora_alpha": r.choice((1, 4, 8, 7, 16, 2.5))}
    targets = draw_targets(r, kind, layers)
    if targets is not None:
        lora["target_modules"] = targets
    if r.random() < 0.15:
        lora["exclude_modules"] = r.choice(([r.choice(names)], r".*\.0\..*", [f"{LAYERS[kind]}.0.{FIRST_UP[kind]}"]))
    if r.random() < 0.3:
        lora["bias"] = r.choice(("all", "lora_only"))
    if r.random() < 0.35:
        lora |= draw_saved(r, kind)
    if not isinstance(targets, str) and r.random() < 0.2:
        lora["layers_to_transform"] = r.choice((0, [0], [layers - 1], list(range(layers)), [], [7]))
        if r.random() < 0.4:
            lora["layers_pattern"] = r.choice((LAYERS[kind], [LAYERS[kind]], "blocks", ["blocks", LAYERS[kind]]))
    if r.random() < 0.3:
        lora["rank_pattern"] = draw_pattern(r, kind, (1, 2, 5))
    if r.random() < 0.3:
        lora["alpha_pattern"] = draw_pattern(r, kind, (3, 9, 0.5))
    if r.random() < 0.25:
        lora["use_rslora"] = True
    if r.random() < 0.3:
        lora["fan_in_fan_out"] = r.random() < 0.5
    if r.random() < 0.3:
        lora["init_lora_weights"] = r.choice((True, False, "gaussian"))
    return lora


def draw_targets(r, kind, layers):
    """Names, a pattern, or nothing where the family's own default is meant; some match nothing."""
    names = LINEAR[kind]
    either = "|".join(name.split(".")[-1] for name in r.sample(names, 2))
    some = r.sample(names, r.randint(1, min(4, len(names))))
    patterns = (rf".*\.0\.[^.]*\.({either})", f".*({either})", rf".*\.[01]\..*{names[0]}", f".*{names[-1]}")
    one_layer = f"{LAYER_PATH[kind]}.{r.randrange(layers)}.{FIRST_QUERY[kind]}"
    stranger = r.choice(("nonsense", "proj", "layers.0"))
    forms = (None, some, "all-linear", "ALL-linear", r.choice(patterns), [names[0], "lm_head"], [one_layer, names[1]], [names[0], stranger])
    return r.choices(forms, weights=(10, 45, 17, 5, 9, 6, 4, 4))[0]


def draw_saved(r, kind):
    if r.random() < 0.25:
        return {"modules_to_save": [r.choice(SAVED_BLOCKS[kind])]}
    saved = {"modules_to_save": r.sample(SAVED[kind], r.choice((1, 1, 1, 2, 3)))}
    if r.random() < 0.3:
        saved["ensure_weight_tying"] = True
    return saved


def draw_pattern(r, kind, values):
    """One or two entries, which may match the same module: the first then counts."""
    names = LINEAR[kind]
    keys = (r.choice(names), "^" + r.choice(names), rf"{LAYERS[kind]}\.0\..*", r".*\.1\..*", f"{LAYERS[kind]}.0.{FIRST_QUERY[kind]}", names[0])
    return {key: r.choice(values) for key in r.sample(keys, r.randint(1, 2))}
