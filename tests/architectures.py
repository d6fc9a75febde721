"""A tiny random model of every architecture of transformers that is proven, from its config.

`CONFIGS` of `tiny.py`, which most tests walk through, are among them. Every model has four blocks of
width 32, unless its architecture has another pattern, and reads the ids of `tiny_tokenizer`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.pytorch_utils import Conv1D

from tiny import COMMON, CONFIGS, GQA, VOCABULARY, save_tiny, tiny_tokenizer

_PAIR_SIZES = {
    "encoder_layers": 4,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
PAIR = COMMON | {"d_model": 32, "decoder_start_token_id": 2} | _PAIR_SIZES
del PAIR["hidden_size"], PAIR["num_hidden_layers"], PAIR["intermediate_size"]
_PROPHETNET = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_encoder_layers": 4,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "num_layers": 4,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "d_ff": 64,
    "d_kv": 8,
}
EXPERTS = GQA | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = GQA | {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = COMMON | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
ROUTED = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
WINDOW = GQA | {"sliding_window": 8}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}
FLAUBERT = {
    "vocab_size": VOCABULARY,
    "emb_dim": 32,
    "n_layers": 4,
    "n_heads": 4,
    "max_position_embeddings": 96,
    "pad_index": 0,
    "pad_token_id": 0,
    "bos_index": 1,
    "eos_index": 2,
    "unk_index": 3,
}


@dataclass(frozen=True)
class Tiny:
    """A tiny model.

    Attributes:
        config: makes its config.
        blocks: path of its list of blocks, from the part that makes the states of texts; found by
            reading the architecture's code, so that what layerscope finds can be held against it.
            "" where no module is called once for each layer.
        inside: the part of the base model that makes the states of texts: "" for all of it, else its
            path.
    """

    config: Callable[[], Any]
    blocks: str
    inside: str = ""


def _tiny(kind: str, blocks: str, sizes: dict[str, Any], inside: str = "", **more: Any) -> Tiny:
    return Tiny(lambda: hf.AutoConfig.for_model(kind, **sizes | more), blocks, inside)


def _encoder(kind: str, **more: Any) -> Tiny:
    return _tiny(kind, "encoder.layer", COMMON, **more)


def _decoder(kind: str, sizes: dict[str, Any] = GQA, **more: Any) -> Tiny:
    return _tiny(kind, "layers", sizes, **more)


def _pair(kind: str, **more: Any) -> Tiny:
    return _tiny(kind, "layers", PAIR, "encoder", **more)


_BLOCKS_OF = {
    "albert": "encoder.albert_layer_groups",
    "distilbert": "transformer.layer",
    "gpt2": "h",
    "gptj": "h",
    "bloom": "h",
    "falcon": "h",
    "opt": "decoder.layers",
    "t5": "block",
    "bart": "layers",
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "mpnet": "encoder.layer",
    "electra": "encoder.layer",
    "deberta-v2": "encoder.layer",
}


def _of_the_table(name: str) -> Tiny:
    inside = "encoder" if name in {"t5", "bart"} else ""
    return Tiny(CONFIGS[name], _BLOCKS_OF.get(name, "layers"), inside)


ENCODERS: dict[str, Tiny] = {
    kind: _encoder(kind)
    for kind in (
        "bert-generation", "camembert", "convbert", "data2vec-text", "deberta", "ernie", "ibert",
        "layoutlm", "megatron-bert", "mra", "nystromformer", "rembert", "roberta-prelayernorm",
        "roformer", "splinter", "tapas", "visual_bert", "xlm-roberta", "xlm-roberta-xl",
        "yoso",
    )
} | {
    "big_bird": _encoder("big_bird", attention_type="original_full"),
    "canine": _encoder("canine", num_hash_buckets=64),
    "clip_text_model": _tiny("clip_text_model", "encoder.layers", COMMON),
    "dpr": _tiny("dpr", "bert_model.encoder.layer", COMMON),
    "esm": _encoder("esm", position_embedding_type="rotary", mask_token_id=3),
    "eurobert": _decoder("eurobert"),
    "flaubert": _tiny("flaubert", "", FLAUBERT),
    "fnet": _encoder("fnet"),
    "funnel": _tiny(
        "funnel",
        "",
        {"vocab_size": VOCABULARY, "block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8}
        | {"d_inner": 64, "pad_token_id": 0, "num_decoder_layers": 2, "architectures": ["FunnelModel"]},
    ),
    "gte": _decoder("gte", COMMON),
    "jina_embeddings_v3": _decoder("jina_embeddings_v3", COMMON),
    "lilt": _encoder("lilt", hidden_size=48),  # six coordinates share it, and four heads
    "longformer": _encoder("longformer", attention_window=8),
    "luke": _encoder("luke", entity_vocab_size=10, entity_emb_size=16),
    "markuplm": _encoder("markuplm", xpath_unit_hidden_size=4, max_xpath_tag_unit_embeddings=20,
                         max_xpath_subs_unit_embeddings=20, max_depth=4, tag_pad_id=19,
                         subs_pad_id=19),
    "mobilebert": _encoder("mobilebert", embedding_size=16, intra_bottleneck_size=16,
                           num_feedforward_networks=2, true_hidden_size=16),
    "nomic_bert": _decoder("nomic_bert", COMMON),
    "roc_bert": _encoder("roc_bert", shape_vocab_size=VOCABULARY, shape_embed_dim=16,
                         pronunciation_vocab_size=VOCABULARY, pronunciation_embed_dim=16),
    "squeezebert": _tiny("squeezebert", "", COMMON, embedding_size=32),
    "xlm": _tiny("xlm", "", FLAUBERT),
    "xlnet": _tiny("xlnet", "layer", {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 4}
                   | {"n_head": 4, "d_inner": 64, "pad_token_id": 0}),
    "xmod": _encoder("xmod", languages=["en_XX"], default_language="en_XX"),
}  # fmt: skip

DECODERS: dict[str, Tiny] = {
    kind: _decoder(kind)
    for kind in (
        "apertus", "arcee", "bitnet", "cohere", "cwm", "diffllama", "doge", "ernie4_5", "gemma", "glm",
        "glm4", "granite", "helium", "hunyuan_v1_dense", "internlm3", "nanochat", "nemotron", "olmo",
        "phi3", "qwen2", "seed_oss", "smollm3", "stablelm", "starcoder2",
    )
} | {kind: _decoder(kind, EXPERTS) for kind in (
        "flex_olmo", "olmoe", "qwen3_moe",
    )
} | {kind: _decoder(kind, LOCAL_EXPERTS) for kind in (
        "gpt_oss", "granitemoe", "granitemoeshared", "jetmoe", "minimax", "phimoe",
    )
} | {
    "aria_text": _decoder("aria_text", moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
    "bamba": _decoder("bamba", attn_layer_indices=[1, 3], mamba_n_heads=8, mamba_d_head=8,
                      mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8, mamba_expand=2),
    "biogpt": _decoder("biogpt", COMMON),
    "codegen": _tiny("codegen", "h", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4}
                     | {"n_head": 4, "n_positions": 96, "rotary_dim": 4, "n_ctx": 96}),
    "cohere2": _decoder("cohere2", MIXED),
    "ctrl": _tiny("ctrl", "h", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4}
                  | {"n_head": 4, "n_positions": 96, "dff": 64}),
    "dbrx": _tiny("dbrx", "blocks", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 4}
                  | {"n_heads": 4, "max_seq_len": 96, "pad_token_id": 0}
                  | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}}
                  | {"ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}}),
    "deepseek_v2": _decoder("deepseek_v2", LATENT | ROUTED),
    "deepseek_v3": _decoder("deepseek_v3", LATENT | ROUTED),
    "dots1": _decoder("dots1", GQA | ROUTED),
    "ernie4_5_moe": _decoder("ernie4_5_moe", moe_intermediate_size=16, moe_num_experts=4, moe_k=2),
    "exaone4": _decoder("exaone4", MIXED),
    "falcon_h1": _decoder("falcon_h1", mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8,
                          mamba_d_ssm=64, mamba_n_groups=1, mamba_chunk_size=8),
    "falcon_mamba": _decoder("falcon_mamba", COMMON, state_size=8),
    "gemma3": _tiny("gemma3", "layers", {}, "language_model",
                    text_config=WINDOW | {"model_type": "gemma3_text"},
                    vision_config={"hidden_size": 16, "num_hidden_layers": 1, "image_size": 28,
                                   "num_attention_heads": 2, "intermediate_size": 32,
                                   "patch_size": 14, "model_type": "siglip_vision_model"},
                    mm_tokens_per_image=4, image_token_id=117, boi_token_index=118,
                    eoi_token_index=119),
    "gemma3n_text": _decoder("gemma3n_text", MIXED, vocab_size_per_layer_input=VOCABULARY,
                             hidden_size_per_layer_input=8, num_kv_shared_layers=0,
                             laurel_rank=4, activation_sparsity_pattern=[0.0] * 4,
                             intermediate_size=[64] * 4),
    "gemma4_text": _decoder("gemma4_text", MIXED, vocab_size_per_layer_input=VOCABULARY,
                            hidden_size_per_layer_input=8, num_kv_shared_layers=0),
    "glm4_moe": _decoder("glm4_moe", GQA | ROUTED),
    "gpt_bigcode": _tiny("gpt_bigcode", "h", {"vocab_size": VOCABULARY, "n_embd": 32}
                         | {"n_layer": 4, "n_head": 4, "n_positions": 96}),
    "gpt_neo": _tiny("gpt_neo", "h", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 4}
                     | {"num_heads": 4, "max_position_embeddings": 96, "window_size": 8}
                     | {"attention_types": [[["global", "local"], 2]]}),
    "gpt_neox_japanese": _decoder("gpt_neox_japanese", COMMON, intermediate_multiple_size=2),
    "granitemoehybrid": _decoder("granitemoehybrid", LOCAL_EXPERTS, mamba_n_heads=8,
                                 mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1,
                                 mamba_chunk_size=8, shared_intermediate_size=16,
                                 layer_types=["mamba", "attention"] * 2),
    "hunyuan_v1_moe": _decoder("hunyuan_v1_moe", num_experts=4, moe_topk=[2] * 4,
                               moe_intermediate_size=[16] * 4),
    "jamba": _decoder("jamba", num_experts=2, attn_layer_period=2, attn_layer_offset=1,
                      expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8,
                      mamba_dt_rank=4, use_mamba_kernels=False),
    "lfm2": _decoder("lfm2", block_multiple_of=8, layer_types=["conv", "full_attention"] * 2),
    "llama4_text": _tiny("llama4_text", "layers", LOCAL_EXPERTS, "model", interleave_moe_layer_step=2,
                            intermediate_size_mlp=32, attention_chunk_size=16),
    "minicpm3": _decoder("minicpm3", LATENT),
    "ministral": _decoder("ministral", MIXED),
    "modernbert-decoder": _decoder("modernbert-decoder", COMMON, local_attention=16,
                                   cls_token_id=1, sep_token_id=2),
    "mpt": _tiny("mpt", "blocks", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 4}
                 | {"n_heads": 4, "max_seq_len": 96, "expansion_ratio": 2}),
    "nemotron_h": _decoder("nemotron_h", mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=8,
                           n_groups=1, chunk_size=8, n_routed_experts=4, moe_intermediate_size=16,
                           layers_block_type=["mamba", "attention", "mamba", "moe"]),
    "olmo3": _decoder("olmo3", MIXED),
    "openai-gpt": _tiny("openai-gpt", "h", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4}
                        | {"n_head": 4, "n_positions": 96}),
    "persimmon": _decoder("persimmon", COMMON),
    "qwen2_moe": _decoder("qwen2_moe", EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_5_text": _decoder("qwen3_5_text", GQA | LINEAR),
    "qwen3_next": _decoder("qwen3_next", EXPERTS | LINEAR, shared_expert_intermediate_size=16),
    "recurrent_gemma": _decoder("recurrent_gemma", COMMON, lru_width=32, attention_window_size=8,
                                num_key_value_heads=1, head_dim=8,
                                block_types=["recurrent", "recurrent", "attention"]),
    "reformer": _tiny("reformer", "encoder.layers",
                      {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4}
                      | {"attention_head_size": 8, "feed_forward_size": 64, "pad_token_id": 0}
                      | {"axial_pos_embds": False, "max_position_embeddings": 96, "hash_seed": 0}
                      | {"attn_layers": ["local"] * 4, "local_attn_chunk_length": 8}
                      | {"is_decoder": True}),
    "rwkv": _tiny("rwkv", "blocks", {"vocab_size": VOCABULARY, "hidden_size": 32}
                  | {"num_hidden_layers": 4, "attention_hidden_size": 32, "context_length": 96}),
    "vaultgemma": _decoder("vaultgemma", MIXED),
    "xglm": _decoder("xglm", COMMON, d_model=32, num_layers=4, attention_heads=4, ffn_dim=64),
    "xlstm": _tiny("xlstm", "blocks", COMMON, hidden_size=128, num_heads=4, chunk_size=8),
    "zamba": _decoder("zamba", COMMON, num_hidden_layers=6, attention_head_dim=16,
                      attention_hidden_size=64, mamba_d_state=8, mamba_dt_rank=4,
                      use_mamba_kernels=False, attn_layer_offset=1, attn_layer_period=2,
                      num_key_value_heads=4, n_mamba_heads=2),
    "zamba2": _decoder("zamba2", COMMON, num_hidden_layers=6, attention_head_dim=16,
                       attention_hidden_size=64, mamba_d_state=8, mamba_headdim=8,
                       n_mamba_heads=8, mamba_ngroups=1, chunk_size=8, num_mem_blocks=1,
                       layers_block_type=["mamba", "mamba", "hybrid"] * 2,
                       use_mem_rope=False, adapter_rank=4),
}  # fmt: skip

PAIRS: dict[str, Tiny] = {
    kind: _pair(kind)
    for kind in (
        "blenderbot", "blenderbot-small", "m2m_100", "marian", "mbart", "mvp", "pegasus", "plbart",
    )
} | {
    "bigbird_pegasus": _pair("bigbird_pegasus", attention_type="original_full"),
    "fsmt": _pair("fsmt", langs=["en", "de"], src_vocab_size=VOCABULARY,
                  tgt_vocab_size=VOCABULARY),
    "led": _pair("led", attention_window=8, max_encoder_position_embeddings=96,
                 max_decoder_position_embeddings=96),
    "longt5": _tiny("longt5", "block", T5, "encoder", local_radius=4, global_block_size=4),
    "mt5": _tiny("mt5", "block", T5, "encoder"),
    "nllb-moe": _pair("nllb-moe", num_experts=2, encoder_sparse_step=2, decoder_sparse_step=2),
    "pegasus_x": _pair("pegasus_x", block_size=8, num_global_tokens=2),
    "prophetnet": _tiny("prophetnet", "layers", _PROPHETNET, "encoder"),
    "switch_transformers": _tiny("switch_transformers", "block", T5, "encoder", num_experts=2,
                                 num_sparse_encoder_layers=2, num_sparse_decoder_layers=1),
    "t5gemma": _tiny("t5gemma", "layers", {}, "encoder", vocab_size=VOCABULARY,
                     encoder=MIXED, decoder=MIXED | {"cross_attention_hidden_size": 32}),
    "umt5": _tiny("umt5", "block", T5, "encoder"),
}  # fmt: skip

# By what config.json calls them, as AutoModel knows them.
_TABLE = {config().model_type: _of_the_table(name) for name, config in CONFIGS.items()}
ARCHITECTURES: dict[str, Tiny] = dict(sorted((_TABLE | ENCODERS | DECODERS | PAIRS).items()))


def random_model(name: str) -> nn.Module:
    """A random model, the same every time, as its checkpoints are saved: decoders with their head.

    Its weights are larger than those that transformers starts a training from, so that each block
    changes what goes through it, and a wrong mask, position or norm shows.
    """
    torch.manual_seed(0)
    config = ARCHITECTURES[name].config()
    model = _class_for(config).from_config(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
            elif isinstance(module, Conv1D):
                module.weight.normal_(0, module.nx**-0.5)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_()
        for key, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in key.lower():
                weight.add_(torch.rand_like(weight))
            elif weight.ndim == 3 and "experts" in key:
                weight.normal_(0, 32**-0.5)
    return model


def save_random(name: str, folder: Path) -> Path:
    """Save that model with a tokenizer, which pads with the id that the config names."""
    model: Any = random_model(name)
    save_tiny(model, folder)
    if getattr(model.config, "pad_token_id", None):  # MPNet counts its positions from it
        tokenizer = copy.deepcopy(tiny_tokenizer())
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
        tokenizer.save_pretrained(folder)
    return folder


def _class_for(config: Any) -> Any:
    """What writes text is saved with its head; what does not, or has an encoder, without."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    writes = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in ENCODERS.keys() | PAIRS.keys()
    return hf.AutoModelForCausalLM if writes and not fills else hf.AutoModel
