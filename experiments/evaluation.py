"""The metrics of a test set."""
from typing import NamedTuple

from center_loss_op import nearest_center  # before mxnet, for newer NumPys

import mxnet as mx
import numpy as np
from sklearn.metrics import pairwise_distances


class Evaluation(NamedTuple):
    """The features of a set, (N, d), its labels, (N,), the centers, (C, d), and {metric: value}."""
    embedding: np.ndarray
    labels: np.ndarray
    centers: np.ndarray
    metrics: dict


def evaluate(embedding, scores, labels, centers):
    """The Evaluation of a set of features, with these metrics.

    - accuracy: share of the samples whose label has the highest score
    - nearest_center_accuracy: share of the samples whose nearest center (Euclidean) belongs to
      their label
    - intra_class_distance: root of the mean squared distance between a feature and its class mean
    - inter_class_distance: smallest distance between two class means
    - compactness: intra_class_distance / inter_class_distance, so smaller is better; None if two
      class means are equal

    Parameters
    ----------
    embedding : numpy.ndarray, (N, d)
    scores : numpy.ndarray, (N, C)
    labels : numpy.ndarray, (N,)
    centers : numpy.ndarray, (C, d)
    """
    features = embedding.astype(np.float64)
    classes, of_sample = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == label].mean(axis=0) for label in classes])
    intra = float(np.sqrt(((features - means[of_sample]) ** 2).sum(axis=1).mean()))
    between = pairwise_distances(means)
    inter = float(between[np.triu_indices(len(classes), k=1)].min())
    nearest, _ = nearest_center(mx.nd.array(features, dtype=np.float64),
                                mx.nd.array(centers, dtype=np.float64))
    return Evaluation(embedding, labels, centers, {
        'accuracy': float((scores.argmax(axis=1) == labels).mean()),
        'nearest_center_accuracy': float((nearest.asnumpy() == labels).mean()),
        'intra_class_distance': intra,
        'inter_class_distance': inter,
        'compactness': intra / inter if inter else None,
    })


def table(rows):
    """Metrics of several runs, {title: metrics}, as text: one line per metric, a column per run."""
    lines = [['', *rows]]
    for metric in next(iter(rows.values())):
        values = [metrics[metric] for metrics in rows.values()]
        lines.append([metric, *('-' if value is None else '%.4g' % value for value in values)])
    return aligned(lines)


def aligned(lines):
    """Rows of cells as a text: the first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('  '.join([line[0].ljust(widths[0]),
                                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
                     for line in lines)
