"""Flow matching over a whole clip: noise, solver, windows and how their predictions merge."""
