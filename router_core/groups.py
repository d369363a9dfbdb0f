"""Which queries are the same question: normalised text, hash keys, and near-duplicates.

Items of one group must never stand on both sides of a split, and count once in calib.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["hash_key", "is_template", "merge_near_duplicates", "normalise", "smallest_of_each", "unit_interval"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_COMMON_COUNT, _COMMON_SHARE = 5, 0.05


def normalise(text: str) -> str:
    """Text reduced to what makes it the same question: NFKC, lower case, non-alphanumerics to one space.

    Letters and digits are the ASCII ones, as in the published splits, unless these are less than half of the
    text's letters and digits: then all scripts count. A text with no letter and no digit is kept as it is, so
    that two different emoji are two different questions.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = text.lower()
    words = _ASCII_WORD.findall(text)
    if not text.isascii() and 2 * sum(map(len, words)) < sum(map(str.isalnum, text)):
        words = "".join(char if unicodedata.category(char)[0] in "LNM" else " " for char in text).split()
    return " ".join(words) or " ".join(text.split())


def hash_key(prompt: str) -> str:
    """Return the key that a query without a group column is split and grouped by.

    The normalised prompt; of a multiple-choice question that lists its options as ``A. ... B. ...`` and ends
    in ``Answer:``, the question without its options.
    """
    if prompt.rstrip().endswith("\nAnswer:") and prompt.count("\nAnswer:") == 1:
        start = prompt.find("\nA. ")
        if 0 < start < prompt.find("\nB. "):
            prompt = prompt[:start]
    return normalise(prompt)


def smallest_of_each(items: Iterable[tuple[K, str, T]]) -> dict[K, T]:
    """Of each cell the item whose id has the smallest SHA-256.

    Never chosen by outcome, and the same whatever else was taken out before.

    Parameters
    ----------
    items
        ``(cell, id, item)``, read once.
    """
    chosen: dict[K, tuple[bytes, T]] = {}
    for cell, name, item in items:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        if cell not in chosen or digest < chosen[cell][0]:
            chosen[cell] = digest, item
    return {cell: item for cell, (_, item) in chosen.items()}


def unit_interval(salt: str, key: str) -> float:
    """Map `salt` and `key` to [0, 1): the first 48 bits of the SHA-256 of ``salt|key``, over 2**48."""
    digest = hashlib.sha256(f"{salt}|{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def is_template(often: npt.NDArray[np.integer], prompts: int) -> npt.NDArray[np.bool_]:
    """Whether 3-grams found in `often` of a task's train prompts, so many in all, are its template."""
    return np.asarray(often > max(_COMMON_COUNT, _COMMON_SHARE * prompts))


def merge_near_duplicates(
    prompts: Sequence[str], keys: Sequence[str], tasks: Sequence[str], train: npt.NDArray[np.bool_]
) -> list[str]:
    """Group names: equal keys are one group, and so are prompts with a Jaccard similarity of .9 or more.

    Similarity is over sets of word 3-grams without those found in more than max(5, 5 %) of the task's train
    prompts: a template shared by many prompts does not make them alike. A prompt with no 3-gram left has only
    its key. Similarity is exact (prefix and position filters rule out pairs, nothing is sampled) and merging
    is transitive.

    Parameters
    ----------
    prompts, keys, tasks
        One entry per query.
    train
        Which queries are train, shape [n].

    Returns
    -------
    list of str
        Per query the smallest key of its group.
    """
    forest = _Forest(len(keys))
    seen: dict[str, int] = {}
    for i, key in enumerate(keys):
        forest.join(i, seen.setdefault(key, i))
    sets = _rare_grams([normalise(prompt).split() for prompt in prompts], tasks, train)
    same: dict[bytes, int] = {}
    for i, grams in enumerate(sets):
        if grams.size:
            forest.join(i, same.setdefault(grams.tobytes(), i))
    distinct = sorted(same.values(), key=lambda i: (sets[i].size, i))
    _join_similar(distinct, sets, forest)
    names: dict[int, str] = {}
    roots = [forest.root(i) for i in range(len(keys))]
    for root, key in zip(roots, keys, strict=True):
        names[root] = min(names.get(root, key), key)
    return [names[root] for root in roots]


class _Forest:
    """Union-find over 0 .. n-1."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        self._parent[self.root(i)] = self.root(j)


def _rare_grams(
    texts: list[list[str]], tasks: Sequence[str], train: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.int64]]:
    """Per text its distinct 3-grams that are not template, as sorted numbers, rare ones first."""
    vocabulary: dict[str, int] = {}
    ids = np.array([vocabulary.setdefault(word, len(vocabulary)) for words in texts for word in words], dtype=np.int64)
    owner = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    if ids.size < 3:
        return [np.empty(0, dtype=np.int64)] * len(texts)
    # Numbering pairs first keeps the products far below 2**63 whatever the vocabulary.
    pairs = np.unique(ids[:-1] * len(vocabulary) + ids[1:], return_inverse=True)[1]
    grams = np.unique(pairs[:-1] * len(vocabulary) + ids[2:], return_inverse=True)[1]
    count = int(grams.max()) + 1
    held = np.unique((owner[:-2] * count + grams)[owner[:-2] == owner[2:]])
    owner, grams = held // count, held % count
    task_codes = np.unique(np.asarray(tasks), return_inverse=True)[1]
    keep = np.ones(len(held), dtype=bool)
    for task in range(int(task_codes.max()) + 1):
        trained = (task_codes == task) & train
        often = np.bincount(grams[trained[owner]], minlength=count)
        keep &= ~((task_codes[owner] == task) & is_template(often, int(trained.sum()))[grams])
    owner, grams = owner[keep], grams[keep]
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(np.bincount(grams, minlength=count), kind="stable")] = np.arange(count)
    grams = rank[grams]
    order = np.lexsort((grams, owner))
    return np.split(grams[order], np.searchsorted(owner, np.arange(1, len(texts))))


def _join_similar(order: list[int], sets: list[npt.NDArray[np.int64]], forest: _Forest) -> None:
    """Join all pairs with Jaccard >= 9/10; `order` lists distinct sets by rising size.

    Two such sets share one of their first ``size - ceil(.9 size) + 1`` 3-grams, rarest first, and the first
    one they share must leave enough behind it in both (Xiao et al., PPJoin, WWW 2008).
    """
    if len(order) < 2:
        return
    sizes = np.array([sets[i].size for i in order], dtype=np.int64)
    heads = sizes - (9 * sizes + 9) // 10 + 1
    holder = np.repeat(np.arange(len(order)), heads)
    place = np.concatenate([np.arange(head) for head in heads])
    gram = np.concatenate([sets[i][:head] for i, head in zip(order, heads, strict=True)])
    by_gram = np.lexsort((holder, gram))
    listed = holder[by_gram]
    listed_place = place[by_gram]
    position = np.empty(len(gram), dtype=np.int64)
    position[by_gram] = np.arange(len(gram))
    # Where the run of equal 3-grams begins: entries before one's own in it are shorter sets that share the
    # 3-gram.
    starts = np.searchsorted(gram[by_gram], gram)
    smallest = np.searchsorted(sizes * 10, sizes * 9)
    bounds = np.concatenate([[0], np.cumsum(heads)])
    contents: dict[int, frozenset[int]] = {}

    def content(i: int) -> frozenset[int]:
        if i not in contents:
            contents[i] = frozenset(sets[i].tolist())
        return contents[i]

    for a in range(len(order)):
        entries = range(int(bounds[a]), int(bounds[a + 1]))
        runs = [(starts[e], position[e]) for e in entries if position[e] > starts[e]]
        if not runs:
            continue
        others = np.concatenate([listed[start:end] for start, end in runs])
        theirs = np.concatenate([listed_place[start:end] for start, end in runs])
        mine = np.concatenate([np.full(position[e] - starts[e], e - bounds[a]) for e in entries])
        found, first = np.unique(others, return_index=True)
        behind = np.minimum(sizes[a] - mine[first], sizes[found] - theirs[first])
        enough = (found >= smallest[a]) & (19 * behind >= 9 * (sizes[a] + sizes[found]))
        for b in found[enough].tolist():
            i, j = order[a], order[b]
            if forest.root(i) == forest.root(j):
                continue
            shared = len(content(i) & content(j))
            if 10 * shared >= 9 * (sets[i].size + sets[j].size - shared):
                forest.join(i, j)
