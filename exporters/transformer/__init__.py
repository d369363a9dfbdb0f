"""The transformer router: a sentence encoder with heads, trained on quality and preferences, exported to ONNX.

Names are imported when they are first asked for: where weights come from can be said without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from router_core.errors import MissingExtraError

if TYPE_CHECKING:
    from exporters.transformer.options import TransformerOptions
    from exporters.transformer.preferences import Preference, read_preferences
    from exporters.transformer.trainer import TransformerTrainer

__all__ = ["Preference", "TransformerOptions", "TransformerTrainer", "read_preferences"]

_ROOMS: Final = {
    "Preference": "preferences",
    "TransformerOptions": "options",
    "TransformerTrainer": "trainer",
    "read_preferences": "preferences",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(name)
    try:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", f"train the transformer router ({error.name} is not installed)") from error
