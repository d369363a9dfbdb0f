"""A routing model as LangChain's JSON: the folder of its bundle, its tiers, its parameters, and no secret.

Secrets that a tier declares (`lc_secrets`) are replaced by their names, as LangChain does. Fields that are named
like secrets or headers without being declared are left out.

Many providers' models cannot be pickled, since they hold open clients. In a pickle such a tier is its own JSON, from
which it is made anew with the keys of the environment (`frozen`).
"""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.load.dump import dumpd
from langchain_core.load.serializable import Serializable, SerializedConstructor, SerializedNotImplemented
from pydantic import SecretStr

__all__ = ["Frozen", "as_json", "frozen"]

_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|authorization|credentials?|headers?|cookies?)s?$", re.I)


class _Clean(Serializable):
    """Serialises as another object does, without fields that look like secrets."""

    inner: Serializable

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It stands for objects that are."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Secrets of the object it stands for."""
        told = self.inner.to_json().get("kwargs", {})
        names = {name: value for name, value in told.items() if isinstance(value, dict)}  # type: ignore[attr-defined]
        secret = {name for name in names if isinstance(getattr(self.inner, name, None), SecretStr)}
        return {name: value["id"][0] for name, value in names.items() if name in secret and value.get("id")}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """The other object's own JSON, cleaned."""
        told = self.inner.to_json()
        if told["type"] != "constructor":
            return told
        declared = self.lc_secrets
        kept = {
            name: _clean(value) for name, value in told["kwargs"].items() if name in declared or not _tells(name, value)
        }
        return {**told, "kwargs": kept}


def _tells(name: str, value: Any) -> bool:
    """Whether a field may hold a secret: by its name, and text or a mapping by its value."""
    return isinstance(value, SecretStr) or (isinstance(value, str | Mapping) and bool(_SECRET.search(name)))


def _clean(value: Any) -> Any:
    if isinstance(value, Serializable):
        return _Clean(inner=value)
    if isinstance(value, Mapping):
        if value.get("type") == "secret" and value.get("lc") == 1:
            return value
        return {name: _clean(item) for name, item in value.items() if not _tells(str(name), item)}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def as_json(
    model: Serializable, bundle: str | None, bundle_id: str | None, tiers: Mapping[str, Any], params: Mapping[str, Any]
) -> SerializedConstructor | SerializedNotImplemented:
    """JSON from which ``langchain_core.load.load`` makes the model again, or a sentence on why none can.

    Parameters
    ----------
    model
        The routing model.
    bundle
        Folder its router was loaded from, None when it was made in memory.
    bundle_id
        Id of the bundle, compared when it is loaded again; None for any.
    tiers
        Its tiers.
    params
        Its other parameters.
    """
    clean = {name: _clean(tier) for name, tier in tiers.items()}
    unable = [name for name, tier in clean.items() if "not_implemented" in _kinds(dumpd(tier))]
    if bundle is None or unable:
        why = f"tier {unable[0]} cannot be serialised" if unable else "its router was not loaded from a folder"
        told = model.to_json_not_implemented()
        return {**told, "repr": f"{model!r}: {why}"}
    given = {"bundle": bundle, "bundle_id": bundle_id, "tiers": clean, **params}
    return {"lc": 1, "type": "constructor", "id": type(model).lc_id(), "kwargs": given}


def _kinds(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        own = {str(value["type"])} if value.get("lc") == 1 and "type" in value else set()
        return own.union(*(_kinds(item) for item in value.values()))
    return set().union(*(_kinds(item) for item in value)) if isinstance(value, list) else set()


class Frozen:
    """A tier in a pickle: its JSON, and the classes it is made of."""

    def __init__(self, told: Mapping[str, Any], kinds: tuple[type[Serializable], ...]) -> None:
        self.told = told
        self.kinds = kinds

    def thawed(self) -> Any:
        """Make the tier anew; secrets come from the environment."""
        from langchain_core._api import suppress_langchain_beta_warning
        from langchain_core.load import load

        places = [kind.lc_id()[0] for kind in self.kinds]
        with suppress_langchain_beta_warning():
            return load(self.told, allowed_objects=list(self.kinds), valid_namespaces=places, secrets_from_env=True)


def frozen(tier: Any) -> Any:
    """A tier as it goes into a pickle: itself where it can be pickled, else `Frozen`.

    Raises
    ------
    TypeError
        When it can be neither pickled nor serialised.
    """
    try:
        # Copying asks of every part what a pickle asks of it.
        copy.deepcopy(tier)
    except TypeError:
        told = dumpd(tier)
        if "not_implemented" in _kinds(told):
            raise
        return Frozen(told, tuple(dict.fromkeys(_classes(tier))))
    return tier


def _classes(value: Any) -> Iterator[type[Serializable]]:
    if isinstance(value, Serializable):
        yield type(value)
        for name in type(value).model_fields:
            yield from _classes(getattr(value, name, None))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _classes(item)
