"""Routing decisions: which routes may serve a request, in which order, what a failure means, and what to do next.

Pure: `now` and the policy are arguments; nothing here waits, reads a clock or uses the network.
"""
