"""Serves models to any client of the OpenAI images API.

The process that speaks HTTP never computes: it checks, queues and encodes. A worker process paints.
"""
