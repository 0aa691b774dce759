"""Sinks: a dataset goes in, a store or file comes out."""
