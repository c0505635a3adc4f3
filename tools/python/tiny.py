"""Tiny random models of the five families, and the rows they are fed.

Every weight is random and none is at its initial value: norms are not 1, biases are not 0, heads are not
square, so that a wrong transpose, a forgotten bias or a swapped norm shows.
"""

import torch
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

VOCAB = 67

# head counts that are no power of two exercise ALiBi's second slope series; mistral's window is shorter than
# the rows; llama's head_dim is not hidden / heads.
CONFIGS = {
    "bloom": BloomConfig(vocab_size=VOCAB, hidden_size=36, n_layer=2, n_head=6, bos_token_id=1, eos_token_id=2,
                         pad_token_id=3, layer_norm_epsilon=1e-5),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=40, n_layer=2, n_head=5, n_inner=72, resid_pdrop=0.0,
                       embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2),
    "llama": LlamaConfig(vocab_size=VOCAB, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=12, max_position_embeddings=64,
                         rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "mistral": MistralConfig(vocab_size=VOCAB, hidden_size=36, intermediate_size=52, num_hidden_layers=3,
                             num_attention_heads=6, num_key_value_heads=2, head_dim=6, max_position_embeddings=64,
                             sliding_window=4, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
                             eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "qwen2": Qwen2Config(vocab_size=VOCAB, hidden_size=40, intermediate_size=60, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-6,
                         tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
                         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
}


# spread of the embedding: small where the head is tied to it, or every guess would be wildly sure
TABLE = {"bloom": 0.25, "gpt2": 0.25, "qwen2": 0.25}


def tiny_model(family):
    """The family's model in f32, filled with random weights by a fixed seed."""
    torch.manual_seed(1000 + sorted(CONFIGS).index(family))
    model = AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_weight(family, name, parameter))
    return model.eval()


def random_weight(model_type, name, parameter):
    noise = torch.randn_like(parameter)
    if name.endswith(".bias"):
        return 0.15 * noise
    if parameter.ndim == 1:
        return 1.0 + 0.25 * noise
    if any(part in name for part in ("word_embeddings", "wte", "wpe", "embed_tokens")):
        return TABLE.get(model_type, 0.6) * noise
    return 1.2 * noise / parameter.shape[1] ** 0.5


def tiny_rows():
    """Eight rows: lengths differ, prompts are masked, row 2 is masked whole, row 3 has a single label."""
    generator = torch.Generator().manual_seed(77)
    rows = []
    for length, masked in ((11, 4), (7, 0), (9, 9), (5, 4), (3, 1), (8, 2), (6, 3), (10, 6)):
        ids = torch.randint(4, VOCAB, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * masked + ids[masked:]})
    rows[5]["labels"][4] = -100  # a hole in the middle
    return rows


def tiny_updates(rows, updates=20, rows_per_update=8):
    """Row numbers of each update: the first takes every row once, later ones draw with repetition."""
    generator = torch.Generator().manual_seed(78)
    drawn = torch.randint(0, len(rows), (updates - 1, rows_per_update), generator=generator).tolist()
    return [list(range(len(rows)))] + drawn
