"""Statistics on predictions alone: no torch, no Lightning, no MLflow.

Of arrays: `auroc_of`, `auroc_difference`, `calibration_of`, `pooled_auroc`, `agreement_of` and
`reader_study_of`. Of a table of predictions, a row an exam, model and label, as a launch leaves it:
`read_predictions` or `check_predictions`, and then `summarise`, `compare`, `calibration_table`,
`operating_points`, `pooled_aurocs`, `macro_summary` and `compare_macro`; of a regression's
`read_estimates` or `check_estimates`, `summarise_estimates` and `compare_errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.evaluation.agreement import compare_errors, summarise_estimates
    from experiments.evaluation.arrays import (
        Difference,
        agreement_of,
        auroc_difference,
        auroc_of,
        calibration_of,
        pooled_auroc,
        reader_study_of,
    )
    from experiments.evaluation.auroc import Estimate
    from experiments.evaluation.calibration import calibration_table
    from experiments.evaluation.comparison import compare
    from experiments.evaluation.estimates import check_estimates, read_estimates
    from experiments.evaluation.heterogeneity import Pooled, pool, pooled_aurocs
    from experiments.evaluation.macro import compare_macro, macro_summary
    from experiments.evaluation.operating import operating_points
    from experiments.evaluation.predictions import check_predictions, read_predictions
    from experiments.evaluation.reader_study import ReaderStudy
    from experiments.evaluation.summary import summarise

__all__ = [
    "Difference",
    "Estimate",
    "Pooled",
    "ReaderStudy",
    "agreement_of",
    "auroc_difference",
    "auroc_of",
    "calibration_of",
    "calibration_table",
    "check_estimates",
    "check_predictions",
    "compare",
    "compare_errors",
    "compare_macro",
    "macro_summary",
    "operating_points",
    "pool",
    "pooled_auroc",
    "pooled_aurocs",
    "read_estimates",
    "read_predictions",
    "reader_study_of",
    "summarise",
    "summarise_estimates",
]

# Looked up when asked for: a stage that needs one module passes through no other's code.
_MODULES = {
    "agreement": ("compare_errors", "summarise_estimates"),
    "auroc": ("Estimate",),
    "calibration": ("calibration_table",),
    "comparison": ("compare",),
    "estimates": ("check_estimates", "read_estimates"),
    "heterogeneity": ("Pooled", "pool", "pooled_aurocs"),
    "macro": ("compare_macro", "macro_summary"),
    "operating": ("operating_points",),
    "predictions": ("check_predictions", "read_predictions"),
    "reader_study": ("ReaderStudy",),
    "summary": ("summarise",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'arrays')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
