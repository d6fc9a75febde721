"""The architectures of the suite at a given width, and a fast scan for training the Mamba."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional
from transformers.models.mamba import modeling_mamba

VOCABULARY = 2048
CONTEXT = 128
LAYERS = 6
HEAD = 16  # dimensions of an attention head at every width
END, PADDING, CLS, SEP, MASK = range(5)  # the first ids of the tokenizer


def sizes(width: int) -> dict[str, Any]:
    """Return the settings that the two transformers share."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": width // HEAD,
        "intermediate_size": 4 * width,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": PADDING,
        "tie_word_embeddings": True,
    }


def gpt_neox(width: int) -> hf.GPTNeoXForCausalLM:
    """Return a decoder built as Pythia is, with tied embeddings."""
    config = hf.GPTNeoXConfig(**sizes(width), bos_token_id=END, eos_token_id=END)
    return hf.GPTNeoXForCausalLM(config)


def modern_bert(width: int) -> hf.ModernBertForMaskedLM:
    """Return an encoder for masked tokens: every third layer sees all tokens, the others 8 each side.

    The first BERT cannot be had for so few tokens: after 2 million its loss had not left that of the
    tokens' frequencies far behind (README.md).
    """
    config = hf.ModernBertConfig(
        **sizes(width) | {"intermediate_size": 5 * width // 2},  # gated, so of 3 matrices
        bos_token_id=CLS,
        eos_token_id=SEP,
        cls_token_id=CLS,
        sep_token_id=SEP,
        local_attention=16,
    )
    return hf.ModernBertForMaskedLM(config)


def mamba(width: int) -> hf.MambaForCausalLM:
    """Return a state-space model with tied embeddings."""
    config = hf.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        pad_token_id=PADDING,
        bos_token_id=END,
        eos_token_id=END,
        tie_word_embeddings=True,
    )
    return hf.MambaForCausalLM(config)


class Scan(torch.autograd.Function):
    """A selective scan as one node of the graph: h[t] = exp(step[t] A) h[t-1] + step[t] x[t] B[t].

    The loop over time works on one step's states (batch, state, channel), which stay in the cache;
    only h is kept for the backward pass, and the decays are computed again there.
    """

    @staticmethod
    def forward(
        context: Any, step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what C reads of the states, (time, batch, channel), and the last states.

        Args:
            context: of autograd.
            step: (time, batch, channel), like `x`.
            x: the input.
            A: (state, channel).
            B: (time, batch, state), like `C`.
            C: how the states are read.
        """
        states = step.new_empty(*B.shape, step.shape[-1])
        torch.mul((step[0] * x[0])[:, None], B[0, ..., None], out=states[0])
        decay = torch.empty_like(states[0])
        for t in range(1, len(states)):
            torch.mul((step[t] * x[t])[:, None], B[t, ..., None], out=states[t])
            torch.mul(step[t, :, None], A, out=decay).exp_()
            states[t].addcmul_(decay, states[t - 1])
        context.save_for_backward(step, x, A, B, C, states)
        last = states[-1].clone()
        context.mark_non_differentiable(last)
        return torch.matmul(C[:, :, None], states)[:, :, 0], last

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of step, x, A, B and C; `total` is that of the states."""
        step, x, A, B, C, states = context.saved_tensors
        of_read = gradients[0]
        total = torch.empty_like(states)
        of_step, of_A = torch.zeros_like(step), torch.zeros_like(A)
        later = torch.zeros_like(states[0])
        decay, of_exponent = torch.empty_like(later), torch.empty_like(later)
        for t in range(len(states) - 1, -1, -1):
            torch.addcmul(later, of_read[t, :, None], C[t, ..., None], out=total[t])
            if t == 0:
                break
            torch.mul(step[t, :, None], A, out=decay).exp_()
            torch.mul(total[t], decay, out=later)
            torch.mul(later, states[t - 1], out=of_exponent)
            of_step[t] = (of_exponent * A).sum(1)
            of_A += of_exponent.mul_(step[t, :, None]).sum(0)
        of_product = torch.matmul(B[:, :, None], total)[:, :, 0]
        of_B = torch.matmul(total, (step * x)[..., None])[..., 0]
        of_C = torch.matmul(states, of_read[..., None])[..., 0]
        return of_step + of_product * x, of_product * step, of_A, of_B, of_C


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    return_last_state: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what transformers' slow path does, in float32.

    Args:
        hidden_states: (batch, channel, time), like `dt` and the gate `z`.
        dt: step sizes before bias and softplus.
        A: (channel, state).
        B: (batch, state, time), like `C`.
        C: how the states are read.
        D: (channel,), the weight of the input in the output.
        z: the gate.
        delta_bias: (channel,), of the step sizes.
        return_last_state: whether the states after the last step are returned too.
        _: the flags of other paths.
    """
    step = functional.softplus(dt + delta_bias[:, None])
    step, x, B, C = (part.permute(2, 0, 1).contiguous() for part in (step, hidden_states, B, C))
    read, last = Scan.apply(step, x, A.T.contiguous(), B, C)
    output = (read.permute(1, 2, 0) + hidden_states * D[:, None]) * functional.silu(z)
    return (output, last.transpose(1, 2)) if return_last_state else output


@contextmanager
def fast_scan() -> Iterator[None]:
    """Let Mamba layers use `selective_scan` inside the block; weights and logits stay the same."""
    before = modeling_mamba.mamba_selective_scan
    modeling_mamba.mamba_selective_scan = selective_scan
    try:
        yield
    finally:
        modeling_mamba.mamba_selective_scan = before
