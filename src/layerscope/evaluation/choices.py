"""Accuracy on multiple-choice questions: does the right letter have the largest likelihood?

The prompt is that of MMLU (Hendrycks et al. 2021): the question, the answers as A to D, "Answer:".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerscope.data.hub import frame_of
from layerscope.errors import InputError
from layerscope.models import loading
from layerscope.models.backbone import Backbone, weight_bytes, writes_text
from layerscope.models.inputs import inputs_of
from layerscope.models.modes import evaluating
from layerscope.results.folder import versions
from layerscope.results.resampling import bootstrap_limits
from layerscope.results.runs import Made, Needs
from layerscope.results.table import COLUMNS, CONTRIBUTION_COLUMNS, TASK, Run, conform
from layerscope.settings import ChoicesConfig, ModelOptions
from layerscope.states.extract import sites_of

METRIC: Final = "accuracy"
LETTERS: Final = "ABCDEFGHIJ"
_TIMED: Final = 8  # questions behind an estimate
_NEEDED: Final = ("question", "choices", "answer")


@dataclass(frozen=True)
class Question:
    """A question with its answers.

    Attributes:
        question: its text.
        choices: the answers.
        answer: the number of the right one, from 0.
        subject: what it is about, "" if the table does not say.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str = ""


def read_questions(source: str | Path, split: str | None = None) -> list[Question]:
    """Read questions: the columns question, choices (a list), answer (its number) and perhaps subject.

    Args:
        source: a table in a file, or a datasets id like "cais/mmlu:astronomy".
        split: of a datasets id.

    Raises:
        InputError: it cannot be read, lacks a column, or a row is no question.
    """
    frame = frame_of(str(source), split)
    if missing := [name for name in _NEEDED if name not in frame]:
        raise InputError(
            f"expected the columns question, choices and answer in {str(source)!r}, it lacks "
            f"{' and '.join(missing)}; found: {', '.join(map(str, frame))}."
        )
    return [_question(row, number, source) for number, row in enumerate(frame.to_dict("records"))]


def _question(row: dict[Any, Any], number: int, path: str | Path) -> Question:
    choices = row["choices"]
    listed = (
        [str(each) for each in choices] if isinstance(choices, list | tuple | np.ndarray) else []
    )
    answer = str(row["answer"]).strip()
    place = LETTERS.index(answer) if len(answer) == 1 and answer in LETTERS else None
    place = int(answer) if answer.isdigit() else place
    if not 2 <= len(listed) <= len(LETTERS) or place is None or place >= len(listed):
        raise InputError(
            f"expected 2 to {len(LETTERS)} choices and the number (from 0) or letter of the right one in "
            f"row {number} of {str(path)!r}, got {len(listed)} choices and the answer {answer!r}."
        )
    return Question(str(row["question"]).strip(), tuple(listed), place, str(row.get("subject", "")))


@dataclass(frozen=True)
class ChoicesPlan:
    """Questions that a model is to answer.

    Attributes:
        model: its name, or the loaded model with its head.
        path: the table.
        questions: what it holds.
        settings: how they are asked.
        options: how the model is loaded.
    """

    model: str | Backbone
    path: str
    questions: tuple[Question, ...]
    settings: ChoicesConfig
    options: ModelOptions | None = None

    def estimate(self) -> Needs:
        """Return what it takes, from the first questions."""
        few = self.questions[: self.settings.shots + _TIMED]
        backbone, started = self._loaded(), time.perf_counter()
        _scored(backbone, few, self.settings)
        each = (time.perf_counter() - started) / max(1, len(few) - self.settings.shots)
        weights = weight_bytes(backbone.model)
        return Needs(each * len(self.questions), 2 * weights, 0)

    def run(self) -> Made:
        """Ask all questions."""
        backbone, started = self._loaded(), time.perf_counter()
        right = _scored(backbone, self.questions, self.settings)
        return Made(_run(backbone, self, right, time.perf_counter() - started))

    def _loaded(self) -> Backbone:
        if isinstance(self.model, Backbone):
            return self.model
        return loading.load(self.model, self.options, head=True)


def plan_choices(
    model: str, data: str, settings: ChoicesConfig, options: ModelOptions | None = None
) -> ChoicesPlan:
    """Read the questions; the first `shots` of them are examples.

    Raises:
        InputError: no table of questions, or too few.
    """
    found = read_questions(data, settings.split)
    most = None if settings.limit is None else settings.limit + settings.shots
    if len(found) < settings.shots + 2:
        raise InputError(
            f"expected at least 2 questions besides {settings.shots} examples, got {len(found)} in "
            f"{data!r}."
        )
    return ChoicesPlan(model, data, tuple(found[:most]), settings, options)


def _named(source: str) -> str:
    """Return the name of the questions, as a scan of the same table has it."""
    return Path(source).name if Path(source).exists() else source


def _scored(
    backbone: Backbone, questions: tuple[Question, ...], settings: ChoicesConfig
) -> list[float]:
    """Return 1 for each question that is answered right, 0 for the others.

    Raises:
        InputError: the model gives no likelihood of the next token.
    """
    if not writes_text(backbone):
        raise InputError(
            f"expected a model that predicts the next token, {backbone.info.name} "
            f"({type(backbone.whole).__name__}) has no head for it."
        )
    examples, asked = questions[: settings.shots], questions[settings.shots :]
    shown = "".join(f"{_prompt(each)} {LETTERS[each.answer]}\n\n" for each in examples)
    found = []
    for each in asked:
        answers = [f" {letter}" for letter in LETTERS[: len(each.choices)]]
        prompt = _described(each) + shown + _prompt(each)
        likely = likelihoods(backbone, prompt, answers, settings.max_length)
        found.append(float(int(np.argmax(likely)) == each.answer))
    return found


def likelihoods(
    backbone: Backbone, prompt: str, answers: Sequence[str], max_length: int
) -> list[float]:
    """Return the log-likelihood of each answer after a prompt, whose beginning is cut if it is too long.

    Answers of one token share one pass. Every prompt goes through alone, so that no padding counts.
    """
    lead = _leading(backbone.tokenizer)

    def encoded(text: str) -> list[int]:
        return [*lead, *backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]

    start = len(encoded(prompt))
    logits: dict[tuple[int, ...], Tensor] = {}
    found = []
    for answer in answers:
        ids = encoded(prompt + answer)
        given = tuple(ids[:-1][-max_length:])
        if given not in logits:
            inputs = inputs_of(backbone.whole, torch.tensor([given], device=backbone.device))
            with evaluating(backbone.whole):
                logits[given] = backbone.whole(**inputs).logits[0].float().log_softmax(-1)
        own = ids[start:] or ids[-1:]  # a tokenizer may join the answer to the prompt's last token
        steps = logits[given][-len(own) :]
        found.append(float(steps[torch.arange(len(own)), torch.tensor(own)].sum()))
    return found


def _leading(tokenizer: Any) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text."""
    whole = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    places = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return whole[: next(places, 0)]


def _described(question: Question) -> str:
    about = f" about {question.subject.replace('_', ' ')}" if question.subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def _prompt(question: Question) -> str:
    listed = zip(LETTERS, question.choices, strict=False)
    answers = "\n".join(f"{letter}. {choice}" for letter, choice in listed)
    return f"{question.question}\n{answers}\nAnswer:"


def _run(backbone: Backbone, plan: ChoicesPlan, right: list[float], seconds: float) -> Run:
    """Return the accuracy as a run: one row at the model's output, and each question's result."""
    site = sites_of(backbone, [backbone.depth])[-1]
    values = np.array(right)
    (low,), (high,) = bootstrap_limits(values[None], 0)
    where: dict[str, Any] = {"layer": site.layer, "stage": site.stage, "metric": METRIC}
    where["perturbation"] = "none"
    row = where | {
        "model": backbone.info.name, "revision": backbone.info.revision,
        "data": _named(plan.path), "level": TASK, "depth": 1.0, "value": values.mean(),
        "low": low, "high": high, "n": len(values),
    }  # fmt: skip
    texts = pd.DataFrame({"text": np.arange(len(values)) + plan.settings.shots, "value": values})
    texts = texts.assign(convention="", **where)[list(CONTRIBUTION_COLUMNS)]
    record = {
        "model": backbone.info.as_dict(), "data": {"name": row["data"], "texts": len(values)},
        "settings": plan.settings.as_dict(), "versions": versions(),
        "times": {"total": round(seconds, 3)}, "undefined": [], "notes": [],
    }  # fmt: skip
    table = conform(pd.DataFrame([row], columns=list(COLUMNS)))
    return Run(table, texts.astype(CONTRIBUTION_COLUMNS), record)
