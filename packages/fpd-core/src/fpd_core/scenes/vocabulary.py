"""The words of the world, in GenEval's spelling, and what training never sees."""

OBJECTS = (
    *("car", "airplane", "bus", "boat", "bird", "cat", "dog", "elephant", "umbrella", "backpack"),
    *("cup", "apple", "banana", "pizza", "donut", "cake", "chair", "tv", "clock", "potted plant"),
)
TINTED = (
    *("car", "bus", "dog", "elephant", "umbrella", "backpack"),
    *("cup", "apple", "cake", "chair", "clock", "potted plant"),
)
"""Objects that come in every colour beside their natural ones."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
# The token of a plural's ending: "buses" is "bus" and this one, so that a kind is one token however many are asked for.
PLURAL = "+s"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

# What the official prompts ask of these objects, beyond the rules in `captions.held_out`.
OFFICIAL_PAIRS = (
    *(("potted plant", "backpack"), ("potted plant", "boat"), ("potted plant", "donut"), ("apple", "tv")),
    *(("cat", "backpack"), ("backpack", "cake"), ("cup", "umbrella"), ("pizza", "banana"), ("bus", "boat")),
    *(("clock", "tv"), ("donut", "cat"), ("car", "potted plant"), ("clock", "cup"), ("cake", "chair")),
    *(("dog", "potted plant"), ("backpack", "umbrella")),
)
OFFICIAL_COUNTS = (
    *(("clock", 2), ("backpack", 2), ("cup", 3), ("bus", 3), ("dog", 4), ("apple", 3), ("apple", 4), ("donut", 4)),
    *(("chair", 4), ("pizza", 2), ("tv", 4), ("clock", 4), ("car", 2), ("banana", 2), ("pizza", 3), ("bird", 3)),
    *(("boat", 4), ("bus", 4)),
)
OFFICIAL_COLORS = (
    *(("car", "pink"), ("cup", "purple"), ("umbrella", "blue"), ("elephant", "blue"), ("elephant", "yellow")),
    *(("elephant", "purple"), ("apple", "red"), ("chair", "brown"), ("dog", "red"), ("potted plant", "purple")),
    *(("backpack", "purple"), ("potted plant", "pink"), ("potted plant", "red"), ("clock", "green")),
    *(("dog", "white"), ("clock", "blue"), ("backpack", "black"), ("car", "red"), ("backpack", "red")),
    *(("bus", "green"), ("cake", "red")),
)


def words() -> tuple[str, ...]:
    """Every token of the captions, sorted: their words, and the ending of plurals."""
    phrases = [*OBJECTS, *COLORS, *RELATIONS, *NUMBER_WORDS.values(), "a an photo of and", PLURAL]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))
