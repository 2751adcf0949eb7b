"""How the proxy gets the methods and attributes of the wrapped backend."""
