"""Makes crates/formats/tests/fixtures/adapter_config: texts that PEFT writes.

python tools/python/formats_adapter_config.py crates/formats/tests/fixtures/adapter_config
"""

import pathlib
import sys
import tempfile

from peft import LoraConfig


def save(config, path):
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        path.write_bytes((pathlib.Path(folder) / "adapter_config.json").read_bytes())


def main():
    folder = pathlib.Path(sys.argv[1])
    save(LoraConfig(), folder / "default.json")
    full = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path="someone/模型",
        revision="main",
        inference_mode=True,
        r=6,
        target_modules=["query_key_value"],
        exclude_modules=r"h\.0\..*",
        lora_alpha=12.5,
        lora_dropout=1e-5,
        fan_in_fan_out=True,
        bias="lora_only",
        use_rslora=True,
        modules_to_save=["word_embeddings", "head"],
        init_lora_weights="gaussian",
        layers_to_transform=[1, 3],
        layers_pattern="h",
        rank_pattern={"^layers.0.q_proj": 4, "a": 2},
        alpha_pattern={"^layers.0.q_proj": 4, "a": 2.0},
        trainable_token_indices={"embed_tokens": [1, 2]},
        layer_replication=[(0, 2), (1, 3)],
        target_parameters=["mlp.experts"],
        ensure_weight_tying=True,
        qalora_group_size=32,
        use_qalora=True,
    )
    save(full, folder / "full.json")


main()
