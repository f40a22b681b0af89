"""Run directories: written whole or not at all, read only if every byte is as it was written."""

from serket.store.events import Events, events_of
from serket.store.partial import Partial, fingerprint
from serket.store.run import StoredRun, claim, read_run, state_hash, update_file, write_run

__all__ = [
    "Events",
    "Partial",
    "StoredRun",
    "claim",
    "events_of",
    "fingerprint",
    "read_run",
    "state_hash",
    "update_file",
    "write_run",
]
