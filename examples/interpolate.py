"""Walk through the latent space of a VAE, from one real digit to another.

Run: python examples/interpolate.py [MINUTES]
"""

import sys

import numpy as np

import danqing as dq

minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
run = dq.train(
    "digits", preset="vae-32", minutes=minutes, out="runs/interpolate", settings={"conditional": False}
)
model = dq.load(run)

digits = dq.open_dataset("digits", size=(32, 32))
pair = dq.Images(digits.images(np.array([0, 1])))
walk = model.interpolate(pair[:1], pair[1:], steps=12)
print(f"{walk!r} saved to {walk.save('walk.png')}")
