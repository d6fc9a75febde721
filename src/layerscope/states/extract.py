"""One forward pass per batch -> the token states of every site, one site at a time.

Hooks pass each state to a reducer as it is computed; only what the reducer returns is kept. This module
knows nothing of measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from layerscope.data.tokens import TokenBatch, TokenizedText, pad, padding_id, plan_batches
from layerscope.errors import InputError, RunError, unknown_name
from layerscope.models.architectures import STAGES
from layerscope.models.backbone import Backbone
from layerscope.models.inputs import inputs_of
from layerscope.models.modes import evaluating
from layerscope.models.processing import pixels_of


@dataclass(frozen=True, order=True)
class Site:
    """One place in a model: a layer (0 is the embedding output) and a stage in it."""

    layer: int
    stage: str = "block"

    def __str__(self) -> str:
        return f"{self.stage}.{self.layer}"


@dataclass(frozen=True)
class TokenStates:
    """The states of one site for a batch of texts, alive only while they are reduced.

    Attributes:
        site: where they come from.
        states: (text, token, dim), float32 or float64, padding included.
        real: (text, token), True where a token is not padding.
        counted: (text, token), True where a token counts: real, and neither a special token nor a
            first token that the settings leave out.
        entered: (text, token, dim) what entered the block, where the site is a block's output.
    """

    site: Site
    states: Tensor
    real: Tensor
    counted: Tensor
    entered: Tensor | None = None

    def __post_init__(self) -> None:
        expected = tuple(self.states.shape[:2])
        if self.states.ndim != 3 or {tuple(self.real.shape), tuple(self.counted.shape)} != {
            expected
        }:
            raise RunError(
                f"expected states (text, token, dim) with masks (text, token) at {self.site}, got "
                f"{tuple(self.states.shape)}, {tuple(self.real.shape)}, {tuple(self.counted.shape)}."
            )


Reduced = TypeVar("Reduced")
Reducer = Callable[[TokenStates], Reduced]


Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class BatchResult(Generic[Reduced]):
    """The results of the reducer for one batch, one for every site."""

    items: tuple[int, ...]
    by_site: dict[Site, Reduced]


class _StopForwardError(Exception):
    """Raised from a hook to end the pass once the last requested site was read."""


def sites_of(
    backbone: Backbone, layers: Iterable[int] | None = None, stages: Iterable[str] = ("block",)
) -> tuple[Site, ...]:
    """Return the sites for some layers and stages, in the order in which the model computes them.

    All layers by default. `block` includes layer 0 and, if layer L is requested and the model has
    one, the `final_norm`.

    Raises:
        InputError: a layer or a stage that this model does not have.
    """
    depth = backbone.depth
    asked = range(depth + 1) if layers is None else tuple(layers)
    for layer in asked:
        if not 0 <= layer_number(layer, depth) <= depth:
            raise InputError(
                f"expected layers from 0 (the embeddings) to {depth} (the last block of "
                f"{backbone.info.name}), got {layer}."
            )
    wanted = sorted({layer_number(layer, depth) for layer in asked})
    chosen = _checked_stages(backbone, stages)
    sites = [
        Site(layer, stage) for layer in wanted for stage in chosen if layer or stage == "block"
    ]
    if "block" in chosen and backbone.depth in wanted and backbone.final_norm is not None:
        sites.append(Site(backbone.depth, "final_norm"))
    if not sites:
        raise InputError(
            f"layer 0 is the embeddings, which have no stage {', '.join(chosen)}; ask for a later layer."
        )
    return tuple(sites)


def layer_number(layer: int, depth: int) -> int:
    """Return the index of a layer that may be counted from the last one, as -1.

    >>> layer_number(-1, 12), layer_number(3, 12)
    (12, 3)
    """
    return depth + 1 + layer if layer < 0 else layer


def check_stages(stages: Iterable[str]) -> None:
    """Raise an InputError for a stage that no architecture has."""
    for stage in stages:
        if stage not in STAGES[:-1]:
            raise unknown_name("stage", stage, STAGES[:-1])


def _checked_stages(backbone: Backbone, stages: Iterable[str]) -> list[str]:
    asked = set(stages)
    check_stages(asked)
    for stage in asked:
        if stage != "block" and stage not in backbone.stages:
            available = ", ".join([*backbone.stages, "block"])
            raise InputError(
                f"{backbone.info.model_class} has no stage {stage!r}; it has: {available}."
            )
    return [stage for stage in STAGES if stage in asked]


def batches(
    backbone: Backbone,
    texts: Sequence[TokenizedText],
    counted: Sequence[Sequence[bool]],
    budget: int,
    *,
    items: Sequence[int] | None = None,
    finished: set[int] | frozenset[int] = frozenset(),
    tight: bool = False,
) -> Iterator[TokenBatch]:
    """Yield texts in padded batches of similar length, without batches whose texts are all finished.

    Images are decoded here, a batch at a time.

    If padding changes the model's states, a batch has texts of one length: see `groups`.

    Args:
        backbone: the model.
        texts: the texts as tokens.
        counted: for each token of each text, whether it counts.
        budget: padded tokens in one batch.
        items: which of the texts; None for all.
        finished: texts that need not run again. Batches do not depend on them, so that a resumed run
            makes the same batches.
        tight: see `plan_batches`.
    """
    wanted = range(len(texts)) if items is None else items
    pad_id = padding_id(backbone.tokenizer, backbone.model.config)
    lengths = [len(texts[item].ids) for item in wanted]
    for group in groups(backbone, lengths, budget, tight=tight):
        batch = [wanted[place] for place in group]
        if finished.issuperset(batch):
            continue
        given = pad(batch, texts, counted, pad_id=pad_id, device=backbone.device)
        if pictures := [picture for item in batch if (picture := texts[item].picture)]:
            given = replace(given, pixels=pixels_of(backbone, pictures))
        yield given


def groups(
    backbone: Backbone, lengths: Sequence[int], budget: int, *, tight: bool = False
) -> list[list[int]]:
    """Return which texts share a batch, by their lengths alone; see `plan_batches`.

    If padding changes the states of a model, only texts of one length share a batch, so that neither
    the batch size nor the order of texts changes a result.
    """
    return plan_batches(lengths, budget, tight=tight, one_length=backbone.padding == "none")


def note_on_padding(backbone: Backbone) -> list[str]:
    """Return a note for the record if texts are batched in an unusual way."""
    if backbone.padding != "none":
        return []
    name = backbone.info.model_class
    why = f"padding changes the states of {name}"
    if not backbone.mask:
        why = f"{name} takes no attention mask, so that padding would change its states"
    return [f"texts of one length are batched together, because {why}."]


def extract(
    backbone: Backbone,
    batches: Iterable[TokenBatch],
    sites: Sequence[Site],
    reduce: Reducer[Reduced],
) -> Iterator[BatchResult[Reduced]]:
    """Run every batch once and yield the results of `reduce` for each site's token states.

    The pass ends after the last site. A batch that does not fit in memory is halved until it fits.
    Only `reduce` runs inside a pass, without gradients. Whenever the caller's code runs (between
    results, in `batches`), the model, its hooks, the autograd modes and all random states are as they
    were before.

    Raises:
        RunError: a single text does not fit in memory, or a site was never computed.
    """
    for batch in batches:
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            by_site = _fitting(backbone, part, sites, reduce)
            if by_site is None:
                waiting += reversed(part.halves())
            else:
                yield BatchResult(part.items, by_site)


def _fitting(
    backbone: Backbone, batch: TokenBatch, sites: Sequence[Site], reduce: Reducer[Reduced]
) -> dict[Site, Reduced] | None:
    """Run one batch; return None if it does not fit in memory but can be halved."""
    try:
        with evaluating(backbone.model):
            return _run(backbone, batch, sites, reduce)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise RunError(
                f"one sample of {batch.ids.shape[1]} tokens does not fit in memory; "
                "lower --max-length of texts, or use a smaller dtype or another device."
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "out of memory" in str(error) or "can't allocate memory" in str(error)


def _run(
    backbone: Backbone, batch: TokenBatch, sites: Sequence[Site], reduce: Reducer[Reduced]
) -> dict[Site, Reduced]:
    """Run one batch and reduce all of its sites."""
    results: dict[Site, Reduced] = {}
    wanted = set(sites)

    def receive(site: Site, state: Tensor, entered: Tensor | None = None) -> None:
        if site in wanted and site not in results:
            wide = _wide(state, batch)
            masks = (batch.real.to(wide.device), batch.counted.to(wide.device))
            before = None if entered is None else _wide(entered, batch).to(wide.device)
            results[site] = reduce(TokenStates(site, wide, *masks, before))
        if len(results) == len(wanted):
            raise _StopForwardError

    with _taps(backbone, wanted, receive):
        try:
            backbone.model(**_inputs(backbone, batch))
        except _StopForwardError:
            return results
    missing = [str(site) for site in sites if site not in results]
    raise RunError(f"{backbone.info.model_class} never computed {', '.join(missing)}.")


def _wide(state: Tensor, batch: TokenBatch) -> Tensor:
    wide = state if state.dtype in (torch.float32, torch.float64) else state.float()
    if wide.ndim == 2:  # OPT flattens (text, token) before the MLP
        return wide.reshape(*batch.ids.shape, -1)
    return wide[:, : batch.ids.shape[1]]  # Longformer pads a batch to whole windows


def _inputs(backbone: Backbone, batch: TokenBatch) -> dict[str, Any]:
    if batch.pixels is not None:
        return {"pixel_values": batch.pixels}
    real = batch.real if backbone.mask else None
    positions = batch.positions if backbone.positions == "given" else None
    return inputs_of(backbone.model, batch.ids, real, positions)


# --- hooks -------------------------------------------------------------------------------------


class _Receive(Protocol):
    """Receives the state of a site and, for a block, the block's input."""

    def __call__(self, site: Site, state: Tensor, entered: Tensor | None = None) -> None: ...


def _taps(backbone: Backbone, wanted: set[Site], receive: _Receive) -> ExitStack:
    """Hook every wanted site. Calls of a block that several layers share are counted."""
    with ExitStack() as stack:  # removes those that are on if a later one cannot be put on
        _tap_all(backbone, wanted, receive, lambda handle: stack.callback(handle.remove))
        return stack.pop_all()


def _tap_all(
    backbone: Backbone, wanted: set[Site], receive: _Receive, keep: Callable[[Any], object]
) -> None:
    layers_of: dict[nn.Module, list[int]] = {}
    for layer, block in enumerate(backbone.blocks, start=1):
        layers_of.setdefault(block, []).append(layer)

    def embedding(_module: nn.Module, args: Any, kwargs: Any) -> None:
        receive(Site(0), _hidden(args, kwargs))

    keep(backbone.blocks[0].register_forward_pre_hook(embedding, with_kwargs=True))
    for block, layers in layers_of.items():
        _tap_block(backbone, block, _Counter(layers), wanted, receive, keep)
    if backbone.final_norm is not None:
        last = Site(backbone.depth, "final_norm")
        ended: list[bool] = []  # NanoChat norms its embeddings with the same module
        keep(backbone.blocks[-1].register_forward_hook(lambda *_: ended.append(True)))

        def normed(_module: nn.Module, _args: Any, output: Any) -> None:
            if ended:
                receive(last, output[0] if isinstance(output, tuple | list) else output)

        keep(backbone.final_norm.register_forward_hook(normed))


class _Counter:
    """Counts the calls of a block that several layers share, and so tracks the current layer."""

    def __init__(self, layers: list[int]) -> None:
        self.layers = layers
        self.calls = 0

    def enter(self, *_: Any) -> None:
        self.calls += 1

    @property
    def layer(self) -> int:
        return self.layers[(self.calls - 1) % len(self.layers)]


def _tap_block(
    backbone: Backbone,
    block: nn.Module,
    counter: _Counter,
    wanted: set[Site],
    receive: _Receive,
    keep: Callable[[Any], object],
) -> None:
    keep(block.register_forward_pre_hook(counter.enter))
    asked = {site.stage for site in wanted if site.layer in counter.layers}
    for stage, tap in backbone.stages.items():
        if stage not in asked:
            continue
        module = block.get_submodule(tap.module)
        site = _site_maker(counter, stage)
        if tap.side == "output":
            keep(module.register_forward_hook(_output_hook(site, receive)))
        else:
            keep(module.register_forward_pre_hook(_input_hook(site, receive), with_kwargs=True))
    hook = _block_hook(_site_maker(counter, "block"), receive)
    keep(block.register_forward_hook(hook, with_kwargs=True))


def _site_maker(counter: _Counter, stage: str) -> Callable[[], Site]:
    return lambda: Site(counter.layer, stage)


def _block_hook(site: Callable[[], Site], receive: _Receive) -> Any:
    """Return a hook that passes on a block's output and input."""

    def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        left = output[0] if isinstance(output, tuple | list) else output
        receive(site(), left, _hidden(args, kwargs))

    return hook


def _output_hook(site: Callable[[], Site], receive: _Receive) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        receive(site(), output[0] if isinstance(output, tuple | list) else output)

    return hook


def _input_hook(site: Callable[[], Site], receive: _Receive) -> Any:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
        receive(site(), _hidden(args, kwargs))

    return hook


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among a module's arguments: the first one, or `hidden_states`."""
    state = args[0] if args else kwargs["hidden_states"]
    if not isinstance(state, Tensor):
        raise RunError(f"expected hidden states as a block's first argument, got {type(state)}.")
    return state
