"""ECGs of which beat, rate and latents are known, in four seconds at 100 Hz."""

import torch
from tiny import CNN
from torch import Tensor

RATE_HZ = 100
SAMPLES = 400
NETWORK = {
    **CNN,
    "settings": {"widths": [16, 32], "blocks": 1, "kernel": 7, "dropout": 0.0},
    "shape": {"leads": 12, "samples": SAMPLES},
}
S4 = {
    "_target_": "lightning_modules.networks.s4.S4D",
    "settings": {"width": 16, "layers": 2, "states": 4, "dropout": 0.0, "stride": 4},
    "shape": {"leads": 12, "samples": SAMPLES},
}
XRESNET = {
    "_target_": "lightning_modules.networks.xresnet1d.XResNet1d",
    "settings": {"blocks": [1, 1], "width": 8, "kernel": 5, "hidden": 8, "dropout": 0.0},
    "shape": {"leads": 12, "samples": SAMPLES},
}
STEM = {
    "_target_": "lightning_modules.networks.vit.ViT",
    "settings": {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tokens": {"_target_": "lightning_modules.networks.tokens.StemTokens", "strides": [5, 2]},
        "pooling": "mean",
        "drop_path": 0.0,
    },
    "shape": {"leads": 12, "samples": SAMPLES},
}
SHARED = {
    "reads": "ecg",
    "base_learning_rate": 0.016,
    "effective_batch": 32,
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
    "warmup_fraction": 0.1,
    "seed": 3,
}


def simulated(exams: int = 96, uneven: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """ECGs (exams, 12, 400), their beats without noise (exams, 12, 80) from 0.3 s before the R
    wave to 0.5 s after it, and the samples from one beat to the next (exams,).

    QRS, T and P wave of each exam have their own sizes; leads mix three directions. Each beat comes
    up to `uneven` samples earlier or later than that.
    """
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(-30, 50) / RATE_HZ
    waves = torch.stack(
        [
            torch.exp(-(((time - at) / width) ** 2))
            for at, width in ((0, 0.02), (0.25, 0.06), (-0.16, 0.03))
        ]
    )
    directions = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))
    directions[:, 0] = directions[:, 0].abs() + 1  # every lead sees the R wave best
    sizes = torch.rand(exams, 3, generator=generator) * torch.tensor([2.0, 0.8, 0.4]) + 0.3
    sizes[:, 0] += 1
    beat = torch.einsum("lk,bk,kt->blt", directions, sizes, waves)
    every = torch.randint(60, 120, (exams,), generator=generator)
    ecg = 0.05 * torch.randn(exams, 12, SAMPLES, generator=generator)
    time = torch.arange(-30, 50)
    for exam in range(exams):
        peak = -int(torch.randint(30, 30 + int(every[exam]), (1,), generator=generator))
        while peak < SAMPLES + 30:
            place = peak + time
            inside = (place >= 0) & (place < SAMPLES)
            ecg[exam, :, place[inside]] += beat[exam][:, inside]
            peak += int(every[exam]) + int(
                torch.randint(-uneven, uneven + 1, (1,), generator=generator)
            )
    return ecg, beat, every
