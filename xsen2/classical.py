"""The classical methods, one file each, behind the same protocol as a network."""
