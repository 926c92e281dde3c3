"""The families of sounds that `mini` learns: their GM programs and the phrasings that name them.

A family is what a prompt can ask for. It is also the name of a folder of the stem pool. Saxophones
count as brass, since that is how horn sections are asked for; clarinet, oboe, bassoon, recorder and
pan flute count as `flute`, which stands for all woodwinds that are not saxophones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EXTRA_FAMILIES", "FAMILIES", "MAIN_FAMILIES", "Family"]


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
    """

    name: str
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    programs: dict[int, float] = field(default_factory=dict)
    lowest: int = 36
    highest: int = 84


def _even(*programs: int, weight: float = 1.0) -> dict[int, float]:
    return dict.fromkeys(programs, weight)


def _split(phrases: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in phrases.split(";"))


_ALL = (
    Family(
        "drums",
        _split(
            "drums; drum kit; drum set; drumkit; the drums; percussion; drum beat; "
            "drum groove; the drummer; drum track; drum loop; beat; "
            "drums and cymbals; kick, snare and hi-hat; acoustic drums; "
            "a person playing drums; drumming; "
            "jazz drums; rock drums; drum machine; electronic drums; drum part; "
            "drum fill; drum break; live drums; toms and snare; cymbals and toms; "
            "drummer; drum performance; the percussion section"
        ),
        _split("drummer playing a beat; drum kit playing; rhythm section drums"),
        lowest=35,
        highest=81,
    ),
    Family(
        "bass",
        _split(
            "bass; bass guitar; bass line; bassline; electric bass; the bass; "
            "the bass player; bass track; upright bass; double bass; synth bass; "
            "fingered bass; low bass notes; a bass guitar playing; "
            "slap bass; fretless bass; picked bass; bass player; bass notes; "
            "walking bass; contrabass; acoustic bass; sub bass; bass riff; bass groove; "
            "a person playing bass; fender bass; the low end"
        ),
        _split("bassist; bass guitar line; the low bass part"),
        {**_even(32, 33, 34, 35), **_even(36, 37, weight=0.6), **_even(38, 39, weight=0.8)},
        26,
        50,
    ),
    Family(
        "piano",
        _split(
            "piano; the piano; grand piano; acoustic piano; piano playing; keys; "
            "electric piano; piano chords; a piano melody; pianist; keyboard; "
            "someone playing the piano; rhodes; piano track; "
            "piano part; piano notes; a pianist playing; piano in the background; "
            "piano solo; honky-tonk piano; wurlitzer; steinway; electric keyboard; "
            "piano player; keyboard player; solo piano; piano backing; baby grand; "
            "the keyboards; piano arpeggios"
        ),
        _split("piano accompaniment; a person playing piano; upright piano"),
        {**_even(0, 1, weight=1.2), 2: 0.8, 3: 0.7, 4: 0.8, 5: 0.7},
        36,
        92,
    ),
    Family(
        "guitar",
        _split(
            "guitar; guitars; the guitar; acoustic guitar; electric guitar; "
            "guitar strumming; strummed guitar; guitar riff; guitar chords; "
            "lead guitar; rhythm guitar; guitarist; distorted guitar; "
            "nylon string guitar; fingerpicked guitar; guitar track; "
            "guitar part; guitar player; someone playing the guitar; "
            "steel string guitar; jazz guitar; muted guitar; clean guitar; "
            "overdriven guitar; guitar lick; guitar line; guitar picking; "
            "classical guitar; spanish guitar; fender stratocaster; les paul; "
            "crunchy guitar; guitar in the background"
        ),
        _split("a person playing guitar; guitar solo; clean electric guitar"),
        {**_even(24, 25, 26, 27), 28: 0.6, 29: 0.8, 30: 0.8},
        40,
        80,
    ),
    Family(
        "strings",
        _split(
            "strings; the strings; string section; string ensemble; violin; violins; "
            "cello; viola; orchestral strings; string orchestra; bowed strings; "
            "string pad; strings playing; pizzicato strings; fiddle; "
            "violinist; cellist; string players; chamber strings; tremolo strings; "
            "violin solo; cello line; a person playing the violin; string arrangement; "
            "strings part; legato strings; lush strings; violas; cellos; "
            "violin and viola; bowed instruments; string trio; solo cello"
        ),
        _split("string quartet; violins and cellos; strings in the background"),
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
    ),
    Family(
        "brass",
        _split(
            "brass; the brass; brass section; horns; horn section; trumpet; "
            "trombone; french horn; tuba; saxophone; sax; brass instruments; "
            "trumpets; brass stabs; alto saxophone; tenor sax; "
            "trumpeter; trumpet player; saxophonist; horn players; horn line; horn riff; "
            "brass ensemble; brass band; brass part; trombones; baritone sax; "
            "soprano sax; muted trumpet; sax solo; a person playing the trumpet; "
            "someone playing the sax; trumpet and sax; saxophones; horn; big band brass"
        ),
        _split("trumpets and trombones; horn stabs; a person playing the saxophone"),
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
    ),
    Family(
        "organ",
        _split(
            "organ; the organ; hammond organ; church organ; pipe organ; "
            "electric organ; rock organ; organ chords; organ playing; drawbar organ; "
            "b3; hammond b3; leslie organ; the hammond organ; a hammond b3 organ; "
            "tonewheel organ; jazz organ; organ part; organ player; "
            "someone playing the organ; organ solo; reed organ; farfisa; vox organ; "
            "harmonium; organ music; cathedral organ; soul organ; "
            "organ pad; organist"
        ),
        _split("hammond; a person playing the organ; organ in the background"),
        {16: 1.2, 17: 1.0, 18: 1.0, 19: 1.0, 20: 0.7},
        36,
        88,
    ),
    Family(
        "flute",
        _split(
            "flute; the flute; flutes; woodwind; woodwinds; woodwind instruments; "
            "recorder; pan flute; piccolo; clarinet; oboe; bassoon; flute melody; "
            "flute playing; wind instrument; flutist; "
            "flautist; flute part; solo flute; flute player; someone playing the flute; "
            "clarinet solo; oboe melody; clarinets; oboes; wooden flute; bamboo flute; "
            "wind instruments; woodwind ensemble; woodwind part; flute and clarinet; "
            "a person playing the clarinet; whistle; ocarina; reeds; english horn"
        ),
        _split("a person playing the flute; flute solo; woodwind section"),
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
    ),
    Family(
        "speech",
        _split(
            "speech; voice; talking; speaking; man speaking; woman speaking; "
            "person speaking; a person talking; a man talking; a woman talking; "
            "someone speaking; spoken words; narration; speaker; dialogue; "
            "narrating; a narrating voice; narrated text; the narration; speaking voice; "
            "spoken voice; spoken word; announcer; presenter; storyteller; podcast host; "
            "a lecture; reading aloud; conversation; male voice; female voice; "
            "a person speaking; a man speaking; a woman speaking; the speaker; "
            "voice over; voiceover; commentator; monologue; people talking; "
            "human speech"
        ),
        _split("a voice talking; narrator; someone talking"),
    ),
    Family(
        "mallets",
        _split(
            "mallets; marimba; xylophone; vibraphone; glockenspiel; celesta; "
            "music box; tubular bells; bells; mallet percussion; vibes; steel drum"
        ),
        _split("a person playing the marimba; chimes"),
        {**_even(8, 9, 10, 11, 12, 13), 14: 0.6, 108: 0.4, 114: 0.4},
        52,
        96,
    ),
    Family(
        "synth",
        _split(
            "synth; synthesizer; synth lead; lead synth; synth pad; synths; "
            "electronic synth; saw lead; the synthesizer; synth melody"
        ),
        _split("synthesiser; electronic lead"),
        {**_even(80, 81), **_even(82, 83, 84, 86, 87, weight=0.5), **_even(89, 90, 92, weight=0.5)},
        45,
        88,
    ),
    Family(
        "choir",
        _split(
            "choir; vocals; backing vocals; choir singing; singing voices; "
            "vocal pad; voices singing; chorus of voices; singing; vocal ensemble"
        ),
        _split("a choir of people; wordless vocals"),
        {52: 1.2, 53: 1.0, 54: 0.5, 85: 0.4, 91: 0.3},
        45,
        82,
    ),
    Family(
        "noise",
        _split(
            "noise; background noise; hiss; wind; rain; white noise; static; "
            "tape hiss; wind noise; ambient noise"
        ),
        _split("rain falling; wind blowing"),
    ),
    Family(
        "hum",
        _split(
            "hum; mains hum; electrical hum; ground hum; buzz; buzzing; humming noise; 60 hz hum"
        ),
        _split("electric hum; ground loop buzz"),
    ),
    Family(
        "siren",
        _split(
            "siren; alarm; police siren; ambulance siren; a siren wailing; "
            "emergency siren; sirens; alarm sound"
        ),
        _split("fire engine siren; emergency vehicle siren"),
    ),
    Family(
        "clicks",
        _split(
            "clicks; crackle; vinyl crackle; clicking; pops and clicks; ticking; "
            "mouse clicks; clock ticking"
        ),
        _split("record crackle; clicks and pops"),
    ),
)

#: Every family by name, the main ones first.
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
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
#: Families that synthesis gives cheaply.
EXTRA_FAMILIES: tuple[str, ...] = tuple(name for name in FAMILIES if name not in MAIN_FAMILIES)
