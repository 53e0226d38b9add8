"""A run as monitoring sees it: spans and metrics, made from its events by observers that decide nothing.

What is counted and timed here says no more than the run log does. An observer must be cheap, because it is called with every
event, and must never fail a run.
"""
