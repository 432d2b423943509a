"""Serves models to any client of the OpenAI images API.

The process that speaks HTTP never computes: it checks, queues and encodes. A worker process paints. The
packages here import only from packages of a lower rank; `tests/test_architecture.py` lists the ranks.
"""
