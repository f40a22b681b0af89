"""Data sets: arrays by key with rows aligned, what of them is observed, and where they come from."""

from serket.data.dataset import Dataset
from serket.data.generate import GENERATED
from serket.data.hashing import content_hash
from serket.data.load import load
from serket.data.scarce import few_pairs, missing_at_random
from serket.data.source import EMBEDDED, IMAGES
from serket.data.splits import another_split

__all__ = [
    "EMBEDDED",
    "GENERATED",
    "IMAGES",
    "Dataset",
    "another_split",
    "content_hash",
    "few_pairs",
    "load",
    "missing_at_random",
]
