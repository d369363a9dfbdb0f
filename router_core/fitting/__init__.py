"""Everything fitted offline without torch: encoder, evidence models, paths, rivals, `fit()` and `calibrate()`."""

from router_core.fitting.calibrate import calibrate
from router_core.fitting.fit import FitSettings, fit

__all__ = ["FitSettings", "calibrate", "fit"]
