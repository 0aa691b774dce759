"""Metrics, scores, comparisons without a reference, reports and figures."""
