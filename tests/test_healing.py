"""Healing: where maps are folded into, that folds are exact, and what is kept, saved or refused."""

from __future__ import annotations

import pytest
import torch

from layerscope.errors import InputError
from layerscope.models import modes
from layerscope.models.backbone import backbone_of, probe
from layerscope.models.residual import fold_weights, folded, writer_of
from tiny import tiny_model, tiny_tokenizer, unusual_model

# --- where a block writes, and the fold ------------------------------------------------------------

WRITERS = {
    "llama": ("plain", "mlp.down_proj", ""),
    "gpt2": ("plain", "mlp.c_proj", ""),
    "gptj": ("plain", "mlp.fc_out", ""),  # attention and MLP side by side
    "gpt_neox": ("plain", "mlp.dense_4h_to_h", ""),
    "bloom": ("plain", "mlp.dense_4h_to_h", ""),
    "opt": ("plain", "fc2", ""),
    "modernbert": ("plain", "mlp.Wo", ""),
    "t5": ("plain", "layer.1.DenseReluDense.wo", ""),
    "mamba": ("plain", "mixer.out_proj", ""),
    "gemma3": ("branch", "mlp.down_proj", "post_feedforward_layernorm"),
    "olmo2": ("branch", "mlp.down_proj", "post_feedforward_layernorm"),
    "bert": ("outer", "output.dense", "output.LayerNorm"),
    "mpnet": ("outer", "output.dense", "output.LayerNorm"),
    "distilbert": ("outer", "ffn.lin2", "output_layer_norm"),
    "bart": ("outer", "fc2", "final_layer_norm"),
}


def last_state(backbone) -> torch.Tensor:
    with modes.evaluating(backbone.model):
        return backbone.model(**probe(backbone))[0]


@pytest.mark.parametrize("name", WRITERS)
def test_a_fold_gives_what_its_map_gives(name):
    """The model with a map folded in, and the model in which a hook maps what was written."""
    backbone = backbone_of(tiny_model(name), tiny_tokenizer())
    writer = writer_of(backbone, 2)
    assert (writer.kind, writer.linear, writer.norm) == WRITERS[name]
    generator = torch.Generator().manual_seed(1)
    dim = backbone.info.dim
    plain = writer.kind == "plain"
    matrix = 1 + torch.randn((dim, dim) if plain else (dim,), generator=generator) / 10
    offset = torch.randn(dim, generator=generator) if writer.offset else None
    block = backbone.blocks[1]

    def mapped(_module, _args, output):
        found = output @ matrix if plain else output * matrix
        return found if offset is None else found + offset

    before, weights = last_state(backbone), dict(block.state_dict())
    handle = block.get_submodule(writer.module).register_forward_hook(mapped)
    expected = last_state(backbone)
    handle.remove()
    with folded(block, fold_weights(block, writer, matrix, offset)):
        found = last_state(backbone)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(last_state(backbone), before)
    assert all(weights[key] is not None and torch.equal(weights[key], value)
               for key, value in block.state_dict().items())  # fmt: skip


def test_residual_branches_that_are_scaled_are_seen():
    backbone = backbone_of(unusual_model("minicpm3"), tiny_tokenizer())
    writer = writer_of(backbone, 1)
    assert writer.scale == pytest.approx(1.4 / 4**0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "rwkv"])
def test_a_block_without_one_last_linear_map_is_refused(name):
    backbone = backbone_of(tiny_model(name), tiny_tokenizer())
    with pytest.raises(
        InputError, match=r"block 2 of .* has no one linear map that writes to the residual stream"
    ):
        writer_of(backbone, 2)
