"""The reference population of METHOD.md, Part 3, which the package keeps for its notebook on the guarantee."""

from routenlp_integrations.notebook.population import REFERENCE, Population, path_bad_counts

__all__ = ["REFERENCE", "Population", "path_bad_counts"]
