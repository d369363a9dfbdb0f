"""The `keyword` tier: word lists and patterns written by hand, nothing learned.

The lists were written once, before any query was answered, and not changed after seeing a score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from items import normalise, split_question

__all__ = ["answer", "list_hits"]

_LISTS: Mapping[str, Mapping[str, str]] = {
    "intent": {
        "delivery": "deliver delivery delivered parcel package courier shipping ship shipment tracking arrive "
        "carrier depot driver dispatch customs",
        "refund": "refund return returned returns exchange money back repay repaid repayment reimburse swap",
        "billing": "bill billed invoice charge charged payment pay paid receipt debit tax vat fee price voucher "
        "discount instalments",
        "login": "login log password account sign code profile username locked verification reset pin access",
        "cancel": "cancel cancelled subscription membership terminate contract renewal plan stop unsubscribe "
        "withdraw renew quit",
        "damage": "broken broke damaged cracked missing wrong faulty scratch defective leaked torn stopped working "
        "shattered stain",
        "product": "size model battery waterproof fit material colour measurements recommend stock difference "
        "heavy available version",
        "store": "shop store branch open opening close hours parking address showroom location near sundays",
    },
    "sentiment": {
        "positive": "best great love loved lovely perfect excellent amazing wonderful superb fantastic happy "
        "recommend nice friendly beautiful brilliant delicious delight pleasure worth kind gorgeous glad comfy",
        "negative": "worst bad broke broken rude terrible awful never waste disappointed cold dirty poor useless "
        "late nobody stopped slow cheap dull boring hard wrong not ruined nothing",
        "neutral": "",
    },
}
_DEFAULT = {"intent": "product", "sentiment": "neutral"}

_NUMBER = (
    r"(?:\d[\d.,:]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|sixteen|twenty|"
    r"thirty|forty|fifty|sixty|seventy|eighty|ninety)"
)
_DAY = (
    r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?|(?:\d+ )?(?:January|February|March|April|May|June|July|"
    r"August|September|October|November|December)|\d{1,2}:\d\d|noon|midnight|[12]\d{3})"
)
_COLOURS = "red|blue|green|yellow|orange|purple|brown|black|white|grey|pink|silver|gold"
_PATTERNS = (
    (r"^how (?:many|old)", rf"\b{_NUMBER}\b"),
    (r"^how often", r"\b(?:every \w+(?: \w+)?|once \w+ \w+|twice(?: \w+){0,2})"),
    (r"^how (?:much|long|far|high|heavy|deep|wide|tall)", rf"\b{_NUMBER} \w+"),
    (r"^how", r"\b(?:by|on|with|through) [^.,]+"),
    (r"^(?:when|since when|until when)", _DAY),
    (r"^where", r"\b(?:in|at|on|from|near|under|above|to) [^.,]+"),
    (r"^why", r"(?<=because )[^.,]+|\bto [^.,]+|(?<=for )[^.,]+|(?<=owing to )[^.,]+"),
    (r"colour", rf"\b(?:{_COLOURS})\b"),
    (r"^(?:who|with whom)", r"(?<!^)(?:M[rs]+ |Aunt |Dr )?[A-Z]\w+|^(?!The |A |An |On |In |At )[A-Z]\w+|^The \w+"),
    (r"", r"\b(?:an?|the|his|her) \w+(?= *[.,]|$)|(?<=with |from )\w+|\w+(?=\.?$)"),
)


def answer(task: str, prompt: str) -> str:
    """Answer one query; a rule that finds nothing gives the task's default."""
    return _span(prompt) if task == "extract" else _label(task, prompt)


def list_hits(task: str, prompt: str) -> list[int]:
    """How many words of the prompt are on each label's list, in the order of the lists."""
    words = normalise(prompt).split()
    return [sum(word in listed.split() for word in words) for listed in _LISTS[task].values()]


def _label(task: str, prompt: str) -> str:
    hits = dict(zip(_LISTS[task], list_hits(task, prompt), strict=True))
    best = max(hits, key=lambda label: hits[label])
    return best if hits[best] else _DEFAULT[task]


def _span(prompt: str) -> str:
    context, question = split_question(prompt)
    asked = set(normalise(question).split())
    for asks, wanted in _PATTERNS:
        if not re.search(asks, question.lower()):
            continue
        for match in re.finditer(wanted, context):
            if not set(normalise(match.group()).split()) <= asked:
                return match.group().rstrip(".,")
    return context.split()[-1].rstrip(".")
