# effects
from .effects.chain import Chain as Chain
from .effects.chain import Split as Split
from .effects.presets import chain_from_preset as chain_from_preset
from .effects.separate import Separate as Separate

# files
from .files.audio_files import read_audio as read_audio
from .files.audio_files import write_audio as write_audio
from .files.pictures import draw_separation as draw_separation
from .render import render_file as render_file
