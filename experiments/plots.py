"""Figures of features and of a training."""
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA


def _plane(embedding, centers):
    """(features, centers, suffix of the title) in two dimensions."""
    size = embedding.shape[1]
    if size == 2:
        return embedding, centers, ''
    if size == 1:
        return (np.hstack([embedding, np.zeros_like(embedding)]),
                np.hstack([centers, np.zeros_like(centers)]), '')
    pca = PCA(2, svd_solver='full').fit(embedding)
    return (pca.transform(embedding), pca.transform(centers),
            ' (first 2 principal components of %d)' % size)


def draw_embedding(axes, title, evaluation):
    """Draw features, one colour per class, and the centers, as in figure 2 of the paper."""
    features, centers, projected = _plane(evaluation.embedding, evaluation.centers)
    classes = len(centers)
    colours = matplotlib.colormaps['tab10' if classes <= 10 else 'turbo']
    for label, center in enumerate(centers):
        colour = colours(label if classes <= 10 else label / (classes - 1))
        mine = features[evaluation.labels == label]
        axes.scatter(*mine.T, s=6, alpha=0.6, linewidths=0, color=colour, label=str(label))
        axes.plot(*center, marker='o', markersize=11, color='white', markeredgecolor=colour,
                  markeredgewidth=1.5)
        axes.annotate(str(label), center, ha='center', va='center', fontsize=8)
    axes.set_title(title + projected)
    axes.set_aspect('equal', adjustable='datalim')
    axes.grid(alpha=0.2)


def _legend(axes):
    axes.legend(title='class', loc='center left', bbox_to_anchor=(1, 0.5), markerscale=3,
                frameon=False)


def embedding_figure(evaluations):
    """The features of several runs, {title: evaluation}, side by side.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6.4 * len(evaluations), 6), layout='constrained')
    columns = figure.subplots(1, len(evaluations), squeeze=False)[0]
    for axes, (title, evaluation) in zip(columns, evaluations.items()):
        draw_embedding(axes, title, evaluation)
    _legend(columns[-1])
    return figure


def curves_figure(rows):
    """Losses, accuracies and the learning rate by epoch.

    Parameters
    ----------
    rows : list of dict
        The rows of history.csv.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(14, 4), layout='constrained')
    panels = {'loss': ('loss', 'softmax_loss', 'center_loss'),
              'accuracy': ('accuracy', 'test_accuracy'), 'learning rate': ('learning_rate',)}
    epochs = [row['epoch'] for row in rows]
    for axes, (title, columns) in zip(figure.subplots(1, len(panels)), panels.items()):
        for column in columns:
            axes.plot(epochs, [row[column] for row in rows], label=column.replace('_', ' '),
                      marker='.' if len(rows) < 30 else None)
        axes.set(title=title, xlabel='epoch')
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)
    return figure


def png(figure):
    """A figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=100)
    return content.getvalue()
