"""Raw data through frozen modules: each row is embedded once, block by block, and kept."""

from serket.embedding.blocks import embedded, filled
from serket.embedding.cache import Cache, cache_folder, session

__all__ = ["Cache", "cache_folder", "embedded", "filled", "session"]
