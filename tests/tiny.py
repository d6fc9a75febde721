"""Tiny random models of every architecture that the tests walk through, and a tokenizer."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

VOCABULARY = 120
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = COMMON | {"num_key_value_heads": 2, "head_dim": 8}
SMALL_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**COMMON),
    "roberta": lambda: hf.RobertaConfig(**COMMON),
    "mpnet": lambda: hf.MPNetConfig(**COMMON | {"pad_token_id": 1, "bos_token_id": 0}),
    "electra": lambda: hf.ElectraConfig(**COMMON, embedding_size=16),
    "deberta-v2": lambda: hf.DebertaV2Config(**COMMON),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=4, n_heads=4, hidden_dim=64, pad_token_id=0
    ),
    "modernbert": lambda: hf.ModernBertConfig(
        **COMMON, local_attention=16, cls_token_id=1, sep_token_id=2
    ),
    "albert": lambda: hf.AlbertConfig(**COMMON, embedding_size=16, num_hidden_groups=2),
    "gpt2": lambda: hf.GPT2Config(**SMALL_GPT),
    "gptj": lambda: hf.GPTJConfig(**SMALL_GPT, rotary_dim=4),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**COMMON),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "falcon": lambda: hf.FalconConfig(**COMMON),
    "opt": lambda: hf.OPTConfig(**COMMON, ffn_dim=64, word_embed_proj_dim=32),
    "llama": lambda: hf.LlamaConfig(**GQA),
    "mistral": lambda: hf.MistralConfig(**GQA, sliding_window=8),
    "qwen3": lambda: hf.Qwen3Config(**GQA),
    "gemma2": lambda: hf.Gemma2Config(**GQA, sliding_window=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**GQA, sliding_window=8),
    "olmo2": lambda: hf.Olmo2Config(**GQA),
    "phi": lambda: hf.PhiConfig(**COMMON),
    "mixtral": lambda: hf.MixtralConfig(**GQA, num_local_experts=2),
    "t5": lambda: hf.T5Config(
        vocab_size=VOCABULARY, d_model=32, num_layers=4, num_heads=4, d_ff=64, d_kv=8
    ),
    "bart": lambda: hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=4,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    ),
    "mamba": lambda: hf.MambaConfig(**MAMBA),
    "mamba2": lambda: hf.Mamba2Config(
        **MAMBA, num_heads=8, head_dim=8, n_groups=1, state_size=16, chunk_size=8
    ),
}


# Architectures that layerscope has no row for: how each is called is measured on the model itself.
UNKNOWN: dict[str, Callable[[], Any]] = {
    "stablelm": lambda: hf.StableLmConfig(**GQA),
    "mbart": lambda: hf.MBartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=4, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "gpt_bigcode": lambda: hf.GPTBigCodeConfig(**SMALL_GPT),
    "biogpt": lambda: hf.BioGptConfig(**COMMON),
    "xglm": lambda: hf.XGLMConfig(
        vocab_size=VOCABULARY, d_model=32, num_layers=4, attention_heads=4, ffn_dim=64,
        max_position_embeddings=96, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "ctrl": lambda: hf.CTRLConfig(
        vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=96, dff=64
    ),
    "openai-gpt": lambda: hf.OpenAIGPTConfig(**SMALL_GPT),
    "megatron-bert": lambda: hf.MegatronBertConfig(**COMMON),
    "rembert": lambda: hf.RemBertConfig(
        **COMMON, input_embedding_size=16, output_embedding_size=16
    ),
    "splinter": lambda: hf.SplinterConfig(**COMMON),
    "ernie": lambda: hf.ErnieConfig(**COMMON),
    "esm": lambda: hf.EsmConfig(**COMMON, position_embedding_type="absolute"),
    "longformer": lambda: hf.LongformerConfig(**COMMON, attention_window=8),
    "rwkv": lambda: hf.RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, context_length=96
    ),
    "convbert": lambda: hf.ConvBertConfig(
        **COMMON, embedding_size=16, conv_kernel_size=5, head_ratio=2
    ),
    "mobilebert": lambda: hf.MobileBertConfig(
        **COMMON, embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32
    ),
    "fnet": lambda: hf.FNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, intermediate_size=64,
        max_position_embeddings=96, pad_token_id=0,
    ),
    "nystromformer": lambda: hf.NystromformerConfig(
        **COMMON, num_landmarks=4, segment_means_seq_len=4, conv_kernel_size=5
    ),
    "big_bird": lambda: hf.BigBirdConfig(**COMMON, block_size=4, num_random_blocks=1),
}  # fmt: skip


_PICTURES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_WIDE = _PICTURES | {"intermediate_size": 64}
VISION: dict[str, Callable[[], Any]] = {
    "vit": lambda: hf.ViTConfig(**_WIDE),
    "dinov2": lambda: hf.Dinov2Config(**_PICTURES, mlp_ratio=2),
}
# Read by structure, as is any other model of images with a stack of like blocks.
UNKNOWN_VISION: dict[str, Callable[[], Any]] = {
    "aimv2_vision_model": lambda: hf.Aimv2VisionConfig(**_WIDE),
    "beit": lambda: hf.BeitConfig(**_WIDE),
    "chinese_clip_vision_model": lambda: hf.ChineseCLIPVisionConfig(**_WIDE),
    "clip_vision_model": lambda: hf.CLIPVisionConfig(**_WIDE),
    "data2vec-vision": lambda: hf.Data2VecVisionConfig(**_WIDE),
    "deit": lambda: hf.DeiTConfig(**_WIDE),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersConfig(
        **_PICTURES, mlp_ratio=2, num_register_tokens=2
    ),
    "dinov3_vit": lambda: hf.DINOv3ViTConfig(**_WIDE, num_register_tokens=2),
    "dpt": lambda: hf.DPTConfig(**_WIDE),
    "ijepa": lambda: hf.IJepaConfig(**_WIDE),
    "internvl_vision": lambda: hf.InternVLVisionConfig(
        **_WIDE | {"image_size": [16, 16], "patch_size": [8, 8]}
    ),
    "mlcd_vision_model": lambda: hf.MLCDVisionConfig(**_WIDE),
    "pixio": lambda: hf.PixioConfig(**_WIDE),
    "siglip_vision_model": lambda: hf.SiglipVisionConfig(**_WIDE),
    "tipsv2_vision_model": lambda: hf.Tipsv2VisionConfig(**_PICTURES),
    "vit_mae": lambda: hf.ViTMAEConfig(**_WIDE),
    "vit_msn": lambda: hf.ViTMSNConfig(**_WIDE),
    "yolos": lambda: hf.YolosConfig(**_WIDE | {"image_size": [16, 16]}, num_detection_tokens=2),
}


_PARTS = {k: v for k, v in GQA.items() if k not in ("pad_token_id", "bos_token_id", "eos_token_id")}
_SIGHT = _PICTURES | {"intermediate_size": 64, "num_hidden_layers": 2}
# Models that are wrapped in others, or whose blocks hold constants that depend on their number.
UNUSUAL: dict[str, Callable[[], Any]] = {
    "gemma3 with vision": lambda: hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            text_config=_PARTS | {"sliding_window": 8},
            vision_config=_SIGHT | {"model_type": "siglip_vision_model"},
            mm_tokens_per_image=4,
            image_token_index=119,
        )
    ),
    "llama4": lambda: hf.Llama4ForConditionalGeneration(
        hf.Llama4Config(
            text_config=_PARTS
            | {"intermediate_size_mlp": 64, "num_local_experts": 2, "interleave_moe_layer_step": 2},
            vision_config=_SIGHT
            | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        )
    ),
    "t5gemma": lambda: hf.T5GemmaForConditionalGeneration(
        hf.T5GemmaConfig(
            encoder=GQA | {"sliding_window": 8}, decoder=GQA | {"num_hidden_layers": 2}
        )
    ),
    "qwen3_next": lambda: hf.Qwen3NextForCausalLM(
        hf.Qwen3NextConfig(
            **GQA,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            num_experts=0,
        )
    ),
    "minicpm3": lambda: hf.MiniCPM3ForCausalLM(
        hf.MiniCPM3Config(
            **COMMON,
            num_key_value_heads=4,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
        )
    ),
    "diffllama": lambda: hf.DiffLlamaForCausalLM(hf.DiffLlamaConfig(**GQA)),
    "esm": lambda: hf.EsmModel(hf.EsmConfig(**COMMON, mask_token_id=3)),
    "bamba": lambda: hf.BambaForCausalLM(
        hf.BambaConfig(
            **COMMON,
            num_key_value_heads=2,
            attn_layer_indices=[1, 3],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=16,
            mamba_chunk_size=8,
        )
    ),
    "fnet": lambda: hf.FNetModel(
        hf.FNetConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, intermediate_size=64
        )
    ),
    "megatron-bert": lambda: hf.MegatronBertForCausalLM(hf.MegatronBertConfig(**COMMON)),
}


def unusual_model(name: str) -> nn.Module:
    """One of `UNUSUAL`, random, the same every time."""
    torch.manual_seed(0)
    return UNUSUAL[name]().eval()


def vision_model(name: str) -> nn.Module:
    """A random model that reads images of 16 by 16; norms are shaken so that a normed state shows."""
    torch.manual_seed(0)
    model = hf.AutoModel.from_config((VISION | UNKNOWN_VISION)[name]()).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if (weight.ndim == 1 and "norm" in key.lower()) or key.endswith("_token"):
                weight.add_(torch.rand_like(weight))
    return model


def image_processor() -> Any:
    """Makes 16 x 16 pixels of any image."""
    return hf.ViTImageProcessorPil(size={"height": 16, "width": 16})


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Images of noise around a color and a gradient of their own, of several sizes."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        height, width = 40 + number % 5, 50 - number % 3
        color = generator.integers(0, 256, 3)
        slope = np.linspace(-60, 60, width)[None, :, None] * generator.uniform(-1, 1, 3)
        noise = generator.normal(0, 20, (height, width, 3))
        found.append(Image.fromarray(np.clip(color + slope + noise, 0, 255).astype(np.uint8)))
    return found


@cache
def tiny_model(name: str) -> nn.Module:
    """A random model, the same every time; norms are shaken so that a normed state shows."""
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(
        (CONFIGS | UNKNOWN)[name](), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in key.lower():
                weight.add_(torch.rand_like(weight))
    return model


def condition(model: nn.Module) -> dict[str, object]:
    """All that a pass must leave as it was: of the model, of autograd, and every random state."""
    modules = dict(model.named_modules())
    return {
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: [*module._forward_hooks, *module._forward_pre_hooks]
            for name, module in modules.items()
        },
        "modules": {name: id(module) for name, module in modules.items()},
        "frozen": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "config": str(model.config),
        "attributes": {
            name: {
                key: value for key, value in vars(module).items() if isinstance(value, str | int)
            }
            for name, module in modules.items()
        },
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
    }


WORDS = ["river", "stone", "light", "engine", "paper", "green", "seven", "ocean", "quiet", "market"]


@cache
def tiny_tokenizer() -> Any:
    """A word tokenizer that puts [CLS] before and [SEP] after a text."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    for word in WORDS:
        vocabulary[word] = len(vocabulary)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=96,
    )


def texts(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    """Distinct word salads of varying length."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        length = int(torch.randint(3, longest, (1,), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        found[" ".join(WORDS[pick] for pick in picks)] = None
    return list(found)


def with_column_changed(model: nn.Module) -> nn.Module:
    """A copy of a tiny BERT in which one column of one weight is zero."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.encoder.layer[1].attention.output.dense.weight[:, 5] = 0
    return copied


def save_tiny(model: nn.Module, folder: Path) -> Path:
    """Save a model with the tokenizer, and return its folder."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
