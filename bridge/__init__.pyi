# separating
from .connection.async_client import AsyncClient as AsyncClient
from .connection.client import Client as Client
from .engine import Engine as Engine

# asking
from .request import Prompt as Prompt
from .request import Settings as Settings
from .request import Span as Span
from .video import Video as Video

# results
from .separation import Progress as Progress
from .separation import Report as Report
from .separation import Separation as Separation

# errors
from .errors import Cancelled as Cancelled
from .errors import InputError as InputError
from .errors import MemoryBudgetError as MemoryBudgetError
from .errors import ModelError as ModelError
from .errors import ProtocolError as ProtocolError
from .errors import ProviderError as ProviderError
from .errors import ServerError as ServerError
from .errors import StembridgeError as StembridgeError
