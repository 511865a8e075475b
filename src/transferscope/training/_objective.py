"""What fine-tuning minimises and measures, by the task of the data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from transferscope.datasets import Dataset


class Objective:
    """What is minimised and what is measured, by the task of the data set."""

    def __init__(self, dataset: Dataset) -> None:
        self.task, labels = dataset.require_labels()
        self.measure = {
            "classification": "accuracy",
            "regression": "r2",
            "multilabel": "mean_average_precision",
        }[self.task]
        targets = labels.reshape(len(dataset), -1)
        self.n_outputs = dataset.n_classes if self.task == "classification" else targets.shape[1]
        if self.task == "regression":
            self.mean = torch.from_numpy(targets.mean(axis=0)).float()
            self.spread = torch.from_numpy(np.maximum(targets.std(axis=0), 1e-12)).float()

    def targets(self, dataset: Dataset) -> Tensor:
        """Labels as the loss wants them."""
        labels = torch.from_numpy(dataset.require_labels()[1].copy())
        if self.task == "classification":
            return labels
        labels = labels.float().reshape(len(dataset), -1)
        return (labels - self.mean) / self.spread if self.task == "regression" else labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch."""
        if self.task == "classification":
            return functional.cross_entropy(outputs, targets)
        if self.task == "regression":
            return functional.mse_loss(outputs, targets)
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def gradient_norms(self, outputs: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
        """Length of each sample's gradient of the loss in its features, in closed form."""
        if self.task == "classification":
            error = outputs.softmax(dim=1) - functional.one_hot(targets, outputs.shape[1])
        elif self.task == "regression":
            error = 2 * (outputs - targets) / outputs.shape[1]
        else:
            error = (outputs.sigmoid() - targets) / outputs.shape[1]
        norms: Tensor = (error @ head.weight).norm(dim=1)
        return norms

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What each sample adds to the accuracy or to R²: their mean is `value`.

        A mean average precision is no such mean.
        """
        if self.task == "classification":
            return (outputs.argmax(dim=1) == targets).double()
        residual = (outputs - targets).double().square()
        total = (targets - targets.mean(dim=0)).double().square().mean(dim=0).clamp_min(1e-12)
        return 1 - (residual / total).mean(dim=1)

    def value(self, outputs: Tensor, targets: Tensor) -> float:
        """Accuracy, R² (mean over outputs) or mean average precision; higher is better."""
        if self.task == "classification":
            return float((outputs.argmax(dim=1) == targets).double().mean())
        if self.task == "regression":
            residual = (outputs - targets).double().square().sum(dim=0)
            total = (targets - targets.mean(dim=0)).double().square().sum(dim=0)
            return float((1 - residual / total.clamp_min(1e-12)).mean())
        from sklearn.metrics import average_precision_score

        occurring = (targets.sum(dim=0) > 0).numpy()
        truth, scores = targets.numpy()[:, occurring], outputs.numpy()[:, occurring]
        return float(average_precision_score(truth, scores, average="macro"))
