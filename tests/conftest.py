"""Shared settings: one thread (bits are promised for one), no deadlines, the same examples every run."""

import os

import torch
from hypothesis import settings

os.environ["SERKET_CACHE"] = "off"  # no test finds what another embedded
torch.set_num_threads(1)
settings.register_profile("serket", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("serket")
