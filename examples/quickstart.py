"""Train on scikit-learn's handwritten digits for a minute, and generate sevens.

Run: python examples/quickstart.py [MINUTES]
"""

import sys

import danqing as dq

minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
run = dq.train("digits", preset="gan-32", minutes=minutes, out="runs/quickstart")
print(f"{run.images:,} images seen, {run.images_per_second:,.0f} a second; the report is {run.report}")

model = dq.load(run)
sevens = model.sample(16, label="7", seed=1)
print(f"{sevens!r} saved to {sevens.save('sevens.png')}")
