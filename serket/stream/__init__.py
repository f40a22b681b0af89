"""Time: clocks, synchronisation, staleness, late data; sources and sinks."""
