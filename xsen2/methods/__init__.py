"""The protocol that every method follows, the registry, and the classical methods."""
