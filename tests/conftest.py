"""What every test starts from."""

import signal

# A shell that runs the suite in the background has it ignore Ctrl-C, and every program it starts
# inherits that: those that are interrupted by a test would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
