"""Scans inside of other programs: while a model trains, with the transformers Trainer or any loop."""

from layerscope.studies.live import log_entries, scan_live
from layerscope.studies.trainer import ScanCallback

__all__ = ["ScanCallback", "log_entries", "scan_live"]
