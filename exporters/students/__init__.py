"""The distillation trainer: a teacher's answers in, a cheap tier's checkpoint out."""

from router_core.errors import MissingExtraError

try:
    from exporters.students.data import Pair
    from exporters.students.distilling import KINDS, distil
    from exporters.students.encoder import train_encoder
    from exporters.students.options import EncoderOptions, GenerativeOptions, HeadOptions
    from exporters.students.reading import PairFile, pairs_from_records, read_pairs, within_budget
    from exporters.students.teacher import Lesson, Question, Taught, teach
except ModuleNotFoundError as error:
    raise MissingExtraError("train", f"distil a student ({error.name} is not installed)") from error

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
