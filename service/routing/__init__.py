"""Decides: which routes may take a request, in which order, what a failure means, and what comes next.

Pure: `now` and the policy are arguments; nothing here waits, reads a clock or touches the network.
"""
