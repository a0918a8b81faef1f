#!/usr/bin/env python3
"""Logits of tiny random models, one of each architecture, by transformers in float32.

  tests/golden/make_tiny_models.py [OUTPUT]     (default: tiny_models.json beside this script)

Needs torch, transformers and numpy. Weights come from a generator that tests/paths/architecture_test.cc repeats, so
none are stored: the file has metadata, tensor shapes, tokens, logits after some of them, and greedy continuations.
"""
import json
import pathlib
import sys

import numpy
import torch
import transformers

VOCAB, TOKENS, GREEDY = 265, 24, 12
POSITIONS = (0, 6, 11, 17, 23)
MASK = (1 << 64) - 1


def hash_of(name):
    """FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def split_mix(seed, count):
    """The first `count` numbers of SplitMix64."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def weights(name, shape):
    """Values of the GGUF tensor `name`: multiples of 2^-20 in [-0.25, 0.25), and norms around 1."""
    count = int(numpy.prod(shape))
    steps = (split_mix(hash_of(name), count) >> numpy.uint64(45)).astype(numpy.int64) - (1 << 18)
    values = steps * 2.0**-20
    if name.endswith("norm.weight"):
        values = values + 1
    return torch.tensor(values.astype(numpy.float32).reshape(shape[::-1]))


def adjacent_to_halves(weight, heads):
    """GGUF files of architecture llama keep rotated pairs side by side; transformers keeps them half a head apart."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
GEMMA_PARTS = PARTS | {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}


def name_in_transformers(name, gemma):
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight"}[name]
    _, layer, part = name.split(".", 2)
    return f"model.layers.{layer}.{(GEMMA_PARTS if gemma else PARTS)[part]}"


def tensor_shapes(config, bias=False, qk_norm=False, post_norms=False):
    """Shapes in GGUF's order: columns first."""
    dim, ffn, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    layer = {"attn_norm.weight": [dim], "attn_q.weight": [dim, q], "attn_k.weight": [dim, kv],
             "attn_v.weight": [dim, kv], "attn_output.weight": [q, dim], "ffn_norm.weight": [dim],
             "ffn_gate.weight": [dim, ffn], "ffn_up.weight": [dim, ffn], "ffn_down.weight": [ffn, dim]}
    if bias:
        layer |= {"attn_q.bias": [q], "attn_k.bias": [kv], "attn_v.bias": [kv]}
    if qk_norm:
        layer |= {"attn_q_norm.weight": [head_dim], "attn_k_norm.weight": [head_dim]}
    if post_norms:
        layer |= {"post_attention_norm.weight": [dim], "post_ffw_norm.weight": [dim]}
    shapes = {"token_embd.weight": [dim, config.vocab_size]}
    for i in range(config.num_hidden_layers):
        shapes |= {f"blk.{i}.{part}": shape for part, shape in layer.items()}
    shapes["output_norm.weight"] = [dim]
    if not config.tie_word_embeddings:
        shapes["output.weight"] = [dim, config.vocab_size]
    return shapes


def metadata(architecture, config, rope):
    keys = {"context_length": 256, "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps)} | rope
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def fill(model, shapes, config, architecture):
    gemma = architecture == "gemma3"
    state = {}
    for name, shape in shapes.items():
        weight = weights(name, shape)
        if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
            weight = adjacent_to_halves(weight, heads)
        if gemma and name.endswith("norm.weight"):
            weight = weight - 1  # transformers adds it
        state[name_in_transformers(name, gemma)] = weight
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()


def golden(name, architecture, config, rope, factors=None, **parts):
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    shapes = tensor_shapes(config, **parts)
    fill(model, shapes, config, architecture)
    tokens = [int(value % VOCAB) for value in split_mix(hash_of(name), TOKENS)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
        text = list(tokens)
        for _ in range(GREEDY):
            text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    entry = {"name": name, "architecture": architecture, "fields": metadata(architecture, config, rope),
             "tensors": shapes, "tokens": tokens, "greedy": text[TOKENS:],
             "logits": {str(p): [round(float(x), 4) for x in logits[p]] for p in POSITIONS}}
    if factors is not None:
        entry["rope_factors"] = [float(f) for f in factors]
    print(f"{name}: logits of deviation {logits.std():.3f}, largest {abs(logits).max():.3f}")
    return entry


def sizes(**others):
    return {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
            "tie_word_embeddings": False} | others


def llama31():
    # So short a context of training that few pairs are rotated as they were, and some are in between.
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = transformers.LlamaConfig(**sizes(), rope_parameters=rope)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    return golden("llama, scaled frequencies", "llama", config, {"rope.freq_base": 10000.0}, plain / scaled.double())


def mistral():
    config = transformers.MistralConfig(**sizes(head_dim=32, num_key_value_heads=1), sliding_window=8,
                                        rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    return golden("mistral", "llama", config, {"rope.freq_base": 20000.0, "attention.sliding_window": 8})


def qwen2():
    config = transformers.Qwen2Config(**sizes(), rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})
    config.head_dim = 16
    return golden("qwen2", "qwen2", config, {"rope.freq_base": 1000000.0}, bias=True)


def qwen3():
    config = transformers.Qwen3Config(**sizes(head_dim=32, tie_word_embeddings=True),
                                      rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})
    return golden("qwen3", "qwen3", config, {"rope.freq_base": 1000000.0}, qk_norm=True)


def gemma3():
    rope = {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    config = transformers.Gemma3TextConfig(
        **sizes(num_hidden_layers=7, num_key_value_heads=1, head_dim=32, rms_norm_eps=1e-6, tie_word_embeddings=True),
        query_pre_attn_scalar=32, sliding_window=8, rope_parameters=rope)
    assert config.layer_types.index("full_attention") == 5
    return golden("gemma3", "gemma3", config,
                  {"rope.freq_base": 1000000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0,
                   "attention.sliding_window": 8}, qk_norm=True, post_norms=True)


def main():
    here = pathlib.Path(__file__).resolve().parent
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tiny_models.json"
    lines = [json.dumps(make(), separators=(",", ":")) for make in (llama31, mistral, qwen2, qwen3, gemma3)]
    output.write_text('{"models":[\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
