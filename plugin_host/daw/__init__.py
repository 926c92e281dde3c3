"""Sessions of digital audio workstations: read what a track plays, add what was separated.

Thin scripts around files and pipes. No audio is computed here.
"""
