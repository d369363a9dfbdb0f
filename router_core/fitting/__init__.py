"""Everything fitted offline without torch: encoder, evidence models, paths, rivals, `fit()` and `calibrate()`."""

from router_core.fitting.calibrate_bundle import calibrate, certify_bundle
from router_core.fitting.fit_bundle import FitSettings, fit

__all__ = ["FitSettings", "calibrate", "certify_bundle", "fit"]
