"""A callback of the transformers Trainer that scans the model while it trains."""

from __future__ import annotations

import inspect
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Unpack

from transformers import TrainerCallback

from layerscope.api.common import Data, Tokenizer
from layerscope.api.keywords import LiveScanSettings
from layerscope.api.plans import with_settings
from layerscope.config import AnyPath, Count, Exactly, Flag, Listed, Natural, To
from layerscope.data.files import refuse_unwritable
from layerscope.errors import InputError
from layerscope.results.folder import RunFolder
from layerscope.results.table import RECORD_FILE
from layerscope.settings import LiveScanConfig, ReadingConfig, ScanConfig
from layerscope.studies.live import LiveScan, log_entries, saved, step_name

FOLDER: Final = "layerscope"  # in the Trainer's output_dir
Steps = Annotated[int | Iterable[int], To(Listed[Natural])]


class ScanCallback(TrainerCallback):
    """Scan the model at chosen steps of a transformers `Trainer`, without an effect on the training.

        trainer = Trainer(..., callbacks=[ScanCallback(texts, every=500)])

    Losses and weights are bit for bit what they would be without it; see `scan_live`. Scans are of step 0
    (before the first update), of every `every`-th step, of those in `steps` and of the last step. Each

    - is logged by the Trainer, so that the trackers of `report_to` receive a number for each measure and
      layer, like `layerscope/prompt_entropy/layer_3` (measures x layers keys: 39 for the three default
      measures on 12 blocks);
    - leaves a run in `out/step500`, which `layerscope plot out/step* --x step` draws.

    What cannot work is refused when the callback is made or when training begins. A scan that fails later
    is a warning, and training continues. In distributed training the main process scans while the others
    wait, so a scan must be shorter than `ddp_timeout`.

    Args:
        texts: as `data` of `scan`. A few dozen keep a scan short.
        every: steps from one scan to the next.
        config: the settings as one object; single settings below change it.
        steps: further steps to scan, such as 1, 2, 4, 8.
        out: folder for the runs; None for `layerscope` in the Trainer's `output_dir`.
        overwrite: whether runs of an earlier training in that folder may be deleted. A training that is
            resumed replaces the runs of the steps that it repeats.
        tokenizer: of the model; None for the Trainer's own (`processing_class`).
        settings: any field of `LiveScanConfig` (such as `metrics`) and `ReadingConfig`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
    """

    @with_settings(LiveScanConfig, ReadingConfig)
    def __init__(
        self,
        texts: Data,
        every: Count = 500,
        config: Exactly[ScanConfig] | None = None,
        *,
        steps: Steps = (),
        out: AnyPath | None = None,
        overwrite: Flag = False,
        tokenizer: Tokenizer = None,
        **settings: Unpack[LiveScanSettings],
    ) -> None:
        self._scan = LiveScan.of(texts, config, settings)
        self._every = every
        self._steps: Any = steps
        self._out = None if out is None else Path(out)
        self._overwrite = overwrite
        self._tokenizer = tokenizer
        self._trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot work, in every process alike, and scan the model at step 0."""
        del control
        self._scan.check(kwargs["model"], self._tokenizer_of(kwargs))
        if state.is_world_process_zero:
            self._claim(self._folder(args), resumed=state.global_step > 0)
            self._trainer = _trainer_of(state)
        if state.global_step == 0:
            self._scan_now(args, state, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Scan the model if it is time."""
        del control
        step = state.global_step
        if step % self._every == 0 or step in self._steps or step == state.max_steps:
            self._scan_now(args, state, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the Trainer go."""
        del args, state, control, kwargs
        self._trainer = None

    def _scan_now(self, args: Any, state: Any, given: dict[str, Any]) -> None:
        if not state.is_world_process_zero:
            return
        step = state.global_step
        try:
            scan = self._scan.run(given["model"], self._tokenizer_of(given), step)
            self._log(log_entries(scan))
            # A resumed training replaces what it repeats; other runs were refused at its beginning.
            saved(scan, RunFolder(self._folder(args) / step_name(step), overwrite=True))
        except Exception as error:  # of any library: a training is worth more than a scan of it
            warnings.warn(
                f"layerscope could not scan step {step}, training continues: "
                f"{' '.join(str(error).split()) or type(error).__name__}",
                stacklevel=2,
            )

    def _log(self, entries: dict[str, float]) -> None:
        """Log through `Trainer.log` of transformers itself.

        Subclasses (as in TRL) add averages since their last log there and start new ones, so that an
        additional call would change what the training logs. A log that the Trainer has planned for this
        step stays planned.
        """
        if self._trainer is not None:
            from transformers import Trainer

            planned = self._trainer.control.should_log
            Trainer.log(self._trainer, entries)
            self._trainer.control.should_log = planned

    def _tokenizer_of(self, given: dict[str, Any]) -> Any:
        return given.get("processing_class") if self._tokenizer is None else self._tokenizer

    def _folder(self, args: Any) -> Path:
        return Path(args.output_dir) / FOLDER if self._out is None else self._out

    def _claim(self, folder: Path, *, resumed: bool) -> None:
        """Make sure that runs can be written, and that none are of an earlier training.

        Raises:
            InputError: they cannot, or some are and may not be deleted.
        """
        refuse_unwritable(folder)
        earlier = sorted(record.parent for record in folder.glob(f"step*/{RECORD_FILE}"))
        if resumed or not earlier:
            return
        if not self._overwrite:
            raise InputError(
                f"{str(folder)!r} holds {len(earlier)} scans of an earlier training; choose another out, "
                "or pass overwrite=True to delete them."
            )
        for run in earlier:
            shutil.rmtree(run)


def _trainer_of(state: Any) -> Any:
    """Return the Trainer that calls its callbacks; None if it is not a Trainer that does.

    Callbacks are given everything but the Trainer, and only the Trainer can log.
    """
    from transformers import Trainer

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and caller.state is state:
            return caller
        frame = frame.f_back
    return None
