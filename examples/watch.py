"""Watch a run from Python: a listener gets the plan, the progress and the alarms.

Run: python examples/watch.py [MINUTES]
"""

import sys

import danqing as dq
from danqing.training.listener import Plan, Progress


class Watcher(dq.Listener):
    """Prints the plan, then a line whenever another tenth is done."""

    def __init__(self) -> None:
        self.tenths = 0

    def on_plan(self, plan: Plan) -> None:
        print(f"{plan.images:,} images in about {plan.seconds:.0f} s, {plan.precision} on {plan.device}")

    def on_progress(self, progress: Progress) -> None:
        tenths = 10 * progress.images // progress.total_images
        if tenths > self.tenths:
            self.tenths = tenths
            print(f"{10 * tenths}%", {name: round(value, 3) for name, value in progress.logged.items()})

    def on_alarm(self, text: str) -> None:
        print("Look here:", text)


minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
dq.train("digits", preset="vae-32", minutes=minutes, out="runs/watch", listener=Watcher())
