"""Shards: data sets of any size as files with an index, written once, read in place or streamed."""
