"""Decoders: fast ways to sample from a trained transformer.

`families/transformer.py` has the network and a simple `generate`, which runs the whole network for each code.
The decoders here give the same logits for much less work, because they compute nothing twice: the keys and
values of known codes are cached. They also cache the weights in the memory layout that the processor
multiplies fastest (`layout_cache.py`, `products.py`).

`raster.py`: one code at a time. A step computes one position instead of all N.
`parallel.py`: many codes at a time, in any order. A step computes only the codes that it reads or writes, so
an image costs less than two passes of the network, in however many steps.
`contract.py`: what decoders read of a transformer.
"""
