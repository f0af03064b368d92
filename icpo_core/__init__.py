"""ICPO (In-Context Steered Policy Optimization, arXiv 2510.26519): the method and its stages.

Nothing in this package imports Prefect: every stage can be run from a notebook or a test.
"""
