"""The process that scripts inside a DAW start: ``python -m plugin_host.daw.run_requests``."""

import sys

from plugin_host.cli import main
from plugin_host.daw.requests import requests_folder, run_requests

if __name__ == "__main__":
    run_requests(requests_folder(), main)
    sys.exit(0)
