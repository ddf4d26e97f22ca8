"""How processes start. Importing this package imports no jax."""
