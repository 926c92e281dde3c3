"""Signal processing around the model: levels, rates, spans, and stems from its answer."""
