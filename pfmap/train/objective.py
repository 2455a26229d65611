"""The network together with its loss: what one training step differentiates."""

import torch
from torch import Tensor, nn

from pfmap.net.layers import resize
from pfmap.net.losses import contours, edge_loss, overlap_loss, set_cross_entropy
from pfmap.net.pfnet import PFNet
from pfmap.train.config import TrainingSettings


class Objective(nn.Module):
    """Segmentation loss, and one contour loss per PointFlow module (paper section 3.3).

    One module, so that several devices can share a step through torch's own data parallelism.

    Args:
        network: what is trained.
        sets: ``(S, classes)`` bool: which classes each label allows.
        weights: ``(S,)`` weight of a pixel with that label.
        settings: the losses' weights.
        precision: type of the network's heavy arithmetic; losses are float32.
    """

    def __init__(
        self,
        network: PFNet,
        sets: Tensor,
        weights: Tensor,
        settings: TrainingSettings,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.precision = precision
        # Constants, not state: a checkpoint has no use for them.
        self.register_buffer("sets", sets, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, annotated: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            images: ``(B, 3, H, W)``, normalised.
            labels: ``(B, H, W)`` indices into the label sets.
            annotated: the same without colour rules: its contours are real ones.
        """
        settings = self.settings
        low = self.precision != torch.float32
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            output = self.network.compute(images)
        sets, weights = self.get_buffer("sets"), self.get_buffer("weights")
        logits = resize(output.logits.float(), images.shape[-2:])
        loss = set_cross_entropy(
            logits, labels, sets, weights, settings.hard_pixels, settings.hard_probability
        )
        if settings.overlap_weight:
            loss = loss + settings.overlap_weight * overlap_loss(logits, labels, sets, weights)
        if output.edges:
            target, known = contours(annotated, sets)
            for edges in output.edges:
                loss = loss + settings.edge_weight * edge_loss(edges, target, known)
        return loss
