"""The PEFT configurations that each tiny model is trained with."""

ALL = {
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
ALL["mistral"] = ALL["qwen2"] = ALL["llama"]
ATTENTION = {"bloom": ["query_key_value"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"],
             "mistral": ["q_proj", "k_proj", "v_proj", "o_proj"], "qwen2": ["q_proj", "k_proj", "v_proj"]}

# what every family has, by name: (arguments of LoraConfig, file of the config when not the model's own)
SPECIAL = {
    "bloom": {
        "post_norm": (dict(r=3, lora_alpha=5, target_modules=ALL["bloom"]), "config_post_norm.json"),
        "bias_all": (dict(r=2, lora_alpha=3, target_modules=["query_key_value"], bias="all"), None),
        "save_embeddings": (dict(r=2, lora_alpha=3, target_modules=r".*\.1.*query_key_value",
                                 modules_to_save=["word_embeddings"]), None),
    },
    "gpt2": {
        "bias_lora_only": (dict(r=2, lora_alpha=3, target_modules=["c_attn", "mlp.c_proj"], bias="lora_only"), None),
        "save_head": (dict(r=2, lora_alpha=3, target_modules=["c_attn"], modules_to_save=["lm_head", "ln_f"]), None),
        "bias_all": (dict(r=2, lora_alpha=3, target_modules=["c_fc"], bias="all"), None),
    },
    "llama": {
        "rslora_patterns": (dict(r=4, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
                                 rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 3},
                                 alpha_pattern={"down_proj": 7, "^model.layers.0.self_attn.q_proj": 5}), None),
        "layers": (dict(r=3, lora_alpha=2, target_modules=["k_proj", "up_proj"], layers_to_transform=[1]), None),
        "save_ends": (dict(r=2, lora_alpha=3, target_modules=["o_proj"],
                           modules_to_save=["embed_tokens", "lm_head", "norm"]), None),
        # torch learns nothing for the padding token's row, which rows of the batch contain
        "save_padding": (dict(r=2, lora_alpha=3, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
                         "config_padding.json"),
    },
    "mistral": {
        "layers_pattern": (dict(r=3, lora_alpha=5, target_modules=["q_proj", "gate_proj"], layers_to_transform=[0, 2],
                                layers_pattern="layers"), None),
        "exclude": (dict(r=2, lora_alpha=3, target_modules="all-linear", exclude_modules=["layers.1.mlp.up_proj", "k_proj"]),
                    None),
    },
    "qwen2": {
        "bias_lora_only": (dict(r=2, lora_alpha=3, target_modules=["q_proj", "k_proj", "o_proj"], bias="lora_only"), None),
        "save_embeddings": (dict(r=2, lora_alpha=3, target_modules=["v_proj"], modules_to_save=["embed_tokens"]), None),
    },
}

# configs beside a model's own, which take the same weights: file -> what differs
CONFIG_FILES = {
    "bloom": {"config_post_norm.json": {"apply_residual_connection_post_layernorm": True}},
    "llama": {"config_padding.json": {"pad_token_id": 64}},
}


def cases(family):
    """Name -> (arguments of LoraConfig, config file); `all_linear` comes first and is the fullest."""
    fan = {"fan_in_fan_out": True} if family == "gpt2" else {}
    named = {
        "all_linear": (dict(r=4, lora_alpha=6, target_modules=ALL[family]), None),
        "attention": (dict(r=3, lora_alpha=7, target_modules=ATTENTION[family]), None),
        **SPECIAL[family],
    }
    return {name: ({**arguments, **fan}, config) for name, (arguments, config) in named.items()}
