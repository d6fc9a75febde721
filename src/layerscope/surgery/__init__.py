"""Models made smaller: blocks taken out, the rest saved as a stock checkpoint, and that proven."""

from layerscope.surgery.blocks import kept_blocks, refuse_surgery, remove_blocks, skipping
from layerscope.surgery.configs import kept_config

__all__ = ["kept_blocks", "kept_config", "refuse_surgery", "remove_blocks", "skipping"]
