"""Model bundles: their manifests, where they are, and whether their files are undamaged."""
