"""Time: clocks, synchronisation, staleness, late data; sources and sinks."""

from serket.stream.observation import Observation
from serket.stream.output import Output
from serket.stream.pipeline import Pipeline
from serket.stream.session import measured, open_stream
from serket.stream.sources import from_arrays

__all__ = ["Observation", "Output", "Pipeline", "from_arrays", "measured", "open_stream"]
