"""The transformer router: a sentence encoder with heads, trained on quality and preferences, exported to ONNX."""

from router_core.errors import MissingExtraError

try:
    from exporters.transformer.options import TransformerOptions
    from exporters.transformer.preferences import Preference, read_preferences
    from exporters.transformer.trainer import TransformerTrainer
except ModuleNotFoundError as error:
    raise MissingExtraError("train", f"train the transformer router ({error.name} is not installed)") from error

__all__ = ["Preference", "TransformerOptions", "TransformerTrainer", "read_preferences"]
