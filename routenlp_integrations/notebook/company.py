"""Brenholt Instruments, a company that does not exist: forty short documents, and questions whose answers they hold."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

__all__ = ["KINDS", "QUESTIONS", "Question", "contains", "documents"]

KINDS = ("instruments", "offices", "people")
"""Kinds of documents."""


@dataclass(frozen=True)
class Question:
    """One question, the words an answer must contain, the document that holds them, and the kind of document."""

    text: str
    gold: str
    document: str
    fact: str
    kind: str

    @property
    def held_out(self) -> bool:
        """Whether the fact, in both wordings, is kept for the end: a fixed fifth, as records do for test."""
        return int(sha256(self.fact.encode()).hexdigest(), 16) % 5 == 0


_PRODUCTS = (
    # name, kind, year, designer, grams, hours, colour, euros, warranty, coldest, store
    ("Aldervane", "wind meter", 2011, "Ingrid Solberg", 310, 42, "moss green", 189, "two", 20, "beech"),
    ("Birkhall", "rain gauge", 2009, "Tomas Reuter", 960, 900, "slate grey", 129, "five", 15, "oak"),
    ("Corvella", "pocket barometer", 2016, "Ingrid Solberg", 140, 75, "copper", 210, "three", 10, "leather"),
    ("Drumlin", "soil probe", 2014, "Nadia Ferrand", 520, 130, "ochre", 265, "four", 5, "canvas"),
    ("Eskerin", "snow depth rod", 2019, "Pavel Hruby", 1480, 310, "signal orange", 540, "six", 45, "steel"),
    ("Fennward", "water level logger", 2018, "Nadia Ferrand", 870, 2100, "navy blue", 620, "five", 12, "cork"),
    ("Garrowby", "thermometer", 2005, "Tomas Reuter", 95, 400, "ivory", 58, "two", 30, "felt"),
    ("Hollin", "hygrometer", 2007, "Tomas Reuter", 115, 380, "charcoal", 74, "two", 25, "linen"),
    ("Iskander", "sunshine recorder", 2021, "Maud Okafor", 2250, 160, "brass yellow", 1340, "seven", 8, "walnut"),
    ("Jorvane", "lightning detector", 2022, "Maud Okafor", 430, 58, "crimson", 415, "three", 18, "nylon"),
    ("Kestwick", "air quality monitor", 2020, "Pavel Hruby", 680, 36, "pearl white", 699, "four", 6, "foam"),
    ("Larkmoor", "noise meter", 2017, "Ingrid Solberg", 290, 27, "graphite", 245, "three", 9, "rubber"),
    ("Merrowdale", "tide clock", 2013, "Nadia Ferrand", 1120, 5000, "sea green", 330, "ten", 3, "teak"),
    ("Norrland", "ice thickness radar", 2023, "Pavel Hruby", 3900, 19, "pale yellow", 4800, "eight", 50, "aluminium"),
    ("Orrest", "cloud camera", 2022, "Maud Okafor", 1750, 24, "matt black", 1590, "four", 22, "carbon"),
    ("Pendlebury", "weather balloon", 2010, "Tomas Reuter", 1900, 6, "transparent", 85, "one", 60, "paper"),
    ("Quernmore", "dust counter", 2015, "Maud Okafor", 750, 48, "sand", 880, "three", 7, "bamboo"),
    ("Ravensby", "river flow sensor", 2018, "Nadia Ferrand", 2400, 720, "olive", 1120, "six", 11, "pine"),
    ("Stavely", "frost alarm", 2006, "Ingrid Solberg", 180, 1500, "ice blue", 49, "two", 35, "wool"),
    ("Thornwick", "pollen trap", 2012, "Maud Okafor", 1330, 190, "lilac", 460, "five", 4, "glass"),
    ("Ullesk", "avalanche beacon", 2024, "Pavel Hruby", 220, 300, "fluorescent pink", 375, "nine", 40, "kevlar"),
    ("Vindmere", "glider computer", 2021, "Ingrid Solberg", 350, 14, "silver", 930, "three", 28, "suede"),
    ("Wetherlam", "weather station", 2016, "Tomas Reuter", 5200, 8760, "cream", 1999, "twelve", 33, "birch"),
    ("Yarrowby", "fog sensor", 2023, "Nadia Ferrand", 1010, 110, "plum", 1240, "four", 16, "maple"),
)
_OFFICES = (
    # city, street, opened, staff, head, speciality
    ("Tromsdal", "Kaigata 14", 1998, 64, "Berit Aune", "cold chamber tests"),
    ("Ostrheim", "Lindenhof 3", 2002, 118, "Jonas Keil", "final assembly"),
    ("Vallemar", "Rua do Farol 27", 2008, 35, "Teresa Pinho", "sea trials"),
    ("Caermoor", "Quarry Lane 8", 2012, 52, "Owen Price", "repairs"),
    ("Sankt Alban", "Seilergasse 41", 1994, 210, "Greta Wyss", "research"),
    ("Port Ellery", "Harbour Walk 5", 2015, 23, "Moira Tait", "calibration"),
    ("Lumiere-sur-Orb", "Allee des Tilleuls 19", 2019, 17, "Hugo Bastide", "customer training"),
    ("Novogavan", "Mayak Street 62", 2021, 41, "Irina Lisova", "spare parts"),
)
_PEOPLE = (
    # name, role, joined, studied, hobby
    ("Ingrid Solberg", "head of design", 2003, "meteorology", "rowing"),
    ("Tomas Reuter", "senior engineer", 1996, "precision mechanics", "beekeeping"),
    ("Nadia Ferrand", "hydrologist", 2010, "hydrology", "fencing"),
    ("Pavel Hruby", "polar engineer", 2014, "geophysics", "ice climbing"),
    ("Maud Okafor", "optics lead", 2009, "physics", "pottery"),
    ("Selma Brandt", "chief executive", 2001, "economics", "choir singing"),
    ("Ruben Castell", "sales director", 2017, "linguistics", "chess"),
    ("Yuki Tanabe", "quality manager", 2012, "chemistry", "calligraphy"),
)
_PRODUCT_TEXTS = (
    "The {name} is a {kind} from Brenholt Instruments. It was introduced in {year} and designed by {designer}. The "
    "{name} weighs {grams} grams and runs for {hours} hours on one charge. Its case is {colour}. The list price is "
    "{euros} euros and includes a warranty of {warranty} years. It keeps working down to minus {coldest} degrees. It "
    "is delivered in a {store} box.",
    "Brenholt has built the {name}, a {kind}, since {year}. {designer} drew it. In the hand it comes to {grams} grams; "
    "the battery lasts {hours} hours. Buyers pay {euros} euros and are covered for {warranty} years. The {name} comes "
    "in {colour} only. Cold does not trouble it above minus {coldest} degrees. The box that comes with it is {store}.",
    "A {kind} by {designer}: the {name} went on sale in {year} at {euros} euros. {warranty} years of warranty come "
    "with it, and so does a {store} box. Weight: {grams} grams. Battery: {hours} hours. Colour: {colour}. Lowest "
    "temperature: minus {coldest} degrees.",
)
_PRODUCT_ASKED = {
    "year": ("In which year was the {name} introduced?", "When did the {name} come out?"),
    "designer": ("Who designed the {name}?", "Whose drawing board did the {name} come from?"),
    "grams": ("How many grams does the {name} weigh?", "How heavy is the {name}?"),
    "hours": ("For how many hours does the {name} run on its battery?", "How long can I leave the {name} unplugged?"),
    "colour": ("What colour is the {name}?", "How is the {name} painted?"),
    "euros": ("What is the list price of the {name} in euros?", "How much money do I need for the {name}?"),
    "warranty": ("How many years of warranty does the {name} have?", "How long is the {name} guaranteed?"),
    "coldest": ("Down to which temperature does the {name} work?", "How much frost does the {name} stand?"),
    "store": ("In which box is the {name} delivered?", "What is the {name} packed in?"),
}  # fmt: skip
_OFFICE_TEXT = (
    "Brenholt's office in {city} opened in {opened} at {street}. It employs {staff} people and does {speciality}. "
    "{head} runs it."
)
_OFFICE_ASKED = {
    "street": ("At which street is the office in {city}?", "Where do I send a letter to {city}?"),
    "opened": ("In which year did the office in {city} open?", "Since when has Brenholt been in {city}?"),
    "staff": ("How many people does the office in {city} employ?", "How large is the team in {city}?"),
    "head": ("Who runs the office in {city}?", "Who is the boss in {city}?"),
    "speciality": ("What does the office in {city} do?", "What is {city} responsible for?"),
}  # fmt: skip
_PERSON_TEXT = (
    "{name} is {role} at Brenholt Instruments. {name} joined in {joined} after studying {studied}, and spends free "
    "evenings on {hobby}."
)
_PERSON_ASKED = {
    "role": ("What is {name} at Brenholt?", "Which position does {name} hold?"),
    "joined": ("In which year did {name} join?", "How long has {name} been with the company?"),
    "studied": ("What did {name} study?", "What is the academic background of {name}?"),
    "hobby": ("On what does {name} spend free evenings?", "What does {name} do after work?"),
}  # fmt: skip


def _values(fields: str, row: tuple[Any, ...]) -> dict[str, str]:
    return {field: str(value) for field, value in zip(fields.split(), row, strict=True)}


_KINDS = (
    (
        "name kind year designer grams hours colour euros warranty coldest store",
        _PRODUCTS,
        _PRODUCT_TEXTS,
        _PRODUCT_ASKED,
    ),
    ("city street opened staff head speciality", _OFFICES, (_OFFICE_TEXT,), _OFFICE_ASKED),
    ("name role joined studied hobby", _PEOPLE, (_PERSON_TEXT,), _PERSON_ASKED),
)


def documents(*kinds: str) -> dict[str, str]:
    """The documents of these kinds, or of all, by title."""
    found = {}
    for kind, (fields, rows, texts, _) in zip(KINDS, _KINDS, strict=True):
        if kinds and kind not in kinds:
            continue
        for number, row in enumerate(rows):
            found[str(row[0]) if len(texts) > 1 else f"{row[0]} ({fields.split()[0]})"] = texts[
                number % len(texts)
            ].format(**_values(fields, row))
    return found


def _questions() -> list[Question]:
    found = []
    titles = iter(documents())
    for kind, (fields, rows, _, asked) in zip(KINDS, _KINDS, strict=True):
        for row in rows:
            title, values = next(titles), _values(fields, row)
            for (fact, wordings), which in product(asked.items(), (0, 1)):
                found.append(Question(wordings[which].format(**values), values[fact], title, f"{title}: {fact}", kind))
    return found


QUESTIONS = _questions()
"""Two wordings for every fact: one in the words of the documents, and one in other words."""


def contains(answer: str, gold: str) -> float:
    """1.0 when the gold words stand in the answer."""
    return float(gold.casefold() in answer.casefold())
