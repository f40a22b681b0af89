"""Run directories: written whole or not at all, read only if every byte is as it was written."""

from serket.store.events import Events
from serket.store.partial import Partial, fingerprint
from serket.store.run import StoredRun, claim, read_run, update_file, write_run

__all__ = ["Events", "Partial", "StoredRun", "claim", "fingerprint", "read_run", "update_file", "write_run"]
