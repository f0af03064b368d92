"""What may be counted: the words after a number that say no more than what it is a number of.

A unit is one of `units` or one of these, or the answer is another answer: nobody can list what
changes a number (`12 dozen`, `12 squared`, `12 fails`), so what is no known thing changes it.
"""

import re

from icpo_core.grading.answers import units
from icpo_core.grading.answers.wording import BENIGN, LABELS, clean, words_of

_THINGS = words_of(
    "acorn acre address adult airplane album alligator amphibian angle animal ant antacid "
    "apartment app appetizer apple apron aquarium arm arrangement array article artifact "
    "artwork asymptote athlete attendee avocado award axis baby badge bag bagel baguette bah "
    "bale ball balloon banana band bandage bar barrel basket basketball bat batch bath battery "
    "bead beaker bean bear bed bedbug bee beetle beignet bench berry bicycle bike bill bird "
    "biscuit bite blanket blister block blouse blueberry boat bollard bolt bone bonnet book "
    "bottle bounce bouquet bowl box boy bracelet branch bread brick brochure brother brownie "
    "bubble bucket bug builder building bulb bun bunch bundle bunny burger burrito bus bush "
    "bushel business butterfly button buyer cabinet cage cake calorie camper candidate candle "
    "candy cane canoe cap capsule car caramel card carnation carpet carriage carrot carton case "
    "cat caterpillar ceiling cell cent center centimeter chair channel chapter character check "
    "cheese cheesecake chef cherry chick chicken child chimichanga chip chocolate choice chord "
    "chore circle citation clamp clarinet class classmate claw client clip cloud clove clover "
    "clown cluster coat cob coconut code coefficient coin collection color coloring colour "
    "colouring combination comic committee complaint computer cone configuration contact "
    "container cookie copy corn country couple coupon course cousin covering cow crab cracker "
    "cranberry crane crate crater crayon cream cricket croissant crop crow cucumber cup cupcake "
    "curler curry customer cuttlebone cycle daisy date day decoration degree demerit desk "
    "dessert diagonal diamond diaper diary die digit dime dinner dish distribution divisor "
    "doctor dog doll dollar dolphin donut door dot doughnut drawing dress driveway drop drum "
    "duck duckling dumpling ear earring edge egg element elephant elf email employee enclosure "
    "endpoint entry envelope episode equation eraser euro exam eye face factor family feather "
    "fence ferret figure figurine file filet fillet firecracker firework flag flamingo "
    "flashlight flavor flea flight floor flower flute fly flyer follower foot football "
    "footprint fork friend frog frond fruit function gallery gallon game gecko gem gemstone "
    "gift gig gigabyte gingerbread giraffe girl glass gnome goal goat goldfish goose grader "
    "grandchild grape grasshopper grid group guest guitar gumball gun guppy hair haircut hand "
    "handshake hanger hare hat head hectare hen highlighter hike hit hive hole home horse "
    "horseshoe hotdog hour house inch index individual ingredient insect instance instruction "
    "instrument integer intersection interval iris issue item jack jacket jar jean jellybean "
    "jellyfish jersey jewel job jogger joke jug jump kangaroo kernel key kick kid kilogram "
    "kilometer kilowatt kind kitchen kitten kiwi knife koala lady lamb lap latte lawn layer "
    "leaf leg lego lemon lesson letter lid light lightbulb lily limb lime line lineup link lion "
    "list liter lizard llama load loaf log lollipop macaron macaroon machine magazine magnet "
    "man mango marble marigold mark marker marshmallow mask match matchstick matrix meal "
    "meatball medal megabyte melon member message meter mile milkshake milligram milliliter "
    "millimeter millipede mink minnow minute mistake model monkey monster month motorcycle "
    "mountain mouse move movie muffin mug multiple mushroom nail napkin necklace neighbor "
    "nephew newspaper nickel night note notebook novel number nurse nut object omelet omelette "
    "onion orange orchard order ounce outcome outfit ox oyster pack package packet page pail "
    "painting pair pairing palindrome pallet pamphlet pan pancake panda panel pant papaya paper "
    "paperclip parent parrot parsnip participant particle passcode passenger pastry patch path "
    "patient patron pattern paw peach peanut pear pearl pebble pen pencil penguin penny pepper "
    "period permutation person peseta peso pet petal petunia pfennig phone photo photograph "
    "pickle picture pie piece pig pigeon pile pill pillow pin pine pineapple pinecone pint "
    "pitch pixel pizza place plane plank plant plate player plum pocket pod point pointer pole "
    "polish pollywog polygon polynomial poodle pool popsicle portion portrait possibility "
    "postcard poster pot potato pound present pretzel prime problem product puff pump pumpkin "
    "pup pupil puppy pushup puzzle quadrilateral quadruple quadruplet quark quart quarter "
    "question rabbit racer racquet raisin rat ream rearrangement recipe record rectangle region "
    "revolution rhinestone riddle ride ridge ring road robot rock rod roll room roommate "
    "rooster rose rotation round route row rung sack salad salutation sample sandwich sapling "
    "sapphire sausage scallop scarf school scoop screen screw seagull seashell season seat "
    "second section seed seedling segment senior sentence sequence sequin serving session set "
    "setting shark sheet shell shelve shirt shoe shot show shower sibling side signature singer "
    "sister site situp skein skip skirt slat slice smore snack snail snake snowball snowflake "
    "sock soda sofa soldier solution song sonnet souvenir space spear spider spoke spool spoon "
    "spot sprig squirrel stair stalk stamp star station statue steak stem step stick sticker "
    "stitch stone stop store story strand strawberry street streetlight string strip stripe "
    "student stuffer stuffy subject subset sucker suitcase sunflower supply surfer swan sweater "
    "sweet switch symmetry system tab table tablespoon tadpole tall tangerine tank tarantula "
    "task tattoo teacher teacup team tear teaspoon teddy television tent term tesla test text "
    "thing thorn throw ticket tie tile tiling time tin tire tissue toad toddler toe toenail "
    "token tomato ton tonne tool tooth toothbrush toothpick touchdown tourist towel tower toy "
    "train trapezoid tray treat tree triangle trip triplet troll trout truck truckload truffle "
    "trumpet tub tube tulip tuple turn turtle twig type unit value vampire van vegetable "
    "vehicle vertex vest vibration video vine visit visitor vlog volunteer vote voter waiter "
    "wall walnut wand washer watch watermelon watt way weasel weed week weekday weekend whale "
    "wheel whisker widget win window wing woman word work worker worm yard year year-old yolk "
    "zebra zero zit zombie"
)
"""Nouns that follow "how many" in school and contest problems, in the singular."""
_KINDS = words_of(
    "acute adult altogether aluminum asparagus bacon balanced baseball beer birthday black blue "
    "bread bronze brown cereal cheese chocolate clay coffee colored complex composite congruent "
    "consecutive convex cookie corn cotton cubic cups dandelion deep different dirt distinct "
    "distinguishable dryer dust equal equilateral extra eyeshadow fabric flour four four-digit "
    "four-letter free french fried garbage golden golf grass green gum gummy hay high honey "
    "human ice individual indoor integral interesting interior iron isosceles jello jelly juice "
    "large lattice left lemonade lettuce long meat metal milk money monochromatic multiple- "
    "choice natural natural-number new non- non-empty non-isomorphic non-overlapping non- "
    "similar non-white non-zero noncongruent nonempty nonnegative nonzero obtuse oil old "
    "ordered outdoor overlapping paint parsley pink polka-dot popcorn possible potted precious "
    "prime purple rain rational real red regular remaining rice ripe rope rubber salt sand sea "
    "separate seven-digit seven-letter silver single small snow soccer soil solar soup special "
    "spiral square striped stuffed such sugar sun symmetric tall tea tennis thick three-card "
    "three-digit tomato total tractor trash two-digit unique unoccupied unordered unripe valid "
    "water white whole wide wine wire wooden yarn yellow young"
)
"""Words that may stand beside such a noun."""
_IRREGULAR = words_of(
    "people children men women feet teeth geese sheep fish deer dice mice oxen vertices matrices "
    "roots squares cubes triples parts axes indices leaves knives loaves scarves elves pence "
    "grandchildren series 岁 分 平方厘米 平方米"
)
_LINKS = words_of("of per a an the are each in total altogether and to for day hour minute year")
_ASIDES = words_of(
    "achieved any as attained because by coefficients denote denotes double equality fixed free "
    "given here holds let multiplicity non-zero nonzero obtained occurring occurs parameter "
    "parameters reached root roots since some using whenever where whose with"
)
"""Words of a remark that repeats what the problem says."""
_CLASSIFIED = re.compile(
    "[个人只本种次条块张件棵辆名位支头朵组对双句间家枚颗页][^\\W\\d不没非无错半打倍百千万]{0,4}"
)
"""A Chinese measure word and what it measures."""


def is_counted(words: str, few: bool = False) -> bool:
    """Whether words after a number are a unit, or say what was counted: `apples`, `eggs per day`,
    `square units`. `few`: the number is one, or less, so that one thing may be counted."""
    if units.measure(words) is not None:
        return True
    if _CLASSIFIED.fullmatch(words.replace(" ", "")):
        return True
    if "^" in words:
        return False  # only units have powers
    said = clean(words).strip("() ").split()
    if not said or said[0] in ("of", "and", "to") or said[-1] in ("of", "and", "to", "a"):
        return False
    known = (_nouns(word) or word in _KINDS or word in _LINKS or _is_unit(word) for word in said)
    if not all(known):
        return False
    return any(
        _is_plural(word) or ((few or said[0] == "per") and _nouns(word)) or _is_unit(word)
        for word in said
    )


def same_things(ours: str, theirs: str) -> bool:
    """Whether two such texts may count the same: a noun is in both, or, without nouns, a word."""
    texts = [clean(text).split() for text in (ours, theirs)]
    first, second = ({noun for word in text for noun in _nouns(word)} for text in texts)
    return bool(first & second or (not (first or second) and set(texts[0]) & set(texts[1])))


def is_understood(words: str) -> bool:
    """Whether words beside a value say nothing that would change it."""
    return all(
        word in BENIGN or word in LABELS or word in _ASIDES or _nouns(word) or word in _KINDS
        for word in clean(words).split()
    )


def _nouns(word: str) -> frozenset[str]:
    """The singulars that a word may be of, as far as they are known."""
    forms = {word, word.removesuffix("s"), word.removesuffix("es")}
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    return frozenset(forms & _THINGS) | ({word} & _IRREGULAR)


def _is_plural(word: str) -> bool:
    return word in _IRREGULAR or bool(_nouns(word) - {word})


def _is_unit(word: str) -> bool:
    return len(word) > 1 and units.measure(word) is not None
