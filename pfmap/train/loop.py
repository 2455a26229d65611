"""The training loop: steps, averaged weights, validation, checkpoints, and the finished model folder."""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pfmap.ahead import read_ahead
from pfmap.engine.store import Model, write_model
from pfmap.engine.weights import load_imagenet_lite0
from pfmap.errors import TrainingError
from pfmap.files import publish
from pfmap.net.layers import resize
from pfmap.net.losses import contours, edge_loss, overlap_loss, set_cross_entropy
from pfmap.net.pfnet import PFNet
from pfmap.train.augment import Batch, Batches
from pfmap.train.config import TrainingConfig, TrainingSettings
from pfmap.train.data import TrainingData, load_data
from pfmap.train.start import take_over
from pfmap.train.validate import Figures, Validation, accuracy_table, measure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """One training step, for whoever shows progress.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: smoothed total loss.
        rate: the decoder's learning rate.
    """

    step: int
    steps: int
    loss: float
    rate: float


def train(
    config: TrainingConfig,
    data_folder: Path,
    output: Path,
    *,
    device: str = "cpu",
    start_from: Model | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda _progress: None,
    on_validation: Callable[[int, Validation], None] = lambda _step, _figures: None,
) -> Validation:
    """Train a PFNet and write it as a model folder.

    Args:
        config: the training configuration.
        data_folder: what its paths are relative to.
        output: the model folder to write; a `checkpoint.pt` lies there until the end.
        device: torch device.
        start_from: a trained model whose weights are taken over, as far as they fit.
        resume: go on from the checkpoint in `output`.
        on_step: called after every step.
        on_validation: called after every validation, with the step.

    Returns:
        The validation figures of the weights that were written: the best seen.

    Raises:
        TrainingError: data, settings or checkpoint do not fit.
    """
    run = _Run(config, data_folder, output, torch.device(device), start_from)
    if resume:
        run.load_checkpoint()
    settings = config.training
    checkpoint_at = validated_at = time.monotonic()
    with closing(run.batches()) as batches:
        for images, labels, annotated in batches:
            progress = run.step(images, labels, annotated)
            on_step(progress)
            if not math.isfinite(progress.loss):
                raise TrainingError(
                    f"the loss is {progress.loss} at step {run.done}: lower the learning rates"
                )
            now = time.monotonic()
            if now - validated_at > settings.validate_minutes * 60 and run.done < settings.steps:
                on_validation(run.done, run.validate())
                validated_at = time.monotonic()
            if now - checkpoint_at > settings.checkpoint_minutes * 60:
                run.save_checkpoint()
                checkpoint_at = time.monotonic()
    on_validation(run.done, run.validate())
    return run.finish()


class _Run:
    """The state of one training: network, average, optimiser, step."""

    def __init__(
        self,
        config: TrainingConfig,
        data_folder: Path,
        output: Path,
        device: torch.device,
        start_from: Model | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.output = output
        self.checkpoint = output / "checkpoint.pt"
        output.mkdir(parents=True, exist_ok=True)
        settings = config.training
        torch.manual_seed(settings.seed)
        self.network = PFNet(config.card.architecture)
        self.network.factored = True
        if start_from is not None:
            take_over(self.network, config.card, start_from)
        elif settings.encoder_weights:
            if config.card.architecture.encoder != "efficientnet_lite0":
                raise TrainingError("encoder_weights are read for efficientnet_lite0 only, so far")
            load_imagenet_lite0(self.network.encoder, data_folder / settings.encoder_weights)
        self.data: TrainingData = load_data(config, data_folder)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        encoder = list(self.network.encoder.parameters())
        rest = [p for n, p in self.network.named_parameters() if not n.startswith("encoder.")]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": encoder, "lr": settings.encoder_rate},
                {"params": rest, "lr": settings.decoder_rate},
            ],
            weight_decay=settings.weight_decay,
        )
        self.rates = (settings.encoder_rate, settings.decoder_rate)
        self.sets = torch.from_numpy(self.data.sets.table()).to(device)
        self.weights = torch.from_numpy(self.data.sets.weights()).to(device)
        self.done = 0
        self.loss = float("nan")
        self.best: tuple[float, Validation, dict[str, Tensor]] | None = None

    def batches(self) -> Generator[Batch, None, None]:
        """Give the batches that are left, prepared ahead in a thread."""
        batches = Batches(self.data, self.config.training, self.config.card.input)
        left = range(self.done, self.config.training.steps)
        return read_ahead((batches[step] for step in left), depth=4)

    def step(self, images: Tensor, labels: Tensor, annotated: Tensor) -> Progress:
        """Take one optimiser step."""
        settings = self.config.training
        factor = learning_rate(self.done, settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.network.train()
        # Dropout depends on seed and step alone, so that a resumed run drops what an uninterrupted one would.
        torch.manual_seed(settings.seed * 1_000_003 + self.done)
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        labels, annotated = labels.to(self.device), annotated.to(self.device)
        low_precision = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low_precision):
            output = self.network.compute(images)
        logits = resize(output.logits.float(), images.shape[-2:])
        loss = set_cross_entropy(logits, labels, self.sets, self.weights)
        if settings.overlap_weight:
            loss = loss + settings.overlap_weight * overlap_loss(logits, labels, self.sets, self.weights)
        target, known = contours(annotated, self.sets)
        for edges in output.edges:
            loss = loss + settings.edge_weight * edge_loss(edges, target, known)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.done += 1
        self._update_average()
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * value
        return Progress(self.done, settings.steps, self.loss, self.rates[1] * factor)

    def _update_average(self) -> None:
        decay = min(self.config.training.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def validate(self) -> Validation:
        """Measure the averaged weights on what was held out, and remember them if they are the best."""
        figures = measure(self.average, self.data, self.config.card, self.device)
        score = float(np.mean([f.mean_iou for f in figures.values()])) if figures else -self.loss
        if self.best is None or score > self.best[0]:
            state = {key: value.cpu().clone() for key, value in self.average.state_dict().items()}
            self.best = (score, figures, state)
        return figures

    def save_checkpoint(self) -> None:
        """Write all that a resumed run needs, under a temporary name first."""
        part = self.checkpoint.with_name(f".{self.checkpoint.name}.part")
        best = None
        if self.best is not None:
            score, figures, weights = self.best
            best = (score, {k: dataclasses.asdict(v) for k, v in figures.items()}, weights)
        torch.save(
            {
                "done": self.done,
                "loss": self.loss,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": best,
            },
            part,
        )
        publish(part, self.checkpoint)

    def load_checkpoint(self) -> None:
        """Go back to where the checkpoint was written.

        Raises:
            TrainingError: there is none, or it is of another network.
        """
        if not self.checkpoint.is_file():
            raise TrainingError(f"{self.checkpoint} is missing: there is nothing to resume")
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(f"{self.checkpoint} is not of this configuration: {error}") from error
        self.done, self.loss = state["done"], state["loss"]
        if state["best"] is not None:
            score, figures, weights = state["best"]
            self.best = (score, {k: Figures(**v) for k, v in figures.items()}, weights)

    def finish(self) -> Validation:
        """Write the best averaged weights and their card, and take the checkpoint away."""
        assert self.best is not None
        _, figures, weights = self.best
        self.average.load_state_dict(weights)
        card = dataclasses.replace(self.config.card, accuracy=accuracy_table(figures))
        write_model(self.output, card, self.average)
        self.checkpoint.unlink(missing_ok=True)
        return figures


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate: linear warm-up, then half a cosine to almost zero."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
