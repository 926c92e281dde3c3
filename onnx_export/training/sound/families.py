"""The families of sounds that `mini` learns: their GM programs and the phrasings that name them.

A family is what a prompt can ask for. It is also the name of a folder of the stem pool. Saxophones
count as brass, since that is how horn sections are asked for; clarinet, oboe, bassoon, recorder and
pan flute count as `flute`, which stands for all woodwinds that are not saxophones.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Family:
    """A kind of sound that one prompt names.

    Parameters
    ----------
    name
        Folder name in the stem pool and the shortest prompt.
    phrasings
        Prompts used in training, lower case.
    held_out
        Prompts kept out of training, to measure how far phrasing generalises.
    programs
        General MIDI program (0 to 127) to weight; empty for speech, drums and sound effects.
    lowest, highest
        Range of MIDI pitches the family plays.
    within
        Families that this one is a kind of: whoever asks for one of those gets this as well.
    unclear
        Families of which nobody can say whether this belongs to them: while this sounds, they are
        neither asked for nor absent.
    """

    name: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    programs: dict[int, float] = field(default_factory=dict)
    lowest: int = 36
    highest: int = 84
    within: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()


def split_phrases(phrases: str) -> tuple[str, ...]:
    """Split phrases at semicolons."""
    return tuple(phrase.strip() for phrase in phrases.split(";"))


def all_within(name: str, families: Mapping[str, Family]) -> frozenset[str]:
    """Every family that `name` is a kind of, itself among them; of an unknown one only itself."""
    found: set[str] = set()
    open_names = [name]
    while open_names:
        current = open_names.pop()
        if current not in found:
            found.add(current)
            if current in families:
                open_names += families[current].within
    return frozenset(found)


def read_families(path: Path) -> tuple[Family, ...]:
    """Read families from a table of this package."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Family(
            name,
            tuple(row["phrasings"]),
            tuple(row.get("held_out", ())),
            within=tuple(row.get("within", ())),
            unclear=tuple(row.get("unclear", ())),
        )
        for name, row in table.items()
    )


#: Narrow family of a General MIDI program; the others have none.
_OF_PROGRAM: dict[str, tuple[int, ...]] = {
    "acoustic-piano": (0, 1, 3),
    "electric-piano": (2, 4, 5),
    "acoustic-guitar": (24, 25),
    "electric-guitar": (26, 27, 28),
    "distorted-guitar": (29, 30),
    "double-bass": (32,),
    "electric-bass": (33, 34, 35, 36, 37),
    "synth-bass": (38, 39),
    "violin": (40, 110),
    "cello": (42,),
    "trumpet": (56, 59),
    "trombone": (57,),
    "tuba": (58,),
    "french-horn": (60,),
    "saxophone": (64, 65, 66, 67),
    "oboe": (68,),
    "clarinet": (71,),
    "synth-lead": (80, 81, 82, 83, 84, 86, 87),
    "synth-pad": (89, 90, 92),
}
_BY_PROGRAM = {program: name for name, programs in _OF_PROGRAM.items() for program in programs}


def instrument_family(family: str, program: int) -> str:
    """Return the narrowest family of what a General MIDI program plays in a part of `family`."""
    return family if family == "drums" else _BY_PROGRAM.get(program, family)


# Kinds narrower, or wider, than those that songs are written for. Users ask for "electric guitar"
# or "kick", and mean it: what else of the guitar family or of the drum kit sounds is the rest.
NARROW_FAMILIES = read_families(Path(__file__).with_name("narrow_families.toml"))


# Things, animals, weather, machines, people.
SOUND_FAMILIES = read_families(Path(__file__).with_name("sound_families.toml"))


__all__ = [
    "EXTRA_FAMILIES",
    "FAMILIES",
    "MAIN_FAMILIES",
    "NARROW_FAMILIES",
    "SOUND_FAMILIES",
    "Family",
    "all_within",
    "ancestors",
    "instrument_family",
    "read_families",
    "related",
    "split_phrases",
]


def _even(*programs: int, weight: float = 1.0) -> dict[int, float]:
    return dict.fromkeys(programs, weight)


_ALL = (
    Family(
        "drums",
        split_phrases(
            "drums; drum kit; drum set; drumkit; the drums; percussion; drum beat; "
            "drum groove; the drummer; drum track; drum loop; beat; "
            "drums and cymbals; kick, snare and hi-hat; acoustic drums; "
            "a person playing drums; drumming; "
            "jazz drums; rock drums; drum machine; electronic drums; drum part; "
            "drum fill; drum break; live drums; toms and snare; cymbals and toms; "
            "drummer; drum performance; the percussion section"
        ),
        split_phrases("drummer playing a beat; drum kit playing; rhythm section drums"),
        lowest=35,
        highest=81,
        within=("music",),
    ),
    Family(
        "bass",
        split_phrases(
            "bass; bass line; bassline; the bass; the bass player; bass track; low bass notes; "
            "a bass guitar playing; bass player; bass notes; walking bass; bass riff; "
            "bass groove; a person playing bass; the low end"
        ),
        split_phrases("bassist; bass guitar line; the low bass part"),
        {**_even(32, 33, 34, 35), **_even(36, 37, weight=0.6), **_even(38, 39, weight=0.8)},
        26,
        50,
        within=("music",),
    ),
    Family(
        "piano",
        split_phrases(
            "piano; the piano; piano playing; keys; piano chords; a piano melody; pianist; "
            "keyboard; someone playing the piano; piano track; piano part; piano notes; "
            "a pianist playing; piano in the background; piano solo; honky-tonk piano; "
            "piano player; keyboard player; solo piano; piano backing; baby grand; "
            "the keyboards; piano arpeggios"
        ),
        split_phrases("piano accompaniment; a person playing piano; upright piano"),
        {**_even(0, 1, weight=1.2), 2: 0.8, 3: 0.7, 4: 0.8, 5: 0.7},
        36,
        92,
        within=("music",),
    ),
    Family(
        "guitar",
        split_phrases(
            "guitar; guitars; the guitar; guitar strumming; strummed guitar; guitar riff; "
            "guitar chords; lead guitar; rhythm guitar; guitarist; guitar track; guitar part; "
            "guitar player; someone playing the guitar; guitar lick; guitar line; "
            "guitar picking; guitar in the background"
        ),
        split_phrases("a person playing guitar; guitar solo; clean electric guitar"),
        {**_even(24, 25, 26, 27), 28: 0.6, 29: 0.8, 30: 0.8},
        40,
        80,
        within=("music",),
    ),
    Family(
        "strings",
        split_phrases(
            "strings; the strings; string section; string ensemble; violins; viola; "
            "orchestral strings; string orchestra; bowed strings; string pad; strings playing; "
            "pizzicato strings; string players; chamber strings; tremolo strings; violin solo; "
            "cello line; a person playing the violin; string arrangement; strings part; "
            "legato strings; lush strings; violas; cellos; violin and viola; bowed instruments; "
            "string trio"
        ),
        split_phrases("string quartet; violins and cellos; strings in the background"),
        {
            **_even(40, 41, 42),
            43: 0.4,
            44: 0.6,
            45: 0.7,
            **_even(48, 49, weight=1.4),
            **_even(50, 51, weight=0.5),
            110: 0.3,
        },
        40,
        92,
        within=("music",),
    ),
    Family(
        "brass",
        split_phrases(
            "brass; the brass; brass section; horns; horn section; brass instruments; "
            "brass stabs; alto saxophone; tenor sax; saxophonist; horn players; horn line; "
            "horn riff; brass ensemble; brass band; brass part; sax solo; "
            "a person playing the trumpet; someone playing the sax; trumpet and sax; horn; "
            "big band brass"
        ),
        split_phrases("trumpets and trombones; horn stabs; a person playing the saxophone"),
        {
            56: 1.2,
            57: 1.0,
            58: 0.4,
            59: 0.6,
            60: 0.9,
            61: 1.3,
            **_even(62, 63, weight=0.5),
            64: 0.6,
            65: 0.9,
            66: 0.9,
            67: 0.6,
        },
        38,
        82,
        within=("music",),
    ),
    Family(
        "organ",
        split_phrases(
            "organ; the organ; hammond organ; church organ; pipe organ; "
            "electric organ; rock organ; organ chords; organ playing; drawbar organ; "
            "b3; hammond b3; leslie organ; the hammond organ; a hammond b3 organ; "
            "tonewheel organ; jazz organ; organ part; organ player; "
            "someone playing the organ; organ solo; reed organ; farfisa; vox organ; "
            "harmonium; organ music; cathedral organ; soul organ; "
            "organ pad; organist"
        ),
        split_phrases("hammond; a person playing the organ; organ in the background"),
        {16: 1.2, 17: 1.0, 18: 1.0, 19: 1.0, 20: 0.7},
        36,
        88,
        within=("music",),
    ),
    Family(
        "flute",
        split_phrases(
            "flute; the flute; flutes; woodwind; woodwinds; woodwind instruments; recorder; "
            "pan flute; piccolo; bassoon; flute melody; flute playing; wind instrument; flutist; "
            "flautist; flute part; solo flute; flute player; someone playing the flute; "
            "clarinet solo; oboe melody; clarinets; oboes; wooden flute; bamboo flute; "
            "wind instruments; woodwind ensemble; woodwind part; flute and clarinet; "
            "a person playing the clarinet; ocarina; reeds; english horn"
        ),
        split_phrases("a person playing the flute; flute solo; woodwind section"),
        {
            68: 0.8,
            69: 0.5,
            70: 0.6,
            71: 1.0,
            72: 0.8,
            73: 1.6,
            74: 0.9,
            75: 0.8,
            76: 0.4,
            77: 0.5,
            78: 0.3,
            79: 0.6,
        },
        55,
        96,
        within=("music",),
    ),
    Family(
        "speech",
        split_phrases(
            "speech; talking; speaking; man speaking; woman speaking; "
            "person speaking; a person talking; a man talking; a woman talking; "
            "someone speaking; spoken words; narration; speaker; dialogue; "
            "narrating; a narrating voice; narrated text; the narration; speaking voice; "
            "spoken voice; spoken word; announcer; presenter; storyteller; podcast host; "
            "a lecture; reading aloud; conversation; "
            "a person speaking; a man speaking; a woman speaking; the speaker; "
            "voice over; voiceover; commentator; monologue; people talking; "
            "human speech"
        ),
        split_phrases("a voice talking; narrator; someone talking"),
        within=("voice",),
    ),
    Family(
        "mallets",
        split_phrases(
            "mallets; marimba; xylophone; vibraphone; glockenspiel; celesta; tubular bells; "
            "mallet percussion; vibes; steel drum"
        ),
        split_phrases("a person playing the marimba; chimes"),
        {**_even(8, 9, 10, 11, 12, 13), 14: 0.6, 108: 0.4, 114: 0.4},
        52,
        96,
        within=("music",),
    ),
    Family(
        "synth",
        split_phrases(
            "synth; synthesizer; synths; electronic synth; the synthesizer; the synth; "
            "synth sound; synthesizers; analog synth; keyboard synth"
        ),
        split_phrases("synthesiser; electronic lead"),
        {**_even(80, 81), **_even(82, 83, 84, 86, 87, weight=0.5), **_even(89, 90, 92, weight=0.5)},
        45,
        88,
        within=("music",),
    ),
    Family(
        "choir",
        split_phrases(
            "choir; choir singing; singing voices; choral singing; choral voices; "
            "vocal pad; voices singing; chorus of voices; vocal ensemble; the choir; gospel choir; "
            "church choir; children's choir"
        ),
        split_phrases("a choir of people; wordless vocals"),
        {52: 1.2, 53: 1.0, 54: 0.5, 85: 0.4, 91: 0.3},
        45,
        82,
        within=("voice",),
        unclear=("vocals", "lead-vocals", "backing-vocals"),
    ),
    Family(
        "noise",
        split_phrases(
            "noise; background noise; hiss; white noise; static; tape hiss; ambient noise; "
            "pink noise; the noise; room noise; hissing; radio static; noise floor"
        ),
        split_phrases("hissing noise; constant background noise"),
        unclear=("rain", "wind", "water", "sea-waves"),
    ),
    Family(
        "hum",
        split_phrases(
            "hum; mains hum; electrical hum; ground hum; buzz; buzzing; humming noise; 60 hz hum"
        ),
        split_phrases("electric hum; ground loop buzz"),
    ),
    Family(
        "siren",
        split_phrases(
            "siren; a siren wailing; emergency siren; sirens; alarm; police siren; "
            "ambulance siren; alarm sound; fire alarm; the siren"
        ),
        split_phrases("fire engine siren; emergency vehicle siren"),
    ),
    Family(
        "clicks",
        split_phrases(
            "clicks; crackle; vinyl crackle; clicking; pops and clicks; "
            "mouse clicks; record crackle and pops; clicks and crackle"
        ),
        split_phrases("record crackle; clicks and pops"),
        unclear=("clock-ticking", "typing"),
    ),
)

#: Every family by name, the main ones first.
FAMILIES: dict[str, Family] = {
    family.name: family for family in (*_ALL, *NARROW_FAMILIES, *SOUND_FAMILIES)
}
#: The families the bundled model must separate well.
MAIN_FAMILIES: tuple[str, ...] = (
    "drums",
    "bass",
    "piano",
    "guitar",
    "strings",
    "brass",
    "organ",
    "flute",
    "speech",
)
#: All others.
EXTRA_FAMILIES: tuple[str, ...] = tuple(name for name in FAMILIES if name not in MAIN_FAMILIES)


@cache
def ancestors(name: str) -> frozenset[str]:
    """Every family that `name` is a kind of, itself among them."""
    return all_within(name, FAMILIES)


@cache
def related(one: str, other: str) -> bool:
    """Say whether who hears `one` may be hearing `other`: a kind of it, wider, or unclear.

    Of a family that a user brought it is unclear whether it is music, or a voice, and no more.
    """
    unknown = {one, other} - set(FAMILIES)
    if unknown:
        return one == other or bool({one, other} & {"music", "voice"})
    wider, wider_other = ancestors(one), ancestors(other)
    unclear = {name for family in wider if family in FAMILIES for name in FAMILIES[family].unclear}
    unclear_other = {
        name for family in wider_other if family in FAMILIES for name in FAMILIES[family].unclear
    }
    return bool(
        other in wider or one in wider_other or unclear & wider_other or unclear_other & wider
    )
