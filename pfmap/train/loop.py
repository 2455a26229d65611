"""The training loop: steps, averaged weights, validation, checkpoints, and the finished model folder."""

import copy
import io
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pfmap.core.errors import TargetError, TrainingError, reason, refuse_without, saying
from pfmap.core.files import write_bytes, write_text
from pfmap.core.stages import read_ahead
from pfmap.mapping.runtime import choose_device
from pfmap.model.checkpoint import AGAIN, read_data
from pfmap.model.store import CARD_NAME, Model, load_model, write_model
from pfmap.report.curves import LOSS, RATE, Row, write_curves
from pfmap.report.html import render
from pfmap.train.augment import Batch, Batches
from pfmap.train.config import TrainingConfig
from pfmap.train.data import load_data
from pfmap.train.optimise import Objective, freeze, learning_rate, make_optimizer, refuse_diverged
from pfmap.train.start import Team, first_network, gather, refuse_without_disk, refuse_without_memory
from pfmap.train.validate import Figures, Validation, accuracy_table, calibrate, measure, predictor_of

CHECKPOINT_NAME = "checkpoint.pt"
_POINTS = 500  # of a curve
_LONGEST = 5.0  # norm of a gradient


@dataclass(frozen=True, slots=True)
class Progress:
    """One training step, for whoever shows progress."""

    step: int
    loss: float
    """Smoothed total loss."""
    rate: float
    """The decoder's learning rate."""


def train(
    config: TrainingConfig,
    data_folder: Path,
    output: Path,
    *,
    device: str = "cpu",
    start_from: Model | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[Progress], None] = lambda _progress: None,
    on_validation: Callable[[int, Validation], None] = lambda _step, _figures: None,
    on_message: Callable[[str], None] = lambda _text: None,
) -> Validation:
    """Train a PFNet and write it as a model folder, with its curves and a page about it.

    Started by `torchrun`, all processes share each batch: the result is that of one process, apart from
    rounding and from batch norm, whose statistics each process takes of its own crops.

    Args:
        config: the training configuration.
        data_folder: what its paths are relative to.
        output: the model folder to write; a `checkpoint.pt` lies there until the end.
        device: torch device, or "auto".
        start_from: a trained model whose weights are taken over, as far as they fit: by name or folder, or
            loaded; None for the one that the configuration names, if it does.
        resume: go on from the checkpoint in `output`.
        overwrite: replace the model or checkpoint that is there.
        on_step: called after every step, in the process that leads.
        on_validation: called after every validation, with the step; 0 is before the first, of what the model
            that it starts from makes of what is held out.
        on_message: called with lines for people about the labels, in the process that leads.

    Returns:
        The validation figures of the weights that were written: the best seen.

    Raises:
        TrainingError: data, settings or checkpoint do not fit, or `output` is taken.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    start = start_from or config.training.start_from or None
    with gather(str(choose_device(device))) as team:
        model = load_model(start) if isinstance(start, str) else start
        say = on_message if team.leads else lambda _text: None
        run = _Run(config, data_folder, output, team, model, say)
        if model is not None and team.leads:
            on_validation(0, measure(run.average, run.data, config.card, run.device))
        team.wait()
        if resume:
            run.load_checkpoint()
        checkpoint_at = time.monotonic()
        with closing(run.batches()) as batches:
            for images, labels, annotated in batches:
                progress = run.step(images, labels, annotated)
                if team.leads:
                    on_step(progress)
                if run.validation_is_due():
                    if team.leads:
                        on_validation(run.done, run.validate())
                    team.wait()
                if team.leads and time.monotonic() - checkpoint_at > 60 * config.training.checkpoint_minutes:
                    run.save_checkpoint()
                    checkpoint_at = time.monotonic()
        return run.finish() if team.leads else {}


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to replace a finished model or hours of training unasked.

    Raises:
        TrainingError: there is something, or nothing to resume.
    """
    checkpoint = output / CHECKPOINT_NAME
    if resume and not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} is missing: there is nothing to resume")
    if resume or overwrite:
        return
    if checkpoint.is_file():
        raise TrainingError(
            f"{output} holds the checkpoint of an unfinished training: go on with resume=True, or start "
            "anew with overwrite=True"
        )
    if (output / CARD_NAME).is_file():
        raise TrainingError(
            f"{output} holds a model: choose another folder, or replace it with overwrite=True"
        )


class _Run:
    """The state of one training: network, average, optimiser, step."""

    def __init__(
        self,
        config: TrainingConfig,
        data_folder: Path,
        output: Path,
        team: Team,
        start_from: Model | None,
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.team = team
        self.device = team.device
        self.output = output
        self.checkpoint = output / CHECKPOINT_NAME
        settings = config.training
        self.data = load_data(config, data_folder)
        for note in self.data.notes:
            say(note)
        self.share = team.share(refuse_without_memory(config))
        self.network = first_network(config, data_folder, start_from).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        self.frozen = freeze(self.network, settings.trained, norms=settings.keep_norms)
        self.optimizer = make_optimizer(self.network, settings)
        sets = self.data.sets
        table, weights, contacts = map(torch.from_numpy, (sets.table(), sets.weights(), sets.contacts()))
        objective = Objective(self.network, table, weights, contacts, settings)
        self.objective = team.wrap(objective.to(self.device))
        refuse_without("matplotlib", "train", "training draws its curves with")
        self.curves: list[Row] = []
        self.done = 0
        self.loss = float("nan")
        self.best: tuple[float, Validation, dict[str, Tensor]] | None = None
        refuse_without_disk(self.checkpoint, self.network, settings)

    def batches(self) -> Generator[Batch, None, None]:
        """Give the batches that are left, prepared ahead in a thread."""
        batches = Batches(self.data, self.config, self.share)
        left = range(self.done, self.config.training.steps)
        return read_ahead((batches[step] for step in left), depth=4, name="batches")

    def step(self, images: Tensor, labels: Tensor, annotated: Tensor) -> Progress:
        """Take one optimiser step; a `TrainingError` says that the loss is no number."""
        settings = self.config.training
        factor = learning_rate(self.done, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.objective.train()
        for part in self.frozen:
            part.eval()
        # Dropout depends on seed and step alone, so that a resumed run drops what an uninterrupted one would.
        torch.manual_seed((settings.seed * 1_000_003 + self.done) * 1009 + self.team.rank)
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        loss = self.objective(images, labels.to(self.device), annotated.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.optimizer == "adamw":  # the paper's recipe does not clip
            nn.utils.clip_grad_norm_(self.network.parameters(), _LONGEST)
        self.optimizer.step()
        self.done += 1
        self._update_average()
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * value
        rate = settings.decoder_rate * factor
        if self.done % max(1, settings.steps // _POINTS) == 0 or self.done == settings.steps:
            self.curves += [(self.done, LOSS, self.loss), (self.done, RATE, rate)]
        if not math.isfinite(self.loss):
            raise TrainingError(f"the loss is {self.loss} at step {self.done}: lower the learning rates")
        return Progress(self.done, self.loss, rate)

    def _update_average(self) -> None:
        decay = min(self.config.training.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            states = self.average.state_dict().values(), self.network.state_dict().values()
            for mean, value in zip(*states, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def validation_is_due(self) -> bool:
        """Say whether this step is one of those after which the weights are measured; the last one is."""
        settings = self.config.training
        every = max(1, settings.steps // settings.validations)
        return self.done == settings.steps or (self.done % every == 0 and settings.steps - self.done >= every)

    def validate(self) -> Validation:
        """Measure the averaged weights on what was held out, and remember them if they are the best."""
        refuse_diverged(self.average, self.done, self.checkpoint)
        figures = measure(self.average, self.data, self.config.card, self.device)
        every = figures.items()
        measured = [(name, one.mean_iou) for name, one in every]
        measured += [(f"{name} contact", one.contact) for name, one in every if one.contact is not None]
        self.curves += [(self.done, series, value) for series, value in measured]
        score = float(np.mean([value for _, value in measured])) if measured else math.nan
        if math.isnan(score):  # nothing was held out, or nothing of it is sure
            score = -self.loss
        if self.best is None or score > self.best[0]:
            state = {key: value.cpu().clone() for key, value in self.average.state_dict().items()}
            self.best = (score, figures, state)
        return figures

    def save_checkpoint(self) -> None:
        """Write all that a resumed run needs, under a temporary name first; never weights that are none."""
        refuse_diverged(self.average, self.done, self.checkpoint)
        best = None
        if self.best is not None:
            score, figures, weights = self.best
            best = (score, {k: asdict(v) for k, v in figures.items()}, weights)
        content = io.BytesIO()  # what the disk has against it, torch would not say
        torch.save(
            {
                "done": self.done,
                "loss": self.loss,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": best,
                "curves": self.curves,
            },
            content,
        )
        write_bytes(self.checkpoint, content.getvalue())

    def load_checkpoint(self) -> None:
        """Go back to where the checkpoint was written.

        Raises:
            TrainingError: it cannot be read, is of another network, or of one that diverged.
        """
        try:
            state = read_data(self.checkpoint)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done, self.loss = state["done"], state["loss"]
            self.curves = state["curves"]
            if state["best"] is not None:
                score, figures, weights = state["best"]
                self.best = (score, {k: Figures(**v) for k, v in figures.items()}, weights)
        except Exception as error:  # whatever is wrong in there, the file is refused
            raise TrainingError(
                f"{self.checkpoint} is damaged, or not of this configuration "
                f"({reason(error).removesuffix(f': {AGAIN}')}): start anew with overwrite=True"
            ) from error
        refuse_diverged(self.average, self.done, self.checkpoint)

    def finish(self) -> Validation:
        """Write the best averaged weights, their card and the curves, and take the checkpoint away."""
        assert self.best is not None
        _, figures, weights = self.best
        self.average.load_state_dict(weights)
        card = self.config.card
        if self.data.notes:
            about = f"{card.provenance.data}; of its labels: {'; '.join(self.data.notes)}"
            card = replace(card, provenance=replace(card.provenance, data=about))
        card = replace(card, learned=self.data.learned(self.config.training.scale))
        fitted = calibrate(predictor_of(self.average, card, self.device), self.data)
        temperature = fitted.temperature if fitted else 1.0
        card = replace(card, accuracy=accuracy_table(figures, fitted), temperature=temperature)
        write_model(self.output, card, self.average)
        write_curves(self.curves, self.output)
        page = render("model.md.jinja", card=card, figures=figures, fitted=fitted)
        write_text(self.output / "README.md", page)
        what = f"the model is written, but {self.checkpoint} cannot be deleted"
        with saying(what, TargetError, remedy="delete it"):
            self.checkpoint.unlink(missing_ok=True)
        return figures
