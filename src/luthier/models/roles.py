"""What a linear of a block is for, told by the end of its path: transformers' families name the same parts differently.

query, key, value           of attention; several in one matrix are joined by "+"
attention_out               what attention hands back to the stream of states
mlp_in, mlp_out             into and out of the part that thinks by itself
"""

from __future__ import annotations

from typing import Literal

Role = Literal["query", "key", "value", "query+key+value", "attention_out", "mlp_in", "mlp_out"]

ENDINGS: dict[str, Role] = {
    # Llama, Mistral, Qwen, Gemma, SmolLM, OLMo; Phi-3 joins some
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "attention_out",
    "qkv_proj": "query+key+value",
    "gate_proj": "mlp_in",
    "up_proj": "mlp_in",
    "gate_up_proj": "mlp_in",
    "down_proj": "mlp_out",
    # GPT-2
    "attn.c_attn": "query+key+value",
    "attn.c_proj": "attention_out",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
    # GPT-NeoX
    "attention.query_key_value": "query+key+value",
    "attention.dense": "attention_out",
    "dense_h_to_4h": "mlp_in",
    "dense_4h_to_h": "mlp_out",
    # BERT, RoBERTa, ViT
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "attention.output.dense": "attention_out",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
    # DistilBERT
    "q_lin": "query",
    "k_lin": "key",
    "v_lin": "value",
    "out_lin": "attention_out",
    "lin1": "mlp_in",
    "lin2": "mlp_out",
    # ModernBERT
    "Wqkv": "query+key+value",
    "attn.Wo": "attention_out",
    "mlp.Wi": "mlp_in",
    "mlp.Wo": "mlp_out",
    # T5
    "Attention.q": "query",
    "Attention.k": "key",
    "Attention.v": "value",
    "Attention.o": "attention_out",
    "DenseReluDense.wi": "mlp_in",
    "DenseReluDense.wi_0": "mlp_in",
    "DenseReluDense.wi_1": "mlp_in",
    "DenseReluDense.wo": "mlp_out",
    # Whisper, CLIP, SigLIP
    "out_proj": "attention_out",
    "fc1": "mlp_in",
    "fc2": "mlp_out",
}
"""Ending of the path -> role; the longest that fits counts. A family that has others adds them here (``tests/models/test_roles.py``)."""


def role(path: str) -> Role | None:
    """What the linear at `path` is for; None where nobody has said."""
    fitting = [ending for ending in ENDINGS if _ends(path, ending)]
    return ENDINGS[max(fitting, key=len)] if fitting else None


def _ends(path: str, ending: str) -> bool:
    """At a dot; where an ending begins with a capital also inside a word: T5 says SelfAttention and EncDecAttention."""
    return path == ending or path.endswith(f".{ending}") or (ending[0].isupper() and path.endswith(ending))
