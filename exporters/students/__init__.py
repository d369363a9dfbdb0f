"""The distillation trainer: a teacher's answers in, a cheap tier's checkpoint out."""

from router_core.errors import MissingExtraError

try:
    from exporters.students.data import Pair
    from exporters.students.encoder import train_encoder
    from exporters.students.options import EncoderOptions, GenerativeOptions, HeadOptions
except ModuleNotFoundError as error:
    raise MissingExtraError("train", f"distil a student ({error.name} is not installed)") from error

__all__ = ["EncoderOptions", "GenerativeOptions", "HeadOptions", "Pair", "train_encoder"]
