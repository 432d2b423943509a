"""Networks for flow matching: images with noise and a time in, a prediction out.

All have one signature, `forward(x, t, s, given)`, and work for any height and width by padding:

- `hybrid.py`, the default: convolutions at full resolution around a transformer on a coarse grid of tokens.
- `dit.py`: the transformer alone, on patches of pixels.
- `unet.py`: convolutions at every resolution, as in the first diffusion models.

`conditioning.py` turns what the images should show into tensors, once for all steps of sampling.
"""
