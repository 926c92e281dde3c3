"""Model bundles: what a manifest says, where bundles lie, and whether their files are whole."""
