"""The words of the starter world: people, things, places, and how they agree with each other.

Names are split three ways so that a test row never shows a name that a training row showed; the pre-training corpus
uses all of them, because a model cannot read a name it has never met.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

GIRLS = [
    "Ada",
    "Bea",
    "Cora",
    "Dina",
    "Ella",
    "Faye",
    "Gina",
    "Hana",
    "Iris",
    "Jana",
    "Kira",
    "Lena",
    "Mia",
    "Nora",
    "Olga",
    "Petra",
    "Rosa",
    "Sara",
    "Tina",
    "Uma",
    "Vera",
    "Wanda",
    "Yara",
    "Zoe",
    "Anna",
    "Clara",
    "Emma",
    "Greta",
    "Ida",
    "Lucy",
]
BOYS = [
    "Adam",
    "Ben",
    "Carl",
    "Dan",
    "Eli",
    "Finn",
    "Gus",
    "Hugo",
    "Ivan",
    "Jack",
    "Karl",
    "Leo",
    "Max",
    "Noah",
    "Omar",
    "Paul",
    "Ravi",
    "Sam",
    "Tom",
    "Uri",
    "Vito",
    "Will",
    "Yan",
    "Zack",
    "Alex",
    "Colin",
    "Emil",
    "Greg",
    "Igor",
    "Luke",
]
TEST_NAMES = frozenset(GIRLS[::3] + BOYS[::3])
"""A third of the names: they stand in test rows only (and in the pre-training corpus)."""

THINGS = [
    "apple",
    "pear",
    "peach",
    "lemon",
    "plum",
    "melon",
    "pencil",
    "book",
    "stamp",
    "marble",
    "sticker",
    "coin",
    "egg",
    "cookie",
    "shell",
    "card",
    "bead",
    "button",
    "balloon",
    "candle",
    "ticket",
    "flower",
    "stone",
    "toy",
    "ring",
    "cup",
    "plate",
    "spoon",
    "hat",
    "sock",
    "photo",
    "nail",
    "brick",
    "leaf",
    "nut",
    "cake",
    "roll",
    "carrot",
    "onion",
    "potato",
]
COUNTABLE_IN_CONTAINERS = [
    "apple",
    "pear",
    "lemon",
    "plum",
    "pencil",
    "stamp",
    "marble",
    "sticker",
    "coin",
    "egg",
    "cookie",
    "shell",
    "card",
    "bead",
    "button",
    "candle",
    "nut",
    "roll",
    "nail",
    "stone",
    "carrot",
    "onion",
]
CONTAINERS = ["box", "bag", "basket", "jar", "tray", "drawer", "packet", "crate", "tin", "bucket"]
PLACES = [
    "market",
    "school",
    "park",
    "beach",
    "shop",
    "library",
    "garden",
    "farm",
    "station",
    "museum",
    "kitchen",
    "garage",
    "harbour",
    "forest",
]
ANIMALS = [
    "dog",
    "cat",
    "horse",
    "cow",
    "goat",
    "duck",
    "hen",
    "sheep",
    "rabbit",
    "bird",
    "fish",
    "frog",
    "mouse",
    "fox",
    "bear",
]
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "orange"]
ADJECTIVES = [
    "old",
    "new",
    "small",
    "big",
    "long",
    "short",
    "warm",
    "cold",
    "clean",
    "heavy",
    "light",
    "quiet",
    "bright",
    "round",
    "soft",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WEATHER = ["it rains", "the sun shines", "it is cold", "the wind blows", "it snows", "it is warm", "the sky is grey"]
PRODUCTS = [
    "lamp",
    "chair",
    "table",
    "radio",
    "kettle",
    "clock",
    "bicycle",
    "camera",
    "printer",
    "jacket",
    "tent",
    "mirror",
    "phone",
    "watch",
    "fan",
    "heater",
]

IRREGULAR = {"leaf": "leaves", "mouse": "mice", "fish": "fish", "sheep": "sheep", "potato": "potatoes"}


def plural(noun: str) -> str:
    """`noun` in the plural: "box" -> "boxes", "leaf" -> "leaves"."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    return noun + "es" if noun.endswith(("s", "x", "ch", "sh")) else noun + "s"


def count(number: int, noun: str) -> str:
    """`number` and `noun` in agreement: (1, "box") -> "1 box", (3, "box") -> "3 boxes"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a text, with the pronouns to speak of them."""

    name: str
    subject: str
    possessive: str

    @property
    def Subject(self) -> str:  # noqa: N802  (a capitalised word, for the start of a sentence)
        return self.subject.capitalize()


def people(rng: Random, how_many: int, names: str) -> list[Person]:
    """`how_many` different people; `names` is "train", "test" or "all"."""
    pool = [Person(n, "she", "her") for n in GIRLS] + [Person(n, "he", "his") for n in BOYS]
    if names != "all":
        pool = [p for p in pool if (p.name in TEST_NAMES) == (names == "test")]
    return rng.sample(pool, how_many)
