# models
from .checkpoints.checkpoint import load_checkpoint as load_checkpoint
from .networks.sam_audio import SamAudio as SamAudio
from .networks.sam_audio import SamAudioConfig as SamAudioConfig
from .networks.phrases import TextEncoder as TextEncoder
from .networks.phrases import load_text_encoder as load_text_encoder

# what a bundle is made of
from .checkpoints.official import checkpoint_blueprint as checkpoint_blueprint
from .recipes import Blueprint as Blueprint
from .recipes import Graph as Graph
from .recipes import Provenance as Provenance
from .recipes import mini_blueprint as mini_blueprint
from .recipes import sam_audio_blueprint as sam_audio_blueprint

# writing and checking bundles
from .checkpoints.official import export_checkpoint as export_checkpoint
from .export import export_bundle as export_bundle
from .rebuild import rebuild_blueprint as rebuild_blueprint
from .verify import Difference as Difference
from .verify import verify_bundle as verify_bundle
