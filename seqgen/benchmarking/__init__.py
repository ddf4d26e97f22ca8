"""What `seqgen bench` runs: models at matched parameters, matched tokens and matched time."""
