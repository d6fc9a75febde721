"""A readout fitted for the folder that will serve it: which blocks stay, what the vectors must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from layerscope.analysis.readouts import own_sites, texts_to_fit_on
from layerscope.config import Pooling
from layerscope.data.tokens import TokenizedText, tokenize
from layerscope.errors import InputError, RunError
from layerscope.export.cut import CutPlan, pooled_tokens
from layerscope.export.formats import bytes_of
from layerscope.export.modules import as_modules
from layerscope.export.place import Place
from layerscope.export.sentence import PoolingMask
from layerscope.export.ship import Plan, texts_to_compare
from layerscope.export.shorten import hidden_places, refuse_other_tokens, refuse_padding, smaller
from layerscope.export.verify import expected_states
from layerscope.metrics.readouts import Fitted, Floats, Readout, fit
from layerscope.models.backbone import Backbone, probe
from layerscope.settings import CutConfig
from layerscope.states.extract import Site, batches, extract

_BUDGET: Final = 4096  # tokens in one forward pass of the fitting texts


def plan_readout(
    backbone: Backbone,
    readout: Readout,
    settings: CutConfig,
    *,
    texts: Sequence[str],
    source: Any = None,
    seed: int = 0,
) -> CutPlan:
    """Fit a readout on crops of texts as the saved model will read them, and plan its folder.

    Args:
        backbone: the source, which `refuse_model` let through; it is not changed.
        readout: layers numbered as by `analysis.readouts.own_sites`.
        settings: how; which tokens are pooled is what a scan pools unless said otherwise.
        texts: to fit on, and to compare on.
        source: the sentence-transformers model that the source is part of, or None.
        seed: of the crops.

    Raises:
        InputError: no stock modules can hold the readout of this model.
    """
    _refuse_unsayable(backbone, readout, settings)
    sites = own_sites(backbone)
    own = backbone.depth in readout.layers
    small, kept, places = _smallest(backbone, readout, sites)
    compared = texts_to_compare(
        backbone, texts, partial(pooled_tokens, backbone, settings.changed(normalize=False), None),
        max_length=settings.max_length, source=source,
        format="sentence-transformers",  # an ONNX file is pooled in the same way
    )  # fmt: skip
    counting = compared.counting
    if counting is None:
        raise RunError("a readout was planned without saying which tokens are pooled.")
    crops, what = texts_to_fit_on(texts, seed)
    read = tokenize(backbone.tokenizer, [compared.prompt + row for row in crops], compared.limit)
    wanted = {layer: sites[layer] for layer in readout.layers}
    fitted = fit(readout, _pooled(backbone, wanted, counting, read), fitted_on=what)
    by_token = settings.format == "onnx"
    unit = settings.normalize and not by_token
    modules = as_modules(fitted, len(kept) + 1, indices=places, normalize=unit)
    tokens = [each for _, each in compared.texts]
    refuse_other_tokens(backbone, small, tokens)
    expected = _mixed(backbone, fitted, sites, tokens)
    if by_token:
        refuse_padding(backbone, small, settings.format)
        expected = [modules.vector(states) for states in expected]
    plan = Plan(
        kept, ("hidden_states", modules.layer), expected,
        compared.texts, format=settings.format, counting=counting, source=source,
        prompt=compared.prompt, max_length=compared.limit, readout=modules, normed_last=own,
    )  # fmt: skip
    highest = max(1, *readout.layers)
    place = Place(Site(highest, sites[highest].stage), tuple(kept), plan.output)
    notes = [*counting.notes(backbone.tokenizer), f"Fitted on {fitted.fitted_on}."]
    if by_token:
        notes.append("The file gives the readout of each token, to be pooled so.")
    return CutPlan(
        backbone,
        highest,
        settings,
        place,
        plan,
        tuple(notes),
        bytes_of(small),
        str(readout),
    )


def _refuse_unsayable(backbone: Backbone, readout: Readout, settings: CutConfig) -> None:
    if settings.format == "transformers":
        raise InputError(
            f"the readout '{readout}' needs modules after the model, which a transformers folder cannot "
            "hold; use --format sentence-transformers or onnx, or take one layer as it is by --layer or "
            "--rule."
        )
    if settings.kind == "pointer" or settings.head:
        raise InputError(
            f"the readout '{readout}' is saved as a cut without a head; leave --kind and --head out."
        )
    if settings.pooling is Pooling.MAX and len(readout.layers) > 1:
        raise InputError(
            "max pooling of averaged layers is not the average of pooled layers; use another pooling."
        )
    if max(readout.layers) > backbone.depth:
        raise InputError(
            f"expected layers from 0 to {backbone.depth} in the readout '{readout}', got "
            f"{max(readout.layers)}."
        )
    if readout.map != "none" and backbone.info.dtype not in ("float32", "float64"):
        raise InputError(
            f"the map of the readout '{readout}' is float32 and the model {backbone.info.dtype}; load "
            "it with --dtype float32."
        )


def _smallest(
    backbone: Backbone, readout: Readout, sites: Sequence[Site]
) -> tuple[nn.Module, range, dict[int, int]]:
    """Return the smallest model that does, its blocks, and each layer's place in `hidden_states`."""
    own, highest = backbone.depth in readout.layers, max(1, *readout.layers)
    ids = probe(backbone)["input_ids"][0].tolist()
    short = TokenizedText(tuple(ids), (False,) * len(ids), truncated=False)
    wanted = {
        layer: expected_states(backbone, [short], sites[layer])[0] for layer in readout.layers
    }
    for count in dict.fromkeys((highest, min(highest + 1, backbone.depth))):
        try:
            small = smaller(backbone, range(count))
        except InputError:  # that block cannot be the last one
            continue
        found = hidden_places(backbone, small, wanted, normed_last=own)
        if found is not None:
            return small, range(count), found
    raise InputError(
        f"{backbone.info.model_class} in transformers does not return all layers of the readout "
        f"'{readout}' in hidden_states; choose one layer by --layer."
    )


def _pooled(
    backbone: Backbone,
    wanted: Mapping[int, Site],
    counting: PoolingMask,
    tokens: Sequence[TokenizedText],
) -> dict[int, Floats]:
    """Return the pooled vectors (text, dim) of some layers."""
    found: dict[int, dict[Site, Tensor]] = {}
    marks = [counting.marks(text) for text in tokens]
    planned = batches(backbone, tokens, marks, _BUDGET)
    for result in extract(backbone, planned, list(wanted.values()), counting.pooled):
        for at, item in enumerate(result.items):
            found[item] = {site: rows[at] for site, rows in result.by_site.items()}
    items = range(len(tokens))
    return {
        layer: torch.stack([found[item][site] for item in items]).double().numpy()
        for layer, site in wanted.items()
    }


def _mixed(
    backbone: Backbone, fitted: Fitted, sites: Sequence[Site], tokens: Sequence[TokenizedText]
) -> list[Tensor]:
    """Return the token states (token, dim) of each text, layers averaged by their weights."""
    states = [expected_states(backbone, tokens, sites[layer]) for layer in fitted.readout.layers]
    weights = torch.tensor(fitted.weights, dtype=torch.float64)
    weights /= weights.sum()
    return [
        torch.stack([w * each for w, each in zip(weights.tolist(), several, strict=True)]).sum(0)
        for several in zip(*states, strict=True)
    ]
