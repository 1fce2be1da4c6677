"""The interface between a step and the arithmetic that it runs in."""
from abc import ABC, abstractmethod

__all__ = ['Backend']


class Backend(ABC):
    """The arithmetic of a step on one kind of array: NumPy arrays (`Host`), NDArrays (`Device`).

    In the shapes, N is the number of samples, M of which count (are not ignored), d the number of
    features, C the number of classes. Features and their gradient are float16, float32 or float64;
    everything else is in the dtype of the centers: float64 for float64 features, else float32.
    """

    @abstractmethod
    def memory_view(self, shape, dtype):
        """A function that turns an NDArray of this shape and dtype into an array of the backend.

        Both share their memory. The function is called whenever MXNet hands over the array.
        """

    @abstractmethod
    def labels(self, label):
        """Labels, an array of the backend, as a NumPy array of the same shape."""

    @abstractmethod
    def difference(self, data, centers, batch, reuse=None):
        """x_i − c_{y_i}, and 0 where a sample does not count.

        Parameters
        ----------
        data, centers : arrays of the backend
            (N, d) and (C, d).
        batch : Batch
            The checked labels.
        reuse : object or None
            What an earlier call returned, whose memory may be overwritten.

        Returns
        -------
        object
            With the differences in its attribute `array`, (N, d).
        """

    @abstractmethod
    def half_squares(self, difference):
        """The losses l_i = ½ ‖x_i − c_{y_i}‖², (N,), of what `difference` returned.

        A loss must not be finite where a feature is not, or where a square overflows:
        `surely_finite` relies on that. A loss that hides a NaN would let it into the centers.
        """

    @abstractmethod
    def total(self, losses):
        """The sum of the losses: a number of NumPy, or an NDArray of shape (1,)."""

    @abstractmethod
    def surely_finite(self, total):
        """Whether all features that count are finite, as far as the sum of the losses tells.

        A cheap test. If it returns False, `finite_rows` has to look at the features.
        """

    @abstractmethod
    def finite_rows(self, data, dtype):
        """Which samples hold finite features only.

        Parameters
        ----------
        data : array of the backend
            (N, d).
        dtype : numpy dtype
            That of the centers.

        Returns
        -------
        array of the backend
            In the form that `move` takes: bool (N,) of NumPy, or 1 and 0 in an NDArray (N, 1).
        """

    @abstractmethod
    def samples(self, data, batch, dtype):
        """A copy of the samples that count: features (M, d) in `dtype`, and classes (M,), NumPy."""

    @abstractmethod
    def store(self, out, req, value, factor=1):
        """out ← factor · value, or out ← out + factor · value for `req` 'add'.

        The product is cast to the dtype of `out` last: ½‖x‖² may overflow float16 where λ · ½‖x‖²
        does not.
        """

    @abstractmethod
    def store_gradient(self, grad, req, difference, scale, head_gradient):
        """grad ← scale · g_i · (x_i − c_{y_i}), or added to it for `req` 'add'.

        Parameters
        ----------
        grad : array of the backend
            (N, d); the result is cast to its dtype.
        difference : object
            What `difference` returned.
        scale : float
            λ · r.
        head_gradient : array of the backend or None
            g, the gradient of the output: (1,) or (N,); None for 1.
        """

    @abstractmethod
    def move(self, centers, difference, batch, finite, alpha):
        """Equation 4: c_j ← c_j + α Σ_{i: y_i=j} (x_i − c_j) / (1 + n_j), in place.

        A center whose new value is not finite stays.

        Parameters
        ----------
        centers : array of the backend
            (C, d).
        finite : array of the backend or None
            What `finite_rows` returned: other samples do not count. None: all are finite.
        """

    @abstractmethod
    def update(self, centers, buffer, rows, batch, alpha):
        """`move` for gathered samples, on centers that no other thread uses.

        Parameters
        ----------
        centers : NDArray
            (C, d).
        buffer : NDArray
            (slots, 1 + room, d + 1): rows of d features and a label.
        rows : numpy.ndarray of intp
            Which rows are samples, with the first two axes as one.
        batch : Batch
            Their labels.
        """
