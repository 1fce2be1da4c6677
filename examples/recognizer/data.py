"""Pictures of classes: from a folder, a .rec or an .npz file to arrays at the size of a network."""

# The names of picture files. A file that a command line names may have any name.
SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.png', '.ppm', '.pgm', '.pbm', '.bmp', '.gif', '.tif',
            '.tiff', '.webp', '.heic', '.heif', '.avif')


class DataError(Exception):
    """Data that cannot be used, as one line for the user."""


class BadPicture(Exception):
    """A file that gives no picture; the text is the reason, one line."""


def read_picture(file, size, channels):
    """The picture that a viewer shows, covering `size` and cut to it from the middle.

    Parameters
    ----------
    file : str, or binary file
    size : (int, int)
        Height and width.
    channels : int
        1 is grey, 3 is RGB.

    Returns
    -------
    numpy.ndarray (height, width, channels), uint8

    Raises
    ------
    BadPicture
    """
    raise NotImplementedError


def walk(folder):
    """Yield the paths of the picture files in a folder and below it, sorted, each file once.

    Links are followed, but no file or folder is visited twice. Hidden files, and what is no regular
    file, are passed over.
    """
    raise NotImplementedError
