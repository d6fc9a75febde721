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


def bert(width: int) -> hf.BertForMaskedLM:
    """Return an encoder for masked tokens, without dropout."""
    config = hf.BertConfig(
        **sizes(width),
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return hf.BertForMaskedLM(config)


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


class Recurrence(torch.autograd.Function):
    """h[t] = a[t] h[t-1] + b[t] along the first axis, with h[-1] = 0.

    Its backward pass is the same recurrence from the end: g[t] = grad[t] + a[t+1] g[t+1].
    """

    @staticmethod
    def forward(context: Any, decay: Tensor, entry: Tensor) -> Tensor:
        """Return every state: (time, batch, channel, state)."""
        states = torch.empty_like(entry)
        states[0] = entry[0]
        for time in range(1, len(entry)):
            torch.addcmul(entry[time], decay[time], states[time - 1], out=states[time])
        context.save_for_backward(decay, states)
        return states

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the decay and of the entry."""
        decay, states = context.saved_tensors
        [gradient] = gradients
        total = torch.empty_like(gradient)
        total[-1] = gradient[-1]
        for time in range(len(total) - 2, -1, -1):
            torch.addcmul(gradient[time], decay[time + 1], total[time + 1], out=total[time])
        of_decay = torch.zeros_like(total)
        torch.mul(total[1:], states[:-1], out=of_decay[1:])
        return of_decay, total


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
    """Return what transformers' slow path does, by one autograd node for all time steps.

    Args:
        hidden_states: (batch, channel, time), like `dt` and the gate `z`.
        dt: step sizes before bias and softplus.
        A: (channel, state).
        B: (batch, state, time), like `C`.
        C: how the states are read.
        D: (channel,), the weight of the input in the output.
        z: the gate.
        delta_bias: (channel,), of the step sizes.
        return_last_state: whether the state after the last step is returned too.
        _: the flags of other paths.
    """
    step = functional.softplus(dt + delta_bias[:, None]).float().permute(2, 0, 1)
    inputs = hidden_states.float().permute(2, 0, 1)
    decay = torch.exp(step[..., None] * A)
    entry = (step * inputs)[..., None] * B.float().permute(2, 0, 1)[:, :, None, :]
    states = Recurrence.apply(decay, entry)
    read = torch.matmul(states, C.float().permute(2, 0, 1)[..., None])[..., 0]
    output = read.permute(1, 2, 0) + hidden_states * D[:, None]
    output = output * functional.silu(z)
    return (output, states[-1]) if return_last_state else output


@contextmanager
def fast_scan() -> Iterator[None]:
    """Let Mamba layers use `selective_scan` inside the block; weights and logits stay the same."""
    before = modeling_mamba.mamba_selective_scan
    modeling_mamba.mamba_selective_scan = selective_scan
    try:
        yield
    finally:
        modeling_mamba.mamba_selective_scan = before
