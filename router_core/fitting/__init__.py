"""Everything fitted offline without torch: encoder, evidence models, paths, rivals, and `fit()` itself."""

from router_core.fitting.fit import FitSettings, fit

__all__ = ["FitSettings", "fit"]
