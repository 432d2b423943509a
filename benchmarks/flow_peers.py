"""One peer of the flow benchmarks: a process that trains a public package's model, or measures its speed.

    PEERS/bin/python benchmarks/flow_peers.py diffusers [--tuned] --images FILE.npy --minutes 5 --out FOLDER
    PEERS/bin/python benchmarks/flow_peers.py diffusers --images FILE.npy --speed

PEERS is a virtual environment of its own, since these packages need others than danqing does:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy scipy pillow pot torchdiffeq accelerate einops einx \\
        ema-pytorch rotary-embedding-torch torch-einops-utils x-transformers x-unet diffusers==0.42.1
    PEERS/bin/pip install --no-deps torchcfm==1.0.7 rectified-flow-pytorch==0.14.0

With the CPU build of torch, torchvision does not load. rectified-flow-pytorch imports it for a loss and a
data set that are not used here, so this process gives it an empty module of that name.

FILE holds training images, uint8 `[n, h, w, c]`. The process writes `samples.npy`, uint8 `[count, h, w,
c]`, and `facts.json` to FOLDER. Every peer trains in float32 without labels, for the given minutes, and
samples with at most 25 evaluations of its network. Each runs in two ways:

diffusers: DDPM as in the package's unconditional example: noise prediction, 1000 linear betas, AdamW at
1e-4 with betas 0.95 and 0.999, batches of 16, 500 steps of warm-up, cosine decay, clipping at 1, and its
moving average up to 0.9999; DPM-Solver++(2M) with 25 steps. The example's six levels up to 512 channels are
made for larger images, so the network is a `UNet2DModel` of 64, 128 and 128 channels with two blocks per
level and attention at 8×8. Tuned: learning rate 4e-4, 50 steps of warm-up, an average of at most 0.995.
torchcfm: the network of its MNIST example (32 channels, one block per level), trained as in its CIFAR-10
example: exact optimal transport in the batch of 128, Adam at 2e-4 after 5,000 steps of warm-up, clipping at
1, an average of 0.9999. Tuned: as in its MNIST example, Adam at 1e-3, no warm-up, no average.
rectified-flow: the package's README and `Trainer`: a U-Net of dim 64, Adam at 3e-4, batches of 16, clipping
at 0.5, its default average. Tuned: dim 32 with three levels, Adam at 1e-3, batches of 32, an average of
0.99. The two flows are sampled by the midpoint method with 12 steps.

With --speed it says "ready" and a JSON object on standard output when everything is warm. Then each line on
standard input is "training" or "sampling" and a number of seconds to work, and the answer is the images per
second of that time.
"""

import argparse
import copy
import importlib.machinery
import json
import math
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peer_arguments
import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIFFUSION_STEPS = 1000
SOLVER_STEPS = 25
MIDPOINT_TIMES = 13
"""Ends of 12 steps of the midpoint method: 24 evaluations."""
CHUNK, SAMPLED_AT_ONCE = 16, 100


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What is trained, and how.

    loss: of the module and images `[n, c, h, w]` in [-1, 1]. sample: of the module and how many; images in
    [-1, 1]. average: from the number of a step, from 1, to the decay of the moving average at that step.
    """

    module: nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    sample: Callable[[Any, int], Tensor]
    optimizer: torch.optim.Optimizer
    average: Callable[[int], float]
    batch: int
    clip: float
    warmup: int = 0
    cosine: bool = False


def diffusers(shape: tuple[int, int, int], tuned: bool) -> Peer:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

    channels, size = shape[2], shape[0]
    net = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    forward = DDPMScheduler(num_train_timesteps=DIFFUSION_STEPS, beta_schedule="linear")

    def loss(module: Any, images: Tensor) -> Tensor:
        noise, t = torch.randn_like(images), torch.randint(DIFFUSION_STEPS, (len(images),))
        return F.mse_loss(module(forward.add_noise(images, noise, t), t).sample, noise)

    def sample(module: Any, count: int) -> Tensor:
        solver = DPMSolverMultistepScheduler.from_config(forward.config)
        solver.set_timesteps(SOLVER_STEPS)
        x = torch.randn(count, channels, *shape[:2])
        for t in solver.timesteps:
            x = solver.step(module(x, t).sample, t, x).prev_sample
        return x

    most = 0.995 if tuned else 0.9999
    return Peer(
        module=net,
        loss=loss,
        sample=sample,
        optimizer=torch.optim.AdamW(
            net.parameters(), 4e-4 if tuned else 1e-4, betas=(0.95, 0.999), weight_decay=1e-6
        ),
        average=lambda step: min(most, 1 - step**-0.75),
        batch=16,
        clip=1.0,
        warmup=50 if tuned else 500,
        cosine=True,
    )


def torchcfm(shape: tuple[int, int, int], tuned: bool) -> Peer:
    from torchcfm import ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel
    from torchdiffeq import odeint

    height, width, channels = shape
    net = UNetModel(dim=(channels, height, width), num_channels=32, num_res_blocks=1)
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)

    def loss(module: Any, images: Tensor) -> Tensor:
        t, x, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(images), images)
        return F.mse_loss(module(t, x), velocity)

    def sample(module: Any, count: int) -> Tensor:
        noise, times = torch.randn(count, channels, height, width), torch.linspace(0, 1, MIDPOINT_TIMES)
        found: Tensor = odeint(lambda t, x: module(t.expand(count), x), noise, times, method="midpoint")
        return found[-1]

    return Peer(
        module=net,
        loss=loss,
        sample=sample,
        optimizer=torch.optim.Adam(net.parameters(), 1e-3 if tuned else 2e-4),
        average=lambda _: 0.0 if tuned else 0.9999,
        batch=128,
        clip=1.0,
        warmup=0 if tuned else 5000,
    )


def rectified_flow(shape: tuple[int, int, int], tuned: bool) -> Peer:
    stand_in_for_torchvision()
    from rectified_flow_pytorch import RectifiedFlow

    height, width, channels = shape
    settings = {"dim": 32, "dim_mults": (1, 2, 4)} if tuned else {"dim": 64}
    flow = RectifiedFlow({**settings, "channels": channels})

    def loss(module: Any, images: Tensor) -> Tensor:
        found: Tensor = module((images + 1) / 2)
        return found

    def sample(module: Any, count: int) -> Tensor:
        found: Tensor = module.sample(
            batch_size=count, steps=MIDPOINT_TIMES, data_shape=(channels, height, width)
        )
        return found * 2 - 1

    def average(step: int) -> float:  # ema-pytorch: copies 100 steps, then averages at every tenth
        if step <= 100:
            return 0.0
        return 1.0 if step % 10 else min(0.9999, 1 - (step - 100) ** (-2 / 3))

    return Peer(
        module=flow,
        loss=loss,
        sample=sample,
        optimizer=torch.optim.Adam(flow.parameters(), 1e-3 if tuned else 3e-4),
        average=(lambda step: min(0.99, 1 - 1 / step)) if tuned else average,
        batch=32 if tuned else 16,
        clip=0.5,
    )


PEERS = {"diffusers": diffusers, "torchcfm": torchcfm, "rectified-flow": rectified_flow}


def stand_in_for_torchvision() -> None:
    """Let `import torchvision` succeed where no build of it loads beside this torch."""
    for name in ("torchvision", "torchvision.utils", "torchvision.models", "torchvision.transforms"):
        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["torchvision.utils"].save_image = None  # type: ignore[attr-defined]
    sys.modules["torchvision.models"].VGG16_Weights = types.SimpleNamespace(  # type: ignore[attr-defined]
        DEFAULT=None
    )


class Training:
    """The usual loop: clipped, with the peer's schedule and its moving average of the weights."""

    def __init__(self, peer: Peer, images: Tensor, flip: bool) -> None:
        self.peer, self.images, self.flip = peer, images, flip
        self.average = copy.deepcopy(peer.module).eval().requires_grad_(False)
        self.rates = [group["lr"] for group in peer.optimizer.param_groups]
        self.steps = 0

    def step(self, share: float) -> None:
        """Train on one random batch; share: of the budget that is used up, in [0, 1]."""
        peer = self.peer
        batch = self.images[torch.randint(len(self.images), (peer.batch,))]
        if self.flip:
            batch = torch.where((torch.rand(len(batch)) < 0.5)[:, None, None, None], batch.flip(2), batch)
        factor = min(1.0, (self.steps + 1) / peer.warmup) if peer.warmup else 1.0
        factor *= 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) if peer.cosine else 1.0
        for group, rate in zip(peer.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        peer.optimizer.zero_grad()
        peer.loss(peer.module, batch.permute(0, 3, 1, 2).float() / 127.5 - 1).backward()
        nn.utils.clip_grad_norm_(peer.module.parameters(), peer.clip)
        peer.optimizer.step()
        self.steps += 1
        decay = peer.average(self.steps)
        if decay < 1:
            own = zip(self.average.parameters(), peer.module.parameters(), strict=True)
            with torch.no_grad():
                for averaged, value in own:
                    averaged.lerp_(value, 1 - decay)


def quality(training: Training, minutes: float, budget: int | None, count: int, out: Path) -> None:
    """Train for `minutes`, or on `budget` images, then write samples and facts."""
    peer, begun = training.peer, time.perf_counter()
    peer.module.train()
    share, seen, elapsed = 0.0, 0, 0.0
    while share < 1:
        training.step(share)
        elapsed, seen = time.perf_counter() - begun, training.steps * peer.batch
        share = seen / budget if budget else elapsed / (60 * minutes)
    for value, averaged in zip(peer.module.buffers(), training.average.buffers(), strict=True):
        averaged.copy_(value)
    torch.manual_seed(1)
    begun = time.perf_counter()
    sizes = [min(SAMPLED_AT_ONCE, count - start) for start in range(0, count, SAMPLED_AT_ONCE)]
    with torch.no_grad():
        samples = torch.cat([peer.sample(training.average, size) for size in sizes])
    pixels = ((samples.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "samples.npy", pixels)
    facts = {
        "images": seen,
        "images_per_second": round(seen / elapsed, 1),
        "sampled_per_second": round(count / (time.perf_counter() - begun), 1),
        "parameters": parameters_of(peer.module),
    }
    (out / "facts.json").write_text(json.dumps(facts))


def speed(training: Training) -> None:
    """Work for as long as each line on standard input says."""
    peer = training.peer

    def train() -> int:
        training.step(0.0)
        return peer.batch

    def sample() -> int:
        with torch.no_grad():
            peer.sample(training.average, CHUNK)
        return CHUNK

    work = {"training": train, "sampling": sample}
    peer.module.train()
    for one in work.values():
        one()
    facts = {"training_gigaflops": gigaflops(training), "parameters": parameters_of(peer.module)}
    print("ready", json.dumps(facts), flush=True)
    for line in sys.stdin:
        kind, seconds = line.split()
        done, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < float(seconds):
            done += work[kind]()
        print(done / elapsed, flush=True)


def gigaflops(training: Training) -> float:
    """Of training on one image, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    peer = training.peer
    batch = training.images[: peer.batch].permute(0, 3, 1, 2).float() / 127.5 - 1
    with FlopCounterMode(display=False) as counter:
        peer.loss(peer.module, batch).backward()
    return float(round(counter.get_total_flops() / len(batch) / 1e9, 3))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peer_arguments.add(parser, PEERS, minutes=5.0)
    parser.add_argument("--speed", action="store_true", help="measure speed, as standard input requests it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images = np.load(arguments.images)
    peer = PEERS[arguments.name](images.shape[1:], arguments.tuned)
    training = Training(peer, torch.from_numpy(images), arguments.flip)
    if arguments.speed:
        speed(training)
    else:
        quality(training, arguments.minutes, arguments.budget, arguments.count, arguments.out)


if __name__ == "__main__":
    main()
