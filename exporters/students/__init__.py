"""The distillation trainer: a teacher's answers in, a cheap tier's checkpoint out.

Names are imported when they are first asked for: pairs, options and the teacher need no torch, the training does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from router_core.errors import MissingExtraError

if TYPE_CHECKING:
    from exporters.students.data import Pair
    from exporters.students.distilling import KINDS, distil
    from exporters.students.encoder import train_encoder
    from exporters.students.options import EncoderOptions, GenerativeOptions, HeadOptions
    from exporters.students.reading import PairFile, pairs_from_records, read_pairs, within_budget
    from exporters.students.teacher import Lesson, Question, Taught, teach

__all__ = [
    "KINDS",
    "EncoderOptions",
    "GenerativeOptions",
    "HeadOptions",
    "Lesson",
    "Pair",
    "PairFile",
    "Question",
    "Taught",
    "distil",
    "pairs_from_records",
    "read_pairs",
    "teach",
    "train_encoder",
    "within_budget",
]

_ROOMS: Final = {
    "Pair": "data",
    "train_encoder": "encoder",
    **dict.fromkeys(("KINDS", "distil"), "distilling"),
    **dict.fromkeys(("EncoderOptions", "GenerativeOptions", "HeadOptions"), "options"),
    **dict.fromkeys(("PairFile", "pairs_from_records", "read_pairs", "within_budget"), "reading"),
    **dict.fromkeys(("Lesson", "Question", "Taught", "teach"), "teacher"),
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(name)
    try:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", f"distil a student ({error.name} is not installed)") from error
