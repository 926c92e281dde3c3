"""The panel: a local page to look at a mixture, mark where sounds are, and listen to the stems."""
