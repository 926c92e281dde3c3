"""What tests share: models of formulas, peers, sidecars, seeded weights, audio."""
