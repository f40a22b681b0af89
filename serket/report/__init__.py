"""What a run was worth: measures, tables, pictures."""

from serket.report.metrics import concept_ari, joined, probe, probe_accuracy, subsets
from serket.report.pictures import imagined_grid, subset_accuracy
from serket.report.table import print_metrics, tables

__all__ = [
    "concept_ari",
    "imagined_grid",
    "joined",
    "print_metrics",
    "probe",
    "probe_accuracy",
    "subset_accuracy",
    "subsets",
    "tables",
]
