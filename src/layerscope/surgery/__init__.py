"""Models made smaller: blocks taken out, the rest saved as a stock checkpoint, and that proven."""

from layerscope.surgery.blocks import (
    given_by,
    kept_blocks,
    probe,
    refuse_skipping,
    refuse_surgery,
    remove_blocks,
    skipping,
)
from layerscope.surgery.card import Story, model_card, usage_of
from layerscope.surgery.configs import kept_config, text_config_of
from layerscope.surgery.onnx import require_onnx
from layerscope.surgery.saving import (
    RECORD,
    MismatchError,
    bytes_of,
    claimed,
    free_bytes,
    read_record,
    refuse_folder,
    refuse_full_disk,
    size_of,
)
from layerscope.surgery.sentence import (
    Counting,
    counting_of,
    default_prompt,
    load_source,
    require_extra,
)
from layerscope.surgery.shipping import FORMATS, Format, Plan, Shipped, ship
from layerscope.surgery.smaller import (
    LAST,
    OutputPath,
    find_output,
    refuse_decoder,
    refuse_other_tokens,
    refuse_own_code,
    refuse_padding,
    refuse_processor,
    refuse_quantized,
    smaller,
)
from layerscope.surgery.verifying import Verification, beginnings, token_states

__all__ = [
    "FORMATS",
    "LAST",
    "RECORD",
    "Counting",
    "Format",
    "MismatchError",
    "OutputPath",
    "Plan",
    "Shipped",
    "Story",
    "Verification",
    "beginnings",
    "bytes_of",
    "claimed",
    "counting_of",
    "default_prompt",
    "find_output",
    "free_bytes",
    "given_by",
    "kept_blocks",
    "kept_config",
    "load_source",
    "model_card",
    "probe",
    "read_record",
    "refuse_decoder",
    "refuse_folder",
    "refuse_full_disk",
    "refuse_other_tokens",
    "refuse_own_code",
    "refuse_padding",
    "refuse_processor",
    "refuse_quantized",
    "refuse_skipping",
    "refuse_surgery",
    "remove_blocks",
    "require_extra",
    "require_onnx",
    "ship",
    "size_of",
    "skipping",
    "smaller",
    "text_config_of",
    "token_states",
    "usage_of",
]
