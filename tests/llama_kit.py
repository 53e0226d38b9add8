"""A tiny model, made here: random weights, a few hundred KB, for real llama.cpp. What it says is nonsense, but it says it properly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 64, 4, 128, 2048


QUOTE = 3 + ord('"')
"""The token of a quotation mark."""


def make_model(file: Path, *, seed: int = 1, brief: bool = False) -> Path:
    """Write a GGUF file: a Llama of two layers whose tokens are bytes and a few words.

    `brief`: one that soon ends a text inside of JSON, where chance alone would go on for hundreds of tokens. All tokens share a
    direction, which the output takes for a wish to write a quotation mark.
    """
    import gguf
    import numpy

    library: Any = gguf
    random = numpy.random.default_rng(seed)
    tokens, kinds = _vocabulary(library)
    writer = library.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(library.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def tensor(name: str, *shape: int) -> None:
        values = random.normal(0, 0.2, shape).astype(numpy.float32)
        if brief and name == "token_embd.weight":
            values[:, 0] += 4
        if brief and name == "output.weight":
            values[:, 0] = 0
            values[QUOTE, 0] = 0.5
        if brief and name.endswith(("attn_output.weight", "ffn_down.weight")):
            values *= 0.1  # else the layers drown the direction
        writer.add_tensor(name, values)

    def ones(name: str) -> None:
        writer.add_tensor(name, numpy.ones(WIDTH, dtype=numpy.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    for layer in range(LAYERS):
        ones(f"blk.{layer}.attn_norm.weight")
        for part in ("q", "k", "v"):
            tensor(f"blk.{layer}.attn_{part}.weight", WIDTH, WIDTH)
        tensor(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        ones(f"blk.{layer}.ffn_norm.weight")
        tensor(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        tensor(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    ones("output_norm.weight")
    tensor("output.weight", len(tokens), WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _vocabulary(library: Any) -> tuple[list[bytes], list[int]]:
    kind = library.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"]
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    kinds += [kind.BYTE] * 256
    words = ["▁", "▁the", "▁a", "▁and", "a", "e", "i", "o", "n", "s", "t", "r"]
    tokens += [word.encode() for word in words]
    kinds += [kind.NORMAL] * len(words)
    return tokens, [int(each) for each in kinds]
