"""How a key gets its generation, from the wrapped backend to the counter."""
